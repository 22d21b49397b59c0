"""Settings: the base class of every group, the types of values, and what any training run has. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]

Compat = Literal["faithful", "fixed"]  # faithful: defects that published weights were trained with are kept
_RELEASE_SPELLINGS = {"v5": "v7.0", "yolov3-spp": "v3"}  # of older settings and checkpoints


def _release(value: Any) -> Any:
    """Read the older names of releases."""
    return _RELEASE_SPELLINGS.get(value, value) if isinstance(value, str) else value


ReleaseName = Literal["", "v7.0", "v6.2", "v6.1", "v6.0", "v5.0", "v4.0", "v3.1", "v3.0", "v2.0", "v1.0", "v3"]
Release = Annotated[ReleaseName, BeforeValidator(_release)]  # a published YOLOv5, or v3: YOLOv3-SPP; empty: none is set
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["", "linear", "cosine", "step", "multi-step", "exponential", "plateau", "one-cycle"]


def as_numbers(value: Any) -> Any:
    """Read `10`, `"0,1,2"` and `["0", "1,2"]` as lists, as flags and yaml files write them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return (value,)
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list | tuple) and any(isinstance(word, str) for word in words):
        return tuple(part for word in words for part in str(word).replace(",", " ").split())
    return words


Numbers = Annotated[tuple[int, ...], BeforeValidator(as_numbers)]
Milestones = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_numbers)]


def _paths(value: Any) -> Any:
    """Read one path as a list of one; an empty one is none at all."""
    paths = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    return tuple(str(path) if isinstance(path, PurePath) else path for path in paths if path != "")


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]


def _train_batch(value: int) -> int:
    if not value:
        raise ValueError("it is a number of images from 1, or -1 for as many as fit in memory")
    return value


TrainBatch = Annotated[int, Field(ge=-1), AfterValidator(_train_batch)]


class Frozen(BaseModel):
    """A group of settings: immutable, and a key that is not here is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


CHANGED_ON_RESUME = ("workers", "device", "nproc", "epochs")  # all that may differ from the settings of a stopped run


class OptimConfig(Frozen):
    """Optimizer, learning rate, averaging."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = "SGD"
    lr0: Positive = 0.01  # initial learning rate
    lrf: Positive = 0.01  # final rate as a fraction of lr0
    cos_lr: bool = False  # cosine instead of linear decay
    schedule: Schedule = ""  # how the rate falls; empty: as cos_lr and the release say
    milestones: Milestones = ()  # multi-step: the rate falls where these epochs begin, counted from 0
    step_epochs: Annotated[int, Field(ge=1)] = 30  # step: the rate falls every so many epochs
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # factor of a fall; 0: 0.1, exponential: what ends at lrf
    plateau_patience: Annotated[int, Field(ge=0)] = 10  # plateau: validations without a better fitness before a fall
    one_cycle_start: Annotated[float, Field(gt=0.0, le=1.0)] = 0.04  # one-cycle: first rate as a fraction of lr0
    one_cycle_rise: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3  # one-cycle: share of the run in which the rate rises
    momentum: Fraction = 0.937  # SGD momentum, Adam beta1
    weight_decay: NotNegative = 0.0005  # at the nominal batch size; scaled to the real one
    release: Release | Literal["centernet"] = ""  # whose schedule; empty: v7.0
    warmup_epochs: NotNegative = 3.0  # release v3: 0 is no warm-up, anything else the first epoch
    warmup_momentum: Fraction = 0.8  # one-cycle: where the rate is highest
    warmup_bias_lr: NotNegative = 0.1
    nominal_batch_size: Annotated[int, Field(ge=1)] = 64  # gradients are accumulated up to this many images
    clip_norm: NotNegative = 10.0  # largest gradient norm; 0: any
    ema_decay: Fraction = 0.9999  # decay of the averaged weights after their ramp
    ema_tau: Positive = 2000.0  # updates over which the decay ramps up


def _names(value: Any) -> Any:
    """Read `a`, `"a, b"` and `["a", "b"]` as lists of names."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class TrainingConfig(Frozen):
    """What shapes a training run of any system. Written to the run folder and into each checkpoint."""

    model: str = ""
    weights: str = ""  # start from this checkpoint; empty: from scratch
    data: str = ""
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: TrainBatch = 16  # images a step, over all ranks; -1: as many as fit in memory
    workers: Annotated[int, Field(ge=0)] = 8  # loader processes, at most the number of cores
    device: str = ""  # cpu, 0, cuda:1; 0,1: a process for each of these GPUs; empty: the first GPU, else the CPU
    nproc: Annotated[int, Field(ge=1)] = 1  # processes of this machine that train together
    sync_bn: bool = False  # batch norms take the images of all processes, not of one alone
    precision: Precision = "auto"  # auto: bf16 where the hardware has it
    patience: Annotated[int, Field(ge=0)] = 100  # epochs without a better fitness before the run stops; 0: never
    nosave: bool = False  # write checkpoints only at the end
    noval: bool = False  # validate only after the last epoch
    noplots: bool = False  # draw nothing
    save_period: Annotated[int, Field(ge=-1)] = -1  # keep epoch<N>.pt every this many epochs; -1: never
    save_epochs: Milestones = ()  # and after these epochs, counted from 1
    save_name: Literal["epoch", "epoch_"] = "epoch"  # what stands before the number in the names of those files
    val_period: Annotated[int, Field(ge=1)] = 1  # validate every this many epochs, and after the last
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False  # write into an existing run folder instead of counting up
    callbacks: Names = ()  # mlflow, and callbacks of installed packages by the name of their entry point
    seed: int = 0
    compat: Compat = "faithful"
    optim: OptimConfig = OptimConfig()
