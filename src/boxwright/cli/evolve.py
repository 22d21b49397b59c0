"""`boxwright evolve`: its flags, which are those of `train` and of the search, and the call of `jobs.evolve`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli import train
from boxwright.cli.flags import Flag, Parser, origins, switch

SEARCH = (
    Flag("generations", "--generations", "300", "finished trials at which the search ends"),
    Flag("study", "--study", "", "join, go on with or begin it: NAME below --project, or a database URL", "NAME"),
    Flag("sampler", "--sampler", "published", "published (mutated children of the best), tpe or cmaes", "KIND"),
    Flag("parents", "--parents", "single", "published sampler: single or weighted", "KIND"),
    Flag("space", "--space", "", "yaml: settings path to [gain, low, high]; none: as published", "YAML"),
    Flag(
        "prune",
        "--prune",
        "",
        "end hopeless trials early: below the median, or the best quarter (percentile)",
        "median|percentile",
        bare="median",
    ),
)
_NOT_HERE = ("nproc", "sync_bn", "exist_ok")  # a trial runs in one process, and a study is joined by its name
_OTHERWISE = {
    "project": Flag("project", "--project", "runs/evolve", "folder of searches", "DIR"),
    "name": Flag("name", "--name", "exp", "folder of this search; counts up without --study", "NAME"),
    "nosave": switch("nosave", "--nosave", "keep the weights of the best trial only", "true"),
    "noval": switch("noval", "--noval", "validate trials only after their last epoch", "true"),
    "noplots": switch("noplots", "--noplots", "draw nothing in the folders of trials", "true"),
}


def _table(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    return tuple(_OTHERWISE.get(flag.setting, flag) for flag in flags if flag.setting not in _NOT_HERE)


GROUPS = {"the search": SEARCH, **{title: _table(flags) for title, flags in train.GROUPS.items()}}
GROUPS["every trial"] = GROUPS.pop("the run")


def parser() -> Parser:
    made = Parser(
        "evolve",
        "Search hyper-parameters by many short trainings. Stop it at any time; --study goes on, also from several "
        "processes and machines at once.",
    )
    files = made.add_argument_group("files of settings")
    files.add_argument("--hyp", metavar="HYP", default="", help="preset or hyper-parameter yaml to begin with")
    files.add_argument("--config", metavar="YAML", default="", help="yaml of settings, or a run folder")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    hyp, config = given.pop("hyp"), given.pop("config")
    from boxwright.settings.load import load
    from boxwright.yolo.evolve_settings import EvolveConfig
    from boxwright.yolo.verbs.evolve import evolve

    evolve(load(EvolveConfig, origins(given, *GROUPS.values()), hyp=hyp, config=config))
    return 0
