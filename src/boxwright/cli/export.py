"""`boxwright export`: its flags, and the call of `jobs.export`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Flag, Parser, origins, switch

EXPORT = (
    Flag("weights", "--weights", "", "checkpoint to export", "PT"),
    Flag("include", "--include", "onnx", "onnx, torchscript, openvino", "KIND", kind="list"),
    Flag("imgsz", "--imgsz --img --img-size", "640", "input side, or height and width, in pixels", kind="list"),
    switch("static", "--static", "take images of that size only"),
    switch("half", "--half", "half precision"),
    switch("int8", "--int8", "8-bit convolutions, measured on --source (ONNX, OpenVINO)"),
    Flag(
        "source", "--source", "", "images to check the files with, and to measure for --int8; none: made ones", "SOURCE"
    ),
    switch("nms", "--nms", "put NMS into the file (ONNX, OpenVINO)"),
    Flag("conf_thres", "--conf-thres", "0.25", "lowest score of that NMS"),
    Flag("iou_thres", "--iou-thres", "0.45", "overlap of that NMS"),
    Flag("max_det", "--max-det", "1000", "most boxes of a class in an image"),
)


def parser() -> Parser:
    made = Parser("export", "Write a checkpoint for ONNX Runtime, TorchScript or OpenVINO, checked against PyTorch.")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    made.add_flags("the export", EXPORT)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.settings.load import load
    from boxwright.yolo.settings import ExportConfig

    settings = load(ExportConfig, origins(given, EXPORT), config=given["config"])
    from boxwright.yolo.verbs.export import export

    export(settings)
    return 0
