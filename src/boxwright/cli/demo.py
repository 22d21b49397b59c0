"""`boxwright demo`: its flags, and the call of `jobs.demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser("demo", "Make a small data set of a street, train yolov5n on it, validate, predict and draw plots.")
    made.add_argument("--project", metavar="DIR", default="runs/demo", help="folder of demo runs (default runs/demo)")
    made.add_argument("--epochs", metavar="N", type=int, default=None, help="passes over the training images")
    made.add_argument(
        "--seed", metavar="N", type=int, default=0, help="everything random follows from this (default 0)"
    )
    made.add_argument("--device", metavar="DEVICE", default="", help="cpu, or a GPU as 0 or cuda:0")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.jobs.demo import demo

    demo(Path(given["project"]), epochs=given["epochs"], seed=given["seed"], device=given["device"])
    return 0
