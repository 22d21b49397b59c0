"""The demo of camera and radar: a small nuScenes root that it makes itself, training, the nuScenes metric, pictures.

The recipe below is for a few minutes on two cores: a narrow network without deformable convolutions, small images, a
rate that rises and falls once, and depth heads that start at the mean depth and do not drown the heat map. No published
weights are involved, so known defects are mended. Real data want the defaults of `boxwright train`.
"""

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from boxwright.centerfusion.settings import (
    MODEL,
    FrustumConfig,
    FusionAugmentConfig,
    FusionConfig,
    FusionDemoConfig,
    FusionLossConfig,
    FusionOptimConfig,
    FusionPredictConfig,
    NetworkConfig,
)
from boxwright.centerfusion.verbs.train import train
from boxwright.centerfusion.verbs.use import LAYOUT, fusion_predict
from boxwright.engine.run_folder import new_run_folder
from boxwright.reporting.report import write_report
from boxwright.synthetic.nuscenes_root import write_nuscenes
from boxwright.synthetic.world import WorldSettings

_LR0 = 8e-3  # highest learning rate
_MEAN_DEPTH = 17.0  # metres, of the objects of the synthetic drives


@dataclass(frozen=True, slots=True)
class FusionDemoSettings:
    """How much the demo does; the default ends within eight minutes on two cores."""

    # 24 scenes to train on and 4 held out, with images small enough for a CPU.
    world: WorldSettings = field(
        default_factory=lambda: WorldSettings(
            scenes=28, width=400, height=225, sweeps=2, objects=54, val_fraction=1 / 7
        )
    )
    imgsz: tuple[int, int] = (192, 320)  # height and width of the network input
    width: float = 0.25  # channels of the network, as a share of the published ones
    epochs: int = 8  # passes over the training images
    batch_size: int = 8  # images per step


def fusion_demo(config: FusionDemoConfig, settings: FusionDemoSettings | None = None) -> Path:
    """Make a nuScenes root, train CenterFusion on it, measure it on scenes held out, draw one of them.

    Args:
        config: settings of the verb.
        settings: how much is done; the default ends within eight minutes on two cores.

    Returns:
        the run folder.
    """
    settings = settings or FusionDemoSettings()
    start = time.perf_counter()
    folder = new_run_folder(config.project, "exp").absolute()
    root = folder / "nuscenes"
    _say(start, f"rendering drives with six cameras and five radars into {root}")
    write_nuscenes(root, replace(settings.world, seed=config.seed))
    _say(start, f"training {MODEL} from scratch, {'cameras only' if config.no_radar else 'cameras and radars'}")
    train(training_settings(folder, root, config, settings))
    _say(start, "drawing a drive that the network has not seen")
    version = settings.world.version
    predicting = FusionPredictConfig(
        weights=str(folder / "weights" / "best.pt"),
        data=str(root),
        version=version,
        scene=f"scene-{9000 + settings.world.scenes}",  # the last one is held out
        device=config.device,
        project=str(folder),
        name="predictions",
    )
    sheets = sorted(fusion_predict(predicting).rglob("*.png"))
    best, data = shlex.quote(str(folder / "weights" / "best.pt")), shlex.quote(str(root))
    commands = (
        f"boxwright val --model {MODEL} --weights {best} --data {data} --version {version} --flip-test",
        f"boxwright predict --model {MODEL} --weights {best} --data {data} --version {version}",
        f"boxwright train --model {MODEL} --data my_nuscenes --version v1.0-mini",
    )
    page = write_report(
        folder,
        LAYOUT,
        title="Boxwright demo: cameras and radars",
        predictions=sheets,
        commands=commands,
    )
    _say(start, "done")
    print(f"\nrun folder: {folder}\nreport: {page}\n\nTry next:\n  " + "\n  ".join(commands))
    return folder


def training_settings(folder: Path, root: Path, config: FusionDemoConfig, settings: FusionDemoSettings) -> FusionConfig:
    """Return the recipe of the demo as settings of `boxwright train`."""
    return FusionConfig(
        data=str(root),
        version=settings.world.version,
        epochs=config.epochs or settings.epochs,
        batch_size=settings.batch_size,
        imgsz=settings.imgsz,
        no_radar=config.no_radar,
        workers=1,
        device=config.device,
        seed=config.seed,
        val_period=max((config.epochs or settings.epochs) // 2, 1),
        save_epochs=(),
        project=str(folder.parent),
        name=folder.name,
        exist_ok=True,
        compat="fixed",
        network=NetworkConfig(width=settings.width, dla_node="conv", head_conv=128, first_depth=_MEAN_DEPTH),
        # Returns lie on the near side of objects, and first depths are rough: wider frustums find them.
        frustum=FrustumConfig(expansion_ratio=1.0),
        # Without shifts a position in the image tells how far the road is there.
        augment=FusionAugmentConfig(shift=0.0),
        loss=FusionLossConfig(dep=0.1, dim=0.5),
        optim=FusionOptimConfig(lr0=_LR0, schedule="one-cycle", one_cycle_start=0.1, clip_norm=10.0),
    )


def _say(start: float, text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"\n[{time.perf_counter() - start:5.0f} s] {text}", flush=True)
