"""`boxwright info MODEL`: the calls of `jobs.info`; `boxwright info --schedule`: those of `jobs.schedule`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright.cli.flags import Parser, origins
from boxwright.cli.fusion_flags import FAMILY
from boxwright.cli.train import OPTIM, RUN
from boxwright.errors import UserError

# Flags of a training run that shape its schedule.
_OF_A_RUN = (*(flag for flag in RUN if flag.setting in ("data", "epochs", "batch_size")), *OPTIM)
_PICTURE = "schedule.png"


def parser() -> Parser:
    made = Parser(
        "info",
        "Show the layers, parameters, strides and cost of a model, or the learning rates of a run.",
        usage="%(prog)s MODEL [flags]\n       %(prog)s --schedule [PNG] --images N [flags]",
    )
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
    course = made.add_argument_group("the schedule of a run")
    course.add_argument(
        "--schedule",
        metavar="PNG",
        nargs="?",
        const=_PICTURE,
        default="",
        help=f"draw rates and momentum of a training run into this file (default {_PICTURE})",
    )
    course.add_argument(
        "--images", metavar="N", type=int, default=None, help="training images (default: as --data has)"
    )
    course.add_argument("--hyp", metavar="HYP", default="", help="preset or hyper-parameter yaml, as of train")
    course.add_argument("--config", metavar="YAML", default="", help="yaml of settings, or a run folder, as of train")
    made.add_flags("settings of that run, as of train", _OF_A_RUN)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    model, weights, num_classes = given["given"] or given["model"], given["weights"], given["nc"]
    if given["given"] and given["model"]:
        raise UserError(f"two models are named: {given['given']} and --model {given['model']}")
    if given["schedule"]:
        _show_schedule(given)
        return 0
    stray = [setting.origin for setting in origins(given, _OF_A_RUN).values()]
    stray += [f"--{name}" for name in ("images", "hyp", "config") if given[name]]
    if stray:
        raise UserError(f"{stray[0]} is about a training run: it goes with --schedule")
    if len(given["imgsz"]) > 2:
        raise UserError("--imgsz takes one side, or height and width")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"--nc {num_classes}: a model has at least one class")
    if model.startswith(FAMILY):
        from boxwright.centerfusion.verbs.info import describe_fusion

        unused = [name for name in ("weights", "nc", "find", "verbose") if given[name]]
        if unused:
            raise UserError(f"info of {model} describes the published network: leave out --{unused[0]}")
        print(describe_fusion(model, given["imgsz"] if given["imgsz"] != [640] else [448, 800]))
        return 0
    from boxwright.yolo.verbs import info

    if given["find"]:
        print(info.list_modules(info.open_network(model, weights=weights, num_classes=num_classes), given["find"]))
        return 0
    summary = info.describe(model, weights=weights, num_classes=num_classes, imgsz=given["imgsz"])
    print(summary.text(verbose=given["verbose"]))
    return 0


def _show_schedule(given: Mapping[str, Any]) -> None:
    from boxwright.settings.load import load
    from boxwright.yolo.settings import RunConfig

    network = {"model": given["given"] or given["model"], "weights": given["weights"]}
    settings = {name: value for name, value in network.items() if value} | origins(given, _OF_A_RUN)
    config = load(RunConfig, settings, hyp=given["hyp"], config=given["config"])
    from boxwright.yolo.verbs.schedule import describe_schedule

    report = describe_schedule(config, given["images"])
    report.draw(Path(given["schedule"]))
    print(report.text())
    print(f"drawn in {given['schedule']}")
