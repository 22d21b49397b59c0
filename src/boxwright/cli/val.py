"""`boxwright val`: its flags, and the calls of `jobs.val` and `jobs.val_results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import HINT, asks_for_fusion
from boxwright.errors import UserError

RUN = (
    Flag("weights", "--weights", "", "checkpoint to measure; several: run as one", "PT", kind="list"),
    Flag("release", "--release", "", "take NMS and metric of v7.0 ... v1.0 or v3; none: of the model", "NAME"),
    Flag("data", "--data", "", "data yaml, Darknet .data, VOC root or COCO json", "DATA"),
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
    switch("augment", "--augment", "test-time augmentation: look at three sizes, once mirrored"),
    Flag("compat", "--compat", "faithful", "faithful or fixed: keep or mend known defects", "KIND"),
)
OUTPUT = (
    switch("verbose", "--verbose", "one line a class"),
    switch("save_txt", "--save-txt", "write boxes as label files"),
    switch("save_hybrid", "--save-hybrid", "write labels and what was found besides as label files"),
    switch("save_conf", "--save-conf", "with scores in them"),
    switch("save_json", "--save-json", "write boxes as COCO json"),
    switch("noplots", "--noplots", "draw nothing"),
    Flag("project", "--project", "runs/val", "folder of runs", "DIR"),
    Flag("name", "--name", "exp", "folder of this run; counts up where it exists", "NAME"),
    switch("exist_ok", "--exist-ok", "write into an existing run folder"),
)
GROUPS = {"the run": RUN, "output": OUTPUT}
RESULTS = (
    Flag("json", "--json", "", "COCO results to measure, without a network", "JSON"),
    Flag("annotations", "--annotations", "", "COCO ground truth of these results", "JSON"),
    Flag("iou_type", "--iou-type", "bbox", "bbox, segm or keypoints", "KIND"),
)


def parser() -> Parser:
    made = Parser("val", f"Measure a detector: the published YOLOv5 metric and the COCO metric. {HINT}")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    made.add_flags("a file of results", RESULTS)
    return made


def run(argv: Sequence[str]) -> int:
    if asks_for_fusion(argv):
        from boxwright.cli import fusion_val

        return fusion_val.run(argv)
    given = parser().parse_strictly(argv)
    config = given.pop("config")
    if "json" in given:
        return _run_on_results(given, config)
    stray = [flag.names for flag in RESULTS if flag.setting in given]
    if stray:
        raise UserError(f"{stray[0]} goes with --json: a file of COCO results")
    from boxwright.settings.load import load
    from boxwright.yolo.settings import ValConfig

    settings = load(ValConfig, origins(given, *GROUPS.values()), config=config)
    from boxwright.yolo.verbs.val import val

    val(settings)
    return 0


def _run_on_results(given: Mapping[str, Any], config: str) -> int:
    own = {flag.setting for flag in RESULTS}
    names = {flag.setting: flag.names.split()[0] for flags in GROUPS.values() for flag in flags}
    refused = [names.get(setting, setting) for setting in given if setting not in own] + ["--config"] * bool(config)
    if refused:
        raise UserError(f"val --json measures a file and runs no network: leave out {', '.join(refused)}")
    from boxwright.metrics.coco_results import val_results

    val_results(given["json"], given.get("annotations", ""), given.get("iou_type", "bbox"))
    return 0
