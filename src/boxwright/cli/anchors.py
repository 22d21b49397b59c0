"""`boxwright anchors DATA`: the call of `jobs.anchors`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser(
        "anchors",
        "Say how well anchors fit the labels of a data set, and find better ones.",
        usage="%(prog)s DATA [flags]",
    )
    made.add_argument("data", metavar="DATA", help="data yaml, VOC root or COCO json")
    made.add_argument(
        "--n",
        metavar="N",
        type=int,
        default=None,
        help="anchors of all levels together (default: as the model has, or 9)",
    )
    made.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        dest="imgsz",
        metavar="N",
        type=int,
        default=640,
        help="training size (default 640)",
    )
    made.add_argument(
        "--thr",
        metavar="RATIO",
        type=float,
        default=4.0,
        help="largest side ratio of box and anchor that matches (default 4)",
    )
    made.add_argument("--gen", metavar="N", type=int, default=1000, help="generations of the search (default 1000)")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of the search (default 0)")
    made.add_argument(
        "--model",
        "--cfg",
        "--weights",
        dest="model",
        metavar="MODEL",
        default="",
        help="compare with the anchors of this name, yaml, cfg or checkpoint (default: the published ones)",
    )
    made.add_argument("--project", metavar="DIR", default="runs/anchors", help="folder of runs (default runs/anchors)")
    made.add_argument("--name", metavar="NAME", default="exp", help="folder of this run; counts up where it exists")
    made.add_argument("--exist-ok", action="store_true", help="write into an existing run folder")
    made.add_argument("--noplots", action="store_true", help="draw nothing")
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.yolo.verbs.anchors import anchors

    anchors(
        given["data"],
        num_anchors=given["n"],
        imgsz=given["imgsz"],
        anchor_t=given["thr"],
        generations=given["gen"],
        seed=given["seed"],
        model=given["model"],
        project=given["project"],
        name=given["name"],
        exist_ok=given["exist_ok"],
        noplots=given["noplots"],
    )
    return 0
