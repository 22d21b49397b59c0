"""`boxwright predict`: its flags, and the call of `jobs.predict`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import HINT, asks_for_fusion
from boxwright.errors import UserError

RUN = (
    Flag("weights", "--weights", "", "checkpoint to run; several: run as one", "PT", kind="list"),
    Flag("release", "--release", "", "take letterbox and NMS of v7.0 ... v1.0 or v3; none: of the model", "NAME"),
    Flag("source", "--source", "", "image, folder, glob, list file, video or camera number", "SOURCE"),
    Flag("imgsz", "--imgsz --img --img-size", "640", "input side in pixels"),
    Flag("conf_thres", "--conf-thres", "0.25", "lowest score"),
    Flag("iou_thres", "--iou-thres", "0.45", "NMS overlap"),
    Flag("max_det", "--max-det", "1000", "most boxes an image"),
    Flag("classes", "--classes", "", "keep only these class numbers; none: all", kind="list"),
    switch("agnostic_nms", "--agnostic-nms", "let boxes of different classes suppress each other"),
    Flag("device", "--device", "", "cpu, or a GPU as 0 or cuda:0; none: the first GPU, else the CPU", "DEVICE"),
    switch("half", "--half", "half precision: bf16 on the CPU, fp16 on a GPU"),
    switch("augment", "--augment", "test-time augmentation: look at three sizes, once mirrored"),
    Flag("classifier", "--classifier", "", "second stage: drop boxes that this torchvision network doubts", "NAME"),
    Flag("classifier_weights", "--classifier-weights", "", "its state dict, of the same classes", "FILE"),
    Flag("vid_stride", "--vid-stride", "1", "take every N-th frame of a video"),
)
OUTPUT = (
    switch("nosave", "--nosave", "write no annotated images"),
    switch("save_txt", "--save-txt", "write boxes as label files"),
    switch("save_conf", "--save-conf", "with scores in them"),
    switch("save_crop", "--save-crop", "write each box as an image"),
    switch("save_json", "--save-json", "write boxes as json"),
    Flag("line_thickness", "--line-thickness", "3", "of drawn boxes, in pixels"),
    switch("hide_labels", "--hide-labels", "draw boxes without names"),
    switch("hide_conf", "--hide-conf", "draw names without scores"),
    Flag("project", "--project", "runs/predict", "folder of runs", "DIR"),
    Flag("name", "--name", "exp", "folder of this run; counts up where it exists", "NAME"),
    switch("exist_ok", "--exist-ok", "write into an existing run folder"),
)
GROUPS = {"the run": RUN, "output": OUTPUT}


def parser() -> Parser:
    made = Parser("predict", f"Find objects in images, videos or a camera. {HINT}")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    made.add_argument("--run", metavar="YAML", default="", help="run yaml: weights, source and output in one file")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    if asks_for_fusion(argv):
        from boxwright.cli import fusion_predict

        return fusion_predict.run(argv)
    given = parser().parse_strictly(argv)
    config, run_file = given.pop("config"), given.pop("run")
    flags = origins(given, *GROUPS.values())
    if run_file:
        if config:
            raise UserError("--config does not go with --run: the run yaml and flags hold the settings")
        from boxwright.yolo.verbs.run_yaml import predict_from_yaml

        predict_from_yaml(run_file, flags)
        return 0
    from boxwright.settings.load import load
    from boxwright.yolo.settings import PredictConfig

    settings = load(PredictConfig, flags, config=config)
    from boxwright.yolo.verbs.predict import predict

    predict(settings)
    return 0
