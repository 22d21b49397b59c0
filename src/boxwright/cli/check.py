"""`boxwright check DATA`: the call of `jobs.check`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser(
        "check",
        "List every problem of a data set, with file and line. Exit code 1 if training would drop something.",
        usage="%(prog)s DATA [flags]",
    )
    made.add_argument("data", metavar="DATA", help="data yaml, Darknet .data, VOC root or COCO json")
    made.add_argument("--plots", metavar="DIR", default="", help="draw classes, places and sizes of the boxes there")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.jobs.check import check

    return check(given["data"], given["plots"])
