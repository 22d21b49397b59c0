"""`boxwright info MODEL`: the calls of `jobs.info`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser
from boxwright.errors import UserError


def parser() -> Parser:
    made = Parser("info", "Show the layers, parameters, strides and cost of a model.", usage="%(prog)s MODEL [flags]")
    made.add_argument("given", metavar="MODEL", nargs="?", default="", help="the model, or a checkpoint")
    made.add_argument(
        "--model", "--cfg", dest="model", metavar="MODEL", default="", help="published name, model yaml or Darknet cfg"
    )
    made.add_argument("--weights", metavar="PT", default="", help="checkpoint; with --model: put into that model")
    made.add_argument("--nc", metavar="N", type=int, default=None, help="number of classes of a model that is built")
    made.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        dest="imgsz",
        metavar="N",
        nargs="+",
        type=int,
        default=[640],
        help="side, or height and width, of the image whose cost is counted (default 640)",
    )
    made.add_argument("--verbose", action="store_true", help="one line a parameter, with mean and standard deviation")
    made.add_argument("--find", metavar="PATTERN", default="", help="list the modules of this class or name, as *Conv*")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    model, weights, num_classes = given["given"] or given["model"], given["weights"], given["nc"]
    if given["given"] and given["model"]:
        raise UserError(f"two models are named: {given['given']} and --model {given['model']}")
    if len(given["imgsz"]) > 2:
        raise UserError("--imgsz takes one side, or height and width")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"--nc {num_classes}: a model has at least one class")
    from boxwright.jobs import info

    if given["find"]:
        print(info.list_modules(info.open_network(model, weights=weights, num_classes=num_classes), given["find"]))
        return 0
    summary = info.describe(model, weights=weights, num_classes=num_classes, imgsz=given["imgsz"])
    print(summary.text(verbose=given["verbose"]))
    return 0
