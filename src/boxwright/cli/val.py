"""`boxwright val`: its flags, and the call of `jobs.val`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Flag, Parser, origins, switch

RUN = (
    Flag("weights", "--weights", "", "checkpoint to measure", "PT"),
    Flag("data", "--data", "", "data yaml, VOC root or COCO json", "DATA"),
    Flag("task", "--task", "val", "train, val or test: the split; speed: time only", "TASK"),
    Flag("batch_size", "--batch-size --batch", "32", "images at a time"),
    Flag("imgsz", "--imgsz --img --img-size", "640", "input side in pixels"),
    Flag("conf_thres", "--conf-thres", "0.001", "lowest score"),
    Flag("iou_thres", "--iou-thres", "0.6", "NMS overlap"),
    Flag("max_det", "--max-det", "300", "most boxes an image"),
    switch("single_cls", "--single-cls", "treat all classes as one"),
    Flag("device", "--device", "", "cpu, or a GPU as 0 or cuda:0; none: the first GPU, else the CPU", "DEVICE"),
    Flag("workers", "--workers", "8", "loader processes, at most one a core"),
    switch("half", "--half", "half precision: bf16 on the CPU, fp16 on a GPU"),
    Flag("compat", "--compat", "faithful", "faithful or fixed: keep or mend known defects", "KIND"),
)
OUTPUT = (
    switch("verbose", "--verbose", "one line a class"),
    switch("save_txt", "--save-txt", "write boxes as label files"),
    switch("save_conf", "--save-conf", "with scores in them"),
    switch("save_json", "--save-json", "write boxes as COCO json"),
    switch("noplots", "--noplots", "draw nothing"),
    Flag("project", "--project", "runs/val", "folder of runs", "DIR"),
    Flag("name", "--name", "exp", "folder of this run; counts up where it exists", "NAME"),
    switch("exist_ok", "--exist-ok", "write into an existing run folder"),
)
GROUPS = {"the run": RUN, "output": OUTPUT}


def parser() -> Parser:
    made = Parser("val", "Measure a detector: the published YOLOv5 metric and the COCO metric.")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    config = given.pop("config")
    from boxwright.config.load import load
    from boxwright.config.schema import ValConfig

    settings = load(ValConfig, origins(given, *GROUPS.values()), config=config)
    from boxwright.jobs.val import val

    val(settings)
    return 0
