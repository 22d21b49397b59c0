"""`boxwright train --model centerfusion-dla34`: its flags, and the call of `jobs.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import COMPAT, DATA, MISSING, MODEL, output
from boxwright.cli.train import OPTIM as YOLO_OPTIM
from boxwright.errors import UserError

_DEFAULTS = {  # of the optimizer, where they differ
    "optim.optimizer": "Adam",
    "optim.lr0": "0.00025",
    "optim.schedule": "multi-step",
    "optim.momentum": "0.9",
    "optim.weight_decay": "0.0",
    "optim.release": "centernet",
    "optim.warmup_epochs": "0.0",
    "optim.nominal_batch_size": "1",
    "optim.clip_norm": "0.0",
    "optim.ema_decay": "0.0",
}
RUN = (
    MODEL,
    Flag("weights", "--weights", "", "start from this checkpoint, of this tool or published; none: scratch", "FILE"),
    *DATA,
    Flag("train_split", "--train-split", "", "split to train on; none: mini_train or train", "NAME"),
    Flag("val_split", "--val-split", "", "split to measure on; none: mini_val or val", "NAME"),
    MISSING,
    Flag("epochs", "--epochs", "60", "passes over the training images"),
    Flag("batch_size", "--batch-size --batch", "32", "images a step"),
    Flag("imgsz", "--imgsz --img --img-size", "448 800", "height and width of the network input", kind="list"),
    switch("no_radar", "--no-radar", "camera only"),
    switch("freeze_backbone", "--freeze-backbone", "train the heads alone"),
    Flag(
        "device", "--device", "", "cpu, a GPU as 0 or cuda:0, several as 0,1; none: the first GPU, else cpu", "DEVICE"
    ),
    Flag("nproc", "--nproc", "1", "processes that train together here: --device cpu --nproc 2"),
    switch("sync_bn", "--sync-bn", "batch norms over the images of all processes"),
    Flag("workers", "--workers", "8", "loader processes, at most one a core"),
    Flag("precision", "--precision", "auto", "fp32, bf16, fp16; auto: bf16 where the hardware has it", "KIND"),
    Flag("patience", "--patience", "0", "epochs without a better NDS before it stops; 0: never"),
    Flag("max_det", "--max-det", "100", "validation: peaks an image"),
    Flag("seed", "--seed", "0", "everything random follows from this"),
    COMPAT,
)
NETWORK = (
    Flag("network.width", "--network.width", "1.0", "factor of all channel counts"),
    Flag("network.dla_node", "--network.dla_node", "dcn", "dcn or conv: deformable or plain where levels meet", "KIND"),
    Flag("network.head_conv", "--network.head_conv", "256", "hidden channels of a head, before the factor"),
    Flag("network.first_depth", "--network.first_depth", "1.0", "metres that depth heads say before training"),
)
RADAR = (
    Flag("radar.sweeps", "--radar.sweeps", "3", "sweeps of each radar that are gathered"),
    Flag("radar.max_depth", "--radar.max_depth", "60.0", "metres; farther points are dropped"),
    Flag(
        "radar.pillar_dims",
        "--radar.pillar_dims",
        "1.5 0.2 0.2",
        "height, width, length in metres of what a point is raised to",
        kind="list",
    ),
    Flag("radar.z_offset", "--radar.z_offset", "0.0", "metres that points are lifted by"),
    switch("frustum.enabled", "--frustum.enabled", "associate radar with objects; false: the map as it is", "true"),
    Flag("frustum.expansion_ratio", "--frustum.expansion_ratio", "0.0", "widens the range of depths by this share"),
    Flag("frustum.window_ratio", "--frustum.window_ratio", "0.3", "side of the painted window, share of the box"),
    switch("frustum.normalize_depth", "--frustum.normalize_depth", "divide depths by radar.max_depth", "true"),
    switch("frustum.by_depth", "--frustum.by_depth", "near boxes paint first, not good ones"),
)
AUGMENT = (
    Flag("augment.flip", "--augment.flip", "0.5", "probability of a left-right flip"),
    Flag("augment.shift", "--augment.shift", "0.1", "spread of the shift, share of the larger side"),
    Flag("augment.scale", "--augment.scale", "0.0", "spread of the zoom"),
    Flag("augment.rotate", "--augment.rotate", "0.0", "spread of the rotation in degrees"),
    Flag("augment.rotate_prob", "--augment.rotate_prob", "0.0", "probability of a rotation"),
    switch("augment.random_crop", "--augment.random_crop", "zoom of 0.6 to 1.3 about a random place instead"),
    switch("augment.max_crop", "--augment.max_crop", "the longer side fills the width; false: the width does", "true"),
    switch("augment.color", "--augment.color", "change colours", "true"),
)
LOSS = tuple(
    Flag(f"loss.{name}", f"--loss.{name}", "0.1" if name == "wh" else "1.0", f"weight of {what}")
    for name, what in (
        ("hm", "the heat map"),
        ("reg", "the centre within its cell"),
        ("wh", "the 2-D size"),
        ("dep", "both depths"),
        ("dim", "the dimensions"),
        ("rot", "both rotations"),
        ("amodel_offset", "the place of the 3-D centre"),
        ("nuscenes_att", "the attributes"),
        ("velocity", "the velocity"),
    )
)
OUTPUT = (
    *output("runs/train"),
    switch("nosave", "--nosave", "write checkpoints only at the end"),
    switch("noval", "--noval", "validate only after the last epoch, and where --patience could end the run"),
    switch("noplots", "--noplots", "draw nothing"),
    Flag("save_period", "--save-period", "-1", "keep a checkpoint every N epochs; -1: never"),
    Flag("save_epochs", "--save-epochs", "20 40 50", "and after these epochs", kind="list"),
    Flag("save_name", "--save-name", "epoch", "what stands before N in its name: epoch or epoch_", "TEXT"),
    Flag("val_period", "--val-period", "1", "validate every N epochs, and after the last"),
    Flag("callbacks", "--callbacks", "", "mlflow, and callbacks of installed packages, by name", "NAME", kind="list"),
)
OPTIM = tuple(replace(flag, default=_DEFAULTS.get(flag.setting, flag.default)) for flag in YOLO_OPTIM)
GROUPS = {
    "the run": RUN,
    "network": NETWORK,
    "radar": RADAR,
    "output": OUTPUT,
    "optimizer": OPTIM,
    "losses": LOSS,
    "augmentation": AUGMENT,
}


def parser() -> Parser:
    made = Parser(
        "train",
        "Train CenterFusion on a nuScenes root. Settings are merged: --config < flags. A stopped run goes on with "
        "`boxwright train --resume RUN`.",
    )
    made.add_argument(
        "--config", metavar="YAML", default="", help="preset (centerfusion, ...), yaml of settings, or a run folder"
    )
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    if any(word.partition("=")[0] == "--resume" for word in argv):
        raise UserError("--resume goes on with a run as it was, its model too: boxwright train --resume RUN")
    given = parser().parse_strictly(argv)
    config = given.pop("config")
    from boxwright.centerfusion.settings import FusionConfig, find_preset
    from boxwright.settings.load import load

    settings = load(FusionConfig, origins(given, *GROUPS.values()), config=find_preset(config))
    from boxwright.centerfusion.verbs import train

    train.train(settings)
    return 0
