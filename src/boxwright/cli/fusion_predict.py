"""`boxwright predict --model centerfusion-dla34`: its flags, and the call of `jobs.fusion_predict`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import DATA, DEVICE, MISSING, MODEL, OWN_COMPAT, output

RUN = (
    MODEL,
    Flag("weights", "--weights", "", "checkpoint to run, of this tool or published", "FILE"),
    *DATA,
    Flag("scene", "--scene", "", "name of the scene; none: the first one", "NAME"),
    MISSING,
    Flag("batch_size", "--batch-size --batch", "6", "images at a time"),
    Flag("max_det", "--max-det", "100", "peaks an image"),
    Flag("conf_thres", "--conf-thres", "0.3", "lowest score that is drawn"),
    switch("flip_test", "--flip-test", "look at each image and its mirror image"),
    switch("no_radar", "--no-radar", "published weights of the camera-only network"),
    DEVICE,
    switch("half", "--half", "half precision: bf16 on the CPU, fp16 on a GPU"),
    OWN_COMPAT,
)
OUTPUT = (
    *output("runs/predict"),
    switch("save_json", "--save-json", "write a submission of the scene"),
    Flag("fps", "--fps", "2.0", "pictures a second of the video"),
)
GROUPS = {"the run": RUN, "output": OUTPUT}


def parser() -> Parser:
    made = Parser("predict", "Draw what CenterFusion finds in a scene of a nuScenes root: sheets and a video.")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    config = given.pop("config")
    from boxwright.centerfusion.settings import FusionPredictConfig
    from boxwright.settings.load import load

    settings = load(FusionPredictConfig, origins(given, *GROUPS.values()), config=config)
    from boxwright.centerfusion.verbs.predict import fusion_predict

    fusion_predict(settings)
    return 0
