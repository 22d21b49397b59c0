"""`boxwright info MODEL`: the call of `jobs.info`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser("info", "Show the parameters, strides and cost of a model.", usage="%(prog)s MODEL [flags]")
    made.add_argument("model", metavar="MODEL", help="yolov5n ... yolov5x6, a model yaml or a checkpoint")
    made.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        dest="imgsz",
        metavar="N",
        type=int,
        default=640,
        help="input side for the cost (default 640)",
    )
    made.add_argument("--verbose", action="store_true", help="one line a layer")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.jobs.info import describe

    print(describe(given["model"], imgsz=given["imgsz"]).text(verbose=given["verbose"]))
    return 0
