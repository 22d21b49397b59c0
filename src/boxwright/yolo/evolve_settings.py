"""The settings of `boxwright evolve`: those of every trial, which is a normal training run, and those of the search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from boxwright.yolo.settings import RunConfig

# Workers of one study may differ in these: where files lie and what computes. All others are the study's own.
OF_A_WORKER = (
    *("project", "name", "exist_ok", "study", "generations"),
    *("data", "weights", "workers", "device", "nproc", "cache"),
)
OF_THE_SEARCH = ("generations", "study", "sampler", "parents", "space", "prune")  # a trial has no such settings


class EvolveConfig(RunConfig):
    """Settings of a hyper-parameter search. As published, a trial is validated at its end and draws nothing."""

    generations: Annotated[int, Field(ge=1)] = 300  # finished trials at which the search ends
    study: str = ""  # go on with, join or begin this one: folder below project, or URL of a database; empty: a new one
    sampler: Literal["published", "tpe", "cmaes"] = "published"  # how the next hyper-parameters are chosen
    parents: Literal["single", "weighted"] = "single"  # published sampler: one of the best by weight, or their mean
    space: str = ""  # yaml of hyper-parameters and their limits; empty: as published
    prune: Literal["", "median", "percentile"] = ""  # end hopeless trials early; then each epoch is validated
    noval: bool = True
    noplots: bool = True
    nosave: bool = True  # keep the weights of the best trial only
    project: str = "runs/evolve"


def validates(config: EvolveConfig) -> bool:
    """Trials are validated after every epoch: as asked for, or because something looks at the result."""
    asked = "noval" in config.model_fields_set
    needed = bool(config.prune) or config.image_weights or config.optim.schedule == "plateau"
    return not config.noval or (needed and not asked)
