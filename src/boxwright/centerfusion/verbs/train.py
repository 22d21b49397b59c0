"""The train verb of CenterFusion: what a run is made of, its settings filled in, its data, network and plots."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from boxwright.centerfusion.frustum import FrustumOptions
from boxwright.centerfusion.network import BACKBONE, CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FusionConfig, FusionValConfig, NetworkConfig
from boxwright.centerfusion.structures import Batch3d
from boxwright.centerfusion.task import CenterFusionTask
from boxwright.centerfusion.verbs.data import choose_split, open_root
from boxwright.centerfusion.verbs.use import LAYOUT, fusion_val
from boxwright.centerfusion.weights import load_into
from boxwright.data.files import absolute_path, picture_errors
from boxwright.data.identity import check_same_data, describe_data
from boxwright.engine import run
from boxwright.engine.callbacks import Callback, FirstBatches
from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.engine.loggers import default_loggers
from boxwright.errors import UserError
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.reading import parsing
from boxwright.reporting.report import best_epoch, write_report
from boxwright.settings.base import TrainingConfig
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.train")
_FALL = 5 / 6  # of a run: published, epoch 50 of 60


def train(config: FusionConfig, callbacks: Sequence[Callback] = ()) -> Path:
    """Train CenterFusion from scratch or from weights, see `engine.run.train`; return the run folder."""
    return run.train(config, FusionRun, callbacks)


class FusionRun:
    """A training run of CenterFusion, see `engine.run.PreparedRun`."""

    settings: ClassVar[type[TrainingConfig]] = FusionConfig

    def __init__(self, config: FusionConfig, model: CenterFusion, train: NuscenesSplit, val: NuscenesSplit) -> None:
        self.config = config
        self.model = model
        self.train_split = train
        self.val_split = val
        self.earlier = None  # it starts from weights alone
        model.frustum, model.num_peaks = FrustumOptions.of(config), config.max_det

    @classmethod
    def completed(cls, config: FusionConfig) -> FusionConfig:
        """Refuse settings without data, and set the milestones."""
        if not config.data:
            raise UserError("train needs --data: a nuScenes root")
        return with_milestones(config)

    @classmethod
    def begin(cls, config: FusionConfig, policy: Policy, world: World) -> Self:
        """Prepare a new run."""
        check_loading(config, world)
        place = str(absolute_path(config.data))  # a resume may start in another folder
        config = config.model_copy(update={"data": place})
        train, val = _open(config, world)
        config = config.model_copy(update={"version": train.index.version})
        torch.manual_seed(config.seed)
        model = CenterFusion(spec_of(config))
        # Of the published depth the bias is 0 but for rounding.
        if config.network.first_depth != NetworkConfig().first_depth:
            model.start_at_depth(config.network.first_depth)
        if config.weights and world.is_first:  # the others get theirs when the task is made
            print(load_into(model, config.weights))
        elif world.is_first and config.network == NetworkConfig():  # that the published weights fit
            start = (
                "ImageNet weights, --weights dla34-ba72cf86.pth"
                if config.no_radar
                else ("the camera-only baseline, --weights centernet_baseline_e170.pth")
            )
            _log.info("starts from random weights; the published run starts from %s", start)
        return cls(config, model, train, val)

    @classmethod
    def go_on(cls, config: FusionConfig, content: Mapping[str, Any], world: World) -> Self:
        """Prepare the run of a checkpoint."""
        check_loading(config, world)
        with parsing("the checkpoint", "checkpoint of a run"):
            model = CenterFusion(CenterFusionSpec.from_mapping(content["model"]["spec"]))
            model.load_state_dict(content["state_dict"])
        train, val = _open(config, world)
        moved = config.data != content["config"]["data"]
        check_same_data(content.get("data", {}), describe_data(train, val), config.data, moved=moved)
        return cls(config, model, train, val)

    def freeze(self) -> Sequence[str]:
        """Freeze the backbone if asked for, and what never has a gradient (docs/spec/centerfusion.md, C5)."""
        prefixes = (*(BACKBONE if self.config.freeze_backbone else ()), *self.model.unused_prefixes)
        frozen = [name for name, _ in self.model.named_parameters() if name.startswith(prefixes)]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(prefixes))
        return frozen if self.config.freeze_backbone else ()

    def make_task(self, device: torch.device, world: World) -> CenterFusionTask:
        """Make the task: network, losses, loaders and metric."""
        return CenterFusionTask(self.model, self.train_split, self.val_split, self.config, device, world)

    def logs(self, folder: Path) -> Sequence[Callback]:
        """Make the loggers of every run."""
        config = self.config
        parameters = sum(p.numel() for p in self.model.parameters())
        images = f"{len(self.train_split)} images to train on, {len(self.val_split)} to validate on"
        width, height = config.imgsz[1], config.imgsz[0]
        about = {
            "model": f"{config.model}, {parameters:,} parameters",
            "sensors": "camera" if config.no_radar else f"camera and radar, {config.radar.sweeps} sweeps",
            "started from": config.weights or "random weights",
            "data": f"{config.data}, {config.version}: {images}",
            "settings": f"{counted(config.epochs, 'epoch')}, batches of {config.batch_size}, {width} x {height} pixels",
        }

        def draw(batch: Batch3d, number: int) -> None:
            from boxwright.centerfusion.pictures import plot_fusion_batch

            with picture_errors():
                plot_fusion_batch(batch, folder / f"train_batch{number}.jpg")

        return (*default_loggers(folder, about=about), *([] if config.noplots else [FirstBatches(draw)]))

    def log_summary(self, policy: Policy, folder: Path) -> None:
        """Print what is trained on what."""
        config = self.config
        parameters = sum(p.numel() for p in self.model.parameters())
        senses = "camera only" if config.no_radar else f"camera and radar, {counted(config.radar.sweeps, 'sweep')}"
        print(
            f"{config.model}: {parameters:,} parameters, {senses}; "
            f"{counted(len(self.train_split), 'image')} to train on, "
            f"{len(self.val_split)} to validate on; {policy.device}, {policy.name}; {folder}"
        )

    def finish(self, folder: Path, policy: Policy) -> None:
        """Measure the best weights once more, in full precision, draw the curves and write the report."""
        config, best = self.config, folder / "weights" / "best.pt"
        if best.exists():
            # The weights know by themselves whether they were trained with radar.
            own = {"split": config.val_split, "no_radar": False}
            fusion_val(run.settings_of_validation(FusionValConfig, config, folder, policy, **own))
        if not config.noplots:
            with picture_errors():
                from boxwright.reporting.plots import plot_results

                plot_results(folder / "results.csv", folder / "results.png", LAYOUT.panels, best_epoch(folder))
            given = shlex.join(["--weights", str(best), "--data", config.data, "--version", config.version])
            commands = (
                "# draw a drive",
                f"boxwright predict --model {config.model} {given}",
                "# measure with mirrored images too",
                f"boxwright val --model {config.model} {given} --flip-test",
                "# train once more with these settings",
                shlex.join(["boxwright", "train", "--config", str(folder)]),
            )
            with picture_errors():
                page = write_report(folder, LAYOUT, title=f"Training run {folder.name}", commands=commands)
                print(f"report: {page}")


def with_milestones(config: FusionConfig) -> FusionConfig:
    """Set the published fall of the rate, after five sixths of the run, where none was named."""
    optim = config.optim
    if optim.schedule != "multi-step" or optim.milestones:
        return config
    fall = int(config.epochs * _FALL)
    change = {"milestones": (fall,)} if 0 < fall < config.epochs else {"schedule": "step"}  # of one epoch: none
    return config.model_copy(update={"optim": optim.model_copy(update=change)})


def check_loading(config: FusionConfig, world: World) -> None:
    """Raise a UserError where batches cannot be made as the settings say."""
    if config.batch_size % world.size:
        below = config.batch_size // world.size * world.size
        raise UserError(
            f"--batch-size {config.batch_size} cannot be shared evenly by {world.size} processes; take "
            f"{below or below + world.size}"
        )


def spec_of(config: FusionConfig) -> CenterFusionSpec:
    """Describe the network that the settings ask for."""
    network = config.network
    return CenterFusionSpec(
        width=network.width, radar=not config.no_radar, dla_node=network.dla_node, head_conv=network.head_conv
    )


def _open(config: FusionConfig, world: World) -> tuple[NuscenesSplit, NuscenesSplit]:
    """Open both splits; refuse splits without annotations, or that differ from rank to rank."""
    with world.first_of_each_machine_first():  # it writes the index that the others read
        index = open_root(config)
        names = (config.train_split, ("mini_train", "train")), (config.val_split, ("mini_val", "val", "test"))
        train, val = (
            NuscenesSplit(index, choose_split(index, *name), config.num_sweeps, reading=config.radar) for name in names
        )
    for split in (train, val):
        if not split.has_annotations:
            raise UserError(f"{split.index.folder} has no annotations of the split {split.split}")
    counts = world.all((len(train), len(val)))
    for rank, other in enumerate(counts):
        if other != counts[0]:
            raise UserError(
                f"{config.data} is another data set for rank {rank} than for rank 0: {other[0]} images to train and "
                f"{other[1]} to validate on, not {counts[0][0]} and {counts[0][1]}; every machine needs the same files"
            )
    return train, val
