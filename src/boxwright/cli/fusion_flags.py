"""Which verbs work on camera and radar: `--model centerfusion-dla34` chooses it, and then other flags are there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from boxwright.cli.flags import Flag, switch

FAMILY = "centerfusion"
HINT = f"`--model {FAMILY}-dla34 --help` lists the flags of camera and radar detection."
DATA = (
    Flag("data", "--data", "", "nuScenes root", "DIR"),
    Flag("version", "--version", "v1.0-trainval", "folder of tables: v1.0-mini, v1.0-trainval, v1.0-test", "NAME"),
)
MISSING = switch("allow_missing", "--allow-missing", "leave out images and radar sweeps that are not there")
COMPAT = Flag("compat", "--compat", "faithful", "faithful or fixed: keep or mend known defects", "KIND")
OWN_COMPAT = Flag("compat", "--compat", "", "faithful or fixed: known defects; none: as it was trained", "KIND")
DEVICE = Flag("device", "--device", "", "cpu, or a GPU as 0 or cuda:0; none: the first GPU, else the CPU", "DEVICE")
MODEL = Flag("model", "--model --cfg", "centerfusion-dla34", "this network", "MODEL")


def asks_for_fusion(argv: Sequence[str]) -> bool:
    """Whether the flags, or the file of settings that they name, choose a camera and radar model."""
    model = next((value for name in MODEL.names.split() if (value := _value_of(name, argv))), "")
    if model.startswith(FAMILY):
        return True
    config = "" if model else _value_of("--config", argv)
    if not config:
        return False
    from boxwright.centerfusion.settings import names_fusion

    return names_fusion("", config)


def _value_of(name: str, argv: Sequence[str]) -> str:
    """What stands behind a flag, as `--flag value` or `--flag=value`."""
    apart = [after for word, after in pairwise(argv) if word == name]
    joined = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return (apart or joined or [""])[0]


def output(project: str) -> tuple[Flag, ...]:
    """Where a run goes."""
    return (
        Flag("project", "--project", project, "folder of runs", "DIR"),
        Flag("name", "--name", "exp", "folder of this run; counts up where it exists", "NAME"),
        switch("exist_ok", "--exist-ok", "write into an existing run folder"),
    )
