"""`boxwright convert weights|data|nuscenes IN OUT`, `split DATA`, `synthetic --out OUT`: the calls of five jobs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.cli.flags import Parser
from boxwright.errors import UserError

_FLAGS_OF = {
    "weights": ("model", "stem"),
    "data": ("to", "copy", "compat"),
    "split": ("shares", "seed", "compat"),
    "nuscenes": ("version", "sweeps", "allow_missing"),
    "synthetic": ("format", "out", "scenes", "key_frames", "width", "version", "seed"),
}
_WITHOUT_IN = ("synthetic",)
_SHARES = ("0.9", "0.1", "0.0")


def parser() -> Parser:
    made = Parser(
        "convert",
        "Write a network as another kind of weight file, a data set in another format, or new lists of its images.",
        usage="%(prog)s weights|data|split|nuscenes IN OUT [flags]\n"
        "       %(prog)s synthetic --format nuscenes --out OUT [flags]",
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument(
        "what",
        choices=tuple(_FLAGS_OF),
        metavar="|".join(_FLAGS_OF),
        help="weights: a network; data, split: images; nuscenes: the COCO style of the published CenterFusion; "
        "synthetic: a made world of cameras and radars",
    )
    made.add_argument(
        "source",
        metavar="IN",
        nargs="?",
        help="published .pt, Boxwright .pt, .safetensors or Darknet .weights; data yaml, Darknet .data, VOC root or "
        "COCO json; split: data yaml or folder of images with YOLO labels; nuscenes: its root",
    )
    made.add_argument(
        "target",
        metavar="OUT",
        nargs="?",
        help="weights: .pt, .safetensors or .weights (Darknet); data, split: a new folder (split: else IN_split); "
        "nuscenes: a folder, which may be IN",
    )
    weights = made.add_argument_group("weights")
    weights.add_argument(
        "--cfg", "--model", dest="model", metavar="CFG", help="cfg or name that a Darknet IN belongs to"
    )
    weights.add_argument(
        "--stem", metavar="KIND", choices=("conv6",), help="conv6: the Focus of early releases as a 6x6 convolution"
    )
    data = made.add_argument_group("data")
    data.add_argument("--to", metavar="FORMAT", choices=("yolo", "coco", "voc"), help="yolo, coco or voc")
    data.add_argument("--copy", action="store_true", help="copy images; otherwise they are linked")
    data.add_argument(
        "--compat",
        metavar="KIND",
        choices=("faithful", "fixed"),
        help="data, split: keep or mend known defects of reading labels (default faithful)",
    )
    split = made.add_argument_group("split")
    split.add_argument(
        "--shares",
        metavar="SHARE",
        nargs="+",
        type=float,
        help=f"of train, val and test (default {' '.join(_SHARES)}); each class is shared out so",
    )
    split.add_argument("--seed", metavar="N", type=int, help="of the draw, or of the synthetic world (default 0)")
    nuscenes = made.add_argument_group("nuscenes")
    nuscenes.add_argument(
        "--version", metavar="NAME", help="folder of tables (default v1.0-mini); synthetic: what to call it"
    )
    nuscenes.add_argument("--sweeps", metavar="N", type=int, help="of each radar, gathered (default 3)")
    nuscenes.add_argument(
        "--allow-missing", action="store_true", help="leave out images and radar sweeps whose files are not there"
    )
    synthetic = made.add_argument_group("synthetic")
    synthetic.add_argument("--format", metavar="FORMAT", choices=("nuscenes",), help="nuscenes")
    synthetic.add_argument("--out", metavar="OUT", help="a new or an empty folder")
    synthetic.add_argument("--scenes", metavar="N", type=int, help="how many (default 10)")
    synthetic.add_argument("--key-frames", metavar="N", type=int, help="of each scene, two a second (default 8)")
    synthetic.add_argument("--width", metavar="N", type=int, help="of images in pixels; 9/16 as high (default 1600)")
    return made


def run(argv: Sequence[str]) -> int:
    asked = parser()
    given = asked.parse_strictly(argv)
    what = given.pop("what")
    if what in _WITHOUT_IN:
        if "source" in given:
            asked.error(f"convert {what} reads nothing: write --out {given['source']}")
    elif "source" not in given or ("target" not in given and what != "split"):
        asked.error(f"the following arguments are required: {'OUT' if 'source' in given else 'IN'}")
    source, target = given.pop("source", ""), given.pop("target", "")
    stray = [name for name in given if name not in _FLAGS_OF[what]]
    if stray:
        owners = [kind for kind, names in _FLAGS_OF.items() if stray[0] in names]
        flag = "cfg" if stray[0] == "model" else stray[0].replace("_", "-")
        raise UserError(f"--{flag} belongs to convert {' and '.join(owners)}, not to convert {what}")
    calls = {"weights": _weights, "data": _data, "split": _split, "nuscenes": _nuscenes, "synthetic": _synthetic}
    return calls[what](source, target, given)


def _weights(source: str, target: str, given: Mapping[str, Any]) -> int:
    from boxwright.yolo.verbs.convert_weights import convert_weights

    network = convert_weights(source, target, model=given.get("model", ""), conv6_stem="stem" in given)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{target}: {count:,} parameters, {len(network.names)} classes, from {source}")
    return 0


def _data(source: str, target: str, given: Mapping[str, Any]) -> int:
    if "to" not in given:
        raise UserError("convert data needs --to yolo, coco or voc")
    from boxwright.data.convert import convert_data

    for split, index in convert_data(source, target, **given).items():
        print(f"{split}: {len(index)} images, {len(index.boxes)} boxes, {index.num_classes} classes")
    print(f"written to {target}")
    return 0


def _split(source: str, target: str, given: Mapping[str, Any]) -> int:
    from boxwright.data.split import split_data

    folder, lists = split_data(source, target, **given)
    for split, images in lists.items():
        print(f"{split}: {len(images)} images")
    print(f"written to {folder}; data yaml: {folder / 'data.yaml'}")
    return 0


def _nuscenes(source: str, target: str, given: dict[str, Any]) -> int:
    from boxwright.nuscenes.convert import convert_nuscenes

    for file, images, boxes in convert_nuscenes(source, target, given.pop("version", "v1.0-mini"), **given):
        print(f"{file}: {images} images, {boxes} annotations")
    return 0


def _synthetic(source: str, target: str, given: dict[str, Any]) -> int:
    del source, target
    for flag, value in (("format", "nuscenes"), ("out", "FOLDER")):
        if flag not in given:
            raise UserError(f"convert synthetic needs --{flag} {value}")
    from boxwright.synthetic.convert import convert_synthetic

    del given["format"]
    out = given.pop("out")
    made = convert_synthetic(out, **given)
    train = made.scenes - made.num_val
    print(f"{made.scenes} scenes (train {train}, val {made.num_val}) of {made.key_frames} key frames, six cameras each")
    print(f"written to {out}")
    return 0
