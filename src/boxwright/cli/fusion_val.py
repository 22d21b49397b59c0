"""`boxwright val --model centerfusion-dla34`: its flags, and the call of `jobs.fusion_val`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import DATA, DEVICE, MISSING, MODEL, OWN_COMPAT, output

RUN = (
    MODEL,
    Flag("weights", "--weights", "", "checkpoint to measure, of this tool or published", "FILE"),
    Flag("json_file", "--json", "", "measure this submission; no network is run", "JSON"),
    *DATA,
    Flag("split", "--split", "", "split to measure on; none: mini_val, val or test", "NAME"),
    MISSING,
    Flag("batch_size", "--batch-size --batch", "16", "images at a time"),
    Flag("max_det", "--max-det", "100", "peaks an image"),
    Flag("conf_thres", "--conf-thres", "-1.0", "lowest score"),
    Flag("iou_thres", "--iou-thres", "0.0", "suppress boxes that overlap more from above; 0: none"),
    switch("flip_test", "--flip-test", "look at each image and its mirror image"),
    switch("no_radar", "--no-radar", "published weights of the camera-only network"),
    DEVICE,
    Flag("workers", "--workers", "8", "loader processes, at most one a core"),
    switch("half", "--half", "half precision: bf16 on the CPU, fp16 on a GPU"),
    OWN_COMPAT,
)
OUTPUT = (
    *output("runs/val"),
    Flag("plots", "--plots", "0", "draw so many key frames"),
    switch("noplots", "--noplots", "draw no curves"),
)
GROUPS = {"the run": RUN, "output": OUTPUT}


def parser() -> Parser:
    made = Parser("val", "Measure CenterFusion, or a submission, on a nuScenes root by the nuScenes metric.")
    made.add_argument("--config", metavar="YAML", default="", help="yaml of settings of this verb")
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    config = given.pop("config")
    from boxwright.centerfusion.settings import FusionValConfig
    from boxwright.settings.load import load

    settings = load(FusionValConfig, origins(given, *GROUPS.values()), config=config)
    from boxwright.centerfusion.verbs.val import fusion_val

    fusion_val(settings)
    return 0
