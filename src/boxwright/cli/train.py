"""`boxwright train`: its flags, and the call of `jobs.train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.cli.flags import Flag, Parser, origins, switch
from boxwright.cli.fusion_flags import HINT, asks_for_fusion
from boxwright.errors import UserError

if TYPE_CHECKING:
    from boxwright.settings.yaml_file import Setting

RUN = (
    Flag("model", "--model --cfg", "", "yolov5n ... yolov5x6 or a model yaml; none: as the weights", "MODEL"),
    Flag("weights", "--weights", "", "checkpoint to start from; none: from scratch", "PT"),
    Flag(
        "release",
        "--release",
        "",
        "take all rules of v7.0 ... v1.0 or v3; none: loss and NMS of the model, current schedule and warp",
        "NAME",
    ),
    Flag("data", "--data", "", "data yaml, Darknet .data, VOC root or COCO json", "DATA"),
    Flag("epochs", "--epochs", "100", "passes over the training images"),
    Flag("batch_size", "--batch-size --batch", "16", "images a step; -1: as many as fit in memory"),
    Flag("imgsz", "--imgsz --img --img-size", "640", "input side in pixels"),
    Flag(
        "device", "--device", "", "cpu, a GPU as 0 or cuda:0, several as 0,1; none: the first GPU, else cpu", "DEVICE"
    ),
    Flag("nproc", "--nproc", "1", "processes that train together here: --device cpu --nproc 2"),
    switch("sync_bn", "--sync-bn", "batch norms over the images of all processes"),
    Flag("workers", "--workers", "8", "loader processes, at most one a core"),
    Flag("precision", "--precision", "auto", "fp32, bf16, fp16; auto: bf16 where the hardware has it", "KIND"),
    switch("compile", "--compile", "compile the training step"),
    Flag(
        "freeze",
        "--freeze",
        "0",
        "backbone, all-but-predictors, none; N: the first N layers; several: these",
        kind="list",
    ),
    Flag("patience", "--patience", "100", "epochs without a better fitness before it stops; 0: never"),
    Flag("seed", "--seed", "0", "everything random follows from this"),
    Flag("compat", "--compat", "faithful", "faithful or fixed: keep or mend known defects", "KIND"),
)
DATA = (
    Flag("cache", "--cache", "", "keep decoded images in ram or on disk", "ram|disk", bare="ram"),
    Flag(
        "anchors", "--anchors", "0", "find so many anchors a level before training; 0: those of the model, if they fit"
    ),
    switch("noautoanchor", "--noautoanchor", "keep the anchors even if they do not fit"),
    switch("rect", "--rect", "rectangular batches: no mosaic, no shuffle"),
    switch("quad", "--quad", "four images become one of twice the side"),
    switch("image_weights", "--image-weights", "draw images more often whose classes are found less"),
    switch("single_cls", "--single-cls", "train all classes as one"),
    switch("multi_scale", "--multi-scale", "vary the input side by +-50 % (release v3: 1/1.5 to 1/0.667)"),
)
OUTPUT = (
    Flag("project", "--project", "runs/train", "folder of runs", "DIR"),
    Flag("name", "--name", "exp", "folder of this run; counts up where it exists", "NAME"),
    switch("exist_ok", "--exist-ok", "write into an existing run folder"),
    switch("nosave", "--nosave", "write checkpoints only at the end"),
    switch("noval", "--noval", "validate only after the last epoch, and where --patience could end the run"),
    switch("noplots", "--noplots", "draw nothing"),
    Flag("save_period", "--save-period", "-1", "keep a checkpoint every N epochs; -1: never"),
    Flag("save_epochs", "--save-epochs", "", "and after these epochs", kind="list"),
    Flag("save_name", "--save-name", "epoch", "what stands before N in its name: epoch or epoch_", "TEXT"),
    Flag("val_period", "--val-period", "1", "validate every N epochs, and after the last"),
    Flag("callbacks", "--callbacks", "", "mlflow, and callbacks of installed packages, by name", "NAME", kind="list"),
    Flag("conf_thres", "--conf-thres", "0.001", "validation: lowest score"),
    Flag("iou_thres", "--iou-thres", "0.6", "validation: NMS overlap"),
    Flag("max_det", "--max-det", "300", "validation: most boxes an image"),
)
OPTIM = (
    Flag("optim.optimizer", "--optimizer --optim.optimizer", "SGD", "SGD, Adam or AdamW", "NAME"),
    Flag("optim.lr0", "--optim.lr0", "0.01", "initial learning rate"),
    Flag("optim.lrf", "--optim.lrf", "0.01", "final rate as a fraction of lr0"),
    switch("optim.cos_lr", "--cos-lr --optim.cos_lr", "cosine instead of linear decay"),
    Flag(
        "optim.schedule",
        "--optim.schedule",
        "",
        "linear, cosine, step, multi-step, exponential, plateau, one-cycle; none: as --cos-lr and the release say",
        "NAME",
    ),
    Flag("optim.milestones", "--optim.milestones", "", "multi-step: epochs where the rate falls", kind="list"),
    Flag("optim.step_epochs", "--optim.step_epochs", "30", "step: epochs between two falls"),
    Flag("optim.gamma", "--optim.gamma", "0.0", "factor of a fall; 0: 0.1, exponential: what ends at lrf"),
    Flag(
        "optim.plateau_patience", "--optim.plateau_patience", "10", "plateau: validations waited for a better fitness"
    ),
    Flag("optim.one_cycle_start", "--optim.one_cycle_start", "0.04", "one-cycle: first rate as a fraction of lr0"),
    Flag("optim.one_cycle_rise", "--optim.one_cycle_rise", "0.3", "one-cycle: share of the run in which it rises"),
    Flag("optim.momentum", "--optim.momentum", "0.937", "SGD momentum, Adam beta1"),
    Flag("optim.weight_decay", "--optim.weight_decay", "0.0005", "at the nominal batch size"),
    Flag("optim.release", "--optim.release", "", "schedule of v7.0, v6.1 ... v1.0 or v3; none: v7.0", "NAME"),
    Flag("optim.warmup_epochs", "--optim.warmup_epochs", "3.0", "epochs of warm-up; release v3: 0 or the first one"),
    Flag(
        "optim.warmup_momentum",
        "--optim.warmup_momentum",
        "0.8",
        "momentum where the warm-up begins, or one-cycle is highest",
    ),
    Flag("optim.warmup_bias_lr", "--optim.warmup_bias_lr", "0.1", "rate of biases where the warm-up begins"),
    Flag(
        "optim.nominal_batch_size", "--optim.nominal_batch_size", "64", "gradients are gathered over this many images"
    ),
    Flag("optim.clip_norm", "--optim.clip_norm", "10.0", "largest gradient norm; 0: any"),
    Flag("optim.ema_decay", "--optim.ema_decay", "0.9999", "decay of the averaged weights"),
    Flag("optim.ema_tau", "--optim.ema_tau", "2000.0", "updates over which that decay ramps up"),
)
LOSS = (
    Flag("loss.recipe", "--loss.recipe", "", "v7.0, v4.0 ... v1.0, v3: published loss; none: the model's", "NAME"),
    Flag("loss.box", "--loss.box", "0.05", "gain of the box term"),
    Flag("loss.cls", "--loss.cls", "0.5", "gain of the class term"),
    Flag("loss.obj", "--loss.obj", "1.0", "gain of the objectness term"),
    Flag("loss.cls_pw", "--loss.cls_pw", "1.0", "weight of positives in the class term"),
    Flag("loss.obj_pw", "--loss.obj_pw", "1.0", "weight of positives in the objectness term"),
    Flag("loss.anchor_t", "--loss.anchor_t", "4.0", "largest side ratio of label to anchor that matches"),
    Flag("loss.iou_t", "--loss.iou_t", "0.2", "recipe v3: overlap of label and anchor sides above which they match"),
    Flag("loss.iou_kind", "--loss.iou_kind", "", "iou, giou, diou or ciou in the box term; none: as published", "KIND"),
    Flag("loss.fl_gamma", "--loss.fl_gamma", "0.0", "focal loss gamma; 0: plain cross-entropy"),
    Flag("loss.label_smoothing", "--label-smoothing --loss.label_smoothing", "0.0", "softens class targets"),
    switch("loss.autobalance", "--loss.autobalance", "let the weights of the levels follow their losses"),
    Flag("loss.gr", "--loss.gr", "1.0", "share of the overlap in the objectness target"),
    switch("loss.sort_obj_iou", "--loss.sort_obj_iou", "in one cell the best overlap wins, not the last label"),
)
AUGMENT = (
    Flag("augment.hsv_h", "--augment.hsv_h", "0.015", "hue gain"),
    Flag("augment.hsv_s", "--augment.hsv_s", "0.7", "saturation gain"),
    Flag("augment.hsv_v", "--augment.hsv_v", "0.4", "value gain"),
    Flag("augment.degrees", "--augment.degrees", "0.0", "rotation in +- degrees"),
    Flag("augment.translate", "--augment.translate", "0.1", "shift in +- fraction of the side"),
    Flag("augment.scale", "--augment.scale", "0.5", "zoom in 1 +- scale"),
    Flag("augment.shear", "--augment.shear", "0.0", "shear in +- degrees"),
    Flag("augment.perspective", "--augment.perspective", "0.0", "perspective in +- this, up to 0.001"),
    Flag("augment.flipud", "--augment.flipud", "0.0", "probability of an up-down flip"),
    Flag("augment.fliplr", "--augment.fliplr", "0.5", "probability of a left-right flip"),
    Flag("augment.mosaic", "--augment.mosaic", "1.0", "probability of a mosaic"),
    Flag("augment.mosaic9", "--augment.mosaic9", "0.0", "share of the mosaics that are made of nine, not four"),
    Flag("augment.mixup", "--augment.mixup", "0.0", "probability that a mosaic is blended with another"),
    Flag("augment.copy_paste", "--augment.copy_paste", "0.0", "share of polygon objects pasted mirrored"),
    Flag("augment.release", "--augment.release", "", "warp and kept boxes of v7.0 ... v1.0 or v3; none: v7.0", "NAME"),
)
GROUPS = {
    "the run": RUN,
    "data": DATA,
    "output": OUTPUT,
    "optimizer": OPTIM,
    "loss": LOSS,
    "augmentation": AUGMENT,
}


def parser() -> Parser:
    made = Parser("train", f"Train a detector. Settings are merged: --hyp < --config < flags. {HINT}")
    files = made.add_argument_group("files of settings")
    files.add_argument(
        "--hyp", metavar="HYP", default="", help="preset (scratch-low, VOC, ...) or hyper-parameter yaml"
    )
    files.add_argument("--config", metavar="YAML", default="", help="yaml of settings, or a run folder")
    files.add_argument("--run", metavar="YAML", default="", help="run yaml: data, model and folders in one file")
    files.add_argument(
        "--resume",
        metavar="PT",
        nargs="?",
        const="",
        help="go on with a stopped run: its last.pt or folder; alone: the newest run",
    )
    for title, flags in GROUPS.items():
        made.add_flags(title, flags)
    return made


def run(argv: Sequence[str]) -> int:
    if asks_for_fusion(argv):
        from boxwright.cli import fusion_train

        return fusion_train.run(argv)
    given = parser().parse_strictly(argv)
    hyp, config, resume, run_file = (given.pop(name) for name in ("hyp", "config", "resume", "run"))
    from boxwright.settings.base import CHANGED_ON_RESUME
    from boxwright.settings.load import load
    from boxwright.yolo.settings import RunConfig

    flags = origins(given, *GROUPS.values())
    if resume is not None:
        others = {name: setting for name, setting in flags.items() if name not in CHANGED_ON_RESUME}
        _refuse_other_settings({"--hyp": hyp, "--config": config, "--run": run_file}, others)
    if run_file:
        if config:
            raise UserError("--config does not go with --run: the run yaml and flags hold the settings")
        from boxwright.yolo.verbs.run_yaml import train_from_yaml

        train_from_yaml(run_file, flags, hyp=hyp)
        return 0
    settings = load(RunConfig, flags, hyp=hyp, config=config)
    from boxwright.engine.run import resume as resume_run
    from boxwright.systems import run_class
    from boxwright.yolo.verbs.train import train

    if resume is None:
        train(settings)
    else:
        overrides = {name: getattr(settings, name) for name in CHANGED_ON_RESUME if name in given}
        resume_run(Path(resume) if resume else None, overrides, run_class)
    return 0


def _refuse_other_settings(files: Mapping[str, str], flags: Mapping[str, Setting]) -> None:
    """A resumed run equals one that was not stopped, so it keeps its settings."""
    refused = [name for name, value in files.items() if value]
    refused += [setting.origin for setting in flags.values()]
    if refused:
        raise UserError(
            f"--resume goes on with the run's own settings: leave out {', '.join(refused)} "
            "(only --workers, --device, --nproc and --epochs can be changed)"
        )
