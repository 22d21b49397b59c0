"""`boxwright check DATA`: the call of `jobs.check`, or of `jobs.check_nuscenes` for a nuScenes root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser(
        "check",
        "List every problem of a data set, with file and line. Exit code 1 if training would drop something.",
        usage="%(prog)s DATA [flags]",
    )
    made.add_argument(
        "source", metavar="DATA", nargs="?", help="data yaml, Darknet .data, VOC root, COCO json or nuScenes root"
    )
    made.add_argument("--data", metavar="DATA", help="the same")
    made.add_argument("--plots", metavar="DIR", default="", help="draw classes, places and sizes of the boxes there")
    nuscenes = made.add_argument_group("nuScenes")
    nuscenes.add_argument("--version", metavar="NAME", default="", help="folder of tables (default the only one)")
    nuscenes.add_argument(
        "--allow-missing", action="store_true", help="files that are not there are no fault, only listed"
    )
    return made


def run(argv: Sequence[str]) -> int:
    asked = parser()
    given = asked.parse_strictly(argv)
    named = [given[name] for name in ("source", "data") if given[name] is not None]
    if len(named) != 1:
        asked.error("name one data set: DATA or --data DATA")
    if given["version"] or given["allow_missing"] or is_nuscenes_root(named[0]):
        if given["plots"]:
            asked.error("--plots draws data sets of 2-D boxes, which nuScenes is not")
        from boxwright.nuscenes.check import check_nuscenes

        return check_nuscenes(named[0], given["version"], allow_missing=given["allow_missing"])
    from boxwright.yolo.verbs.check import check

    return check(named[0], given["plots"])


def is_nuscenes_root(data: str) -> bool:
    """Whether a folder in it has the table of key frames."""
    return any(Path(data).expanduser().glob("*/sample.json"))
