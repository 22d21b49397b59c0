"""`boxwright demo`: its flags, and the call of `jobs.demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.cli.flags import Parser
from boxwright.errors import UserError


def parser() -> Parser:
    made = Parser("demo", "Make a small data set of a street, train on it, validate, predict and draw plots.")
    made.add_argument(
        "--task",
        metavar="TASK",
        choices=("detect2d", "fusion3d"),
        default="detect2d",
        help="detect2d: yolov5n on pictures; fusion3d: CenterFusion on cameras and radars (default detect2d)",
    )
    made.add_argument("--no-radar", action="store_true", help="fusion3d: cameras only")
    made.add_argument("--project", metavar="DIR", default="runs/demo", help="folder of demo runs (default runs/demo)")
    made.add_argument("--epochs", metavar="N", type=int, default=None, help="passes over the training images")
    made.add_argument(
        "--seed", metavar="N", type=int, default=0, help="everything random follows from this (default 0)"
    )
    made.add_argument("--device", metavar="DEVICE", default="", help="cpu, or a GPU as 0 or cuda:0")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    if given["no_radar"] and given["task"] != "fusion3d":
        raise UserError("--no-radar goes with --task fusion3d")
    project, recipe = Path(given["project"]), {name: given[name] for name in ("epochs", "seed", "device")}
    if given["task"] == "fusion3d":
        from boxwright.centerfusion.verbs.demo import fusion_demo

        fusion_demo(project, **recipe, no_radar=given["no_radar"])
        return 0
    from boxwright.yolo.verbs.demo import demo

    demo(project, **recipe)
    return 0
