"""From settings to what training runs with: each setting that shapes samples, network or losses changes something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.centerfusion.frustum import FrustumOptions, associate, associate_targets
from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.network import CenterFusion
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.task import CenterFusionTask
from boxwright.centerfusion.verbs.train import spec_of
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.settings.flags import setting_names
from boxwright.settings.load import load
from tests.integration.fusion_runs import VERSION, tiny_settings, write_root
from tests.unit.centerfusion.scenes3d import annotated

OTHER_VALUES: dict[str, Any] = {
    "imgsz": [64, 96],
    "compat": "fixed",
    "no_radar": True,
    "network.width": 0.5,
    "network.dla_node": "conv",
    "network.head_conv": 64,
    "radar.sweeps": 6,
    "radar.max_depth": 30.0,
    "radar.pillar_dims": [1.0, 0.3, 0.4],
    "radar.z_offset": 0.5,
    "radar.dyn_prop": [0, 7],
    "radar.ambig_state": [],
    "radar.invalid_state": [0, 4],
    "radar.move_points": True,
    "frustum.enabled": False,
    "frustum.expansion_ratio": 0.25,
    "frustum.window_ratio": 0.5,
    "frustum.normalize_depth": False,
    "frustum.by_depth": True,
    "augment.flip": 0.25,
    "augment.shift": 0.2,
    "augment.scale": 0.3,
    "augment.rotate": 7.0,
    "augment.rotate_prob": 0.75,
    "augment.random_crop": True,
    "augment.max_crop": False,
    "augment.color": False,
    "augment.reduced_decoding": True,
} | {f"loss.{name}": 0.3 for name in FusionConfig().loss.model_dump()}
ELSEWHERE = {"network.first_depth"}  # what `FusionRun.begin` gives the network; test_fusion_training.py


def made(config: FusionConfig) -> dict[str, Any]:
    """All that the settings become, by name."""
    parts = {"frustum": FrustumOptions.of(config), "network": spec_of(config)}
    parts |= {"radar": config.radar, "augment": config.augment}
    values = {f"{part}.{name}": value for part, of in parts.items() for name, value in of}
    values |= {f"loss.{name}": weight for name, weight in CenterLoss(config.loss).weights.items()}
    values |= {"use_radar": not config.no_radar, "fixed": config.fixed, "input_hw": config.input_hw}
    return values | {"sweeps": config.num_sweeps, "grid_hw": config.grid_hw}


def changed(name: str) -> dict[str, Any]:
    """What another value of a setting makes different."""
    before, after = made(FusionConfig()), made(load(FusionConfig, {name: OTHER_VALUES[name]}))
    return {key: value for key, value in after.items() if value != before[key]}


def test_every_setting_has_a_row_here() -> None:
    sections = ("network.", "radar.", "frustum.", "augment.", "loss.")
    names = {name for name in setting_names(FusionConfig) if name.startswith(sections)}
    assert names == {name for name in OTHER_VALUES if "." in name} | ELSEWHERE


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_setting_arrives_where_it_acts_and_nowhere_else(name: str) -> None:
    expected = OTHER_VALUES[name]
    several: dict[str, dict[str, Any]] = {
        "imgsz": {"input_hw": (64, 96), "grid_hw": (16, 24)},
        "compat": {"fixed": True, "frustum.fixed": True},
        "no_radar": {"use_radar": False, "network.radar": False, "sweeps": 0},
        "radar.sweeps": {"radar.sweeps": 6, "sweeps": 6},
        "radar.max_depth": {"radar.max_depth": 30.0, "frustum.max_depth": 30.0},
        "frustum.enabled": {"frustum.enabled": False, "frustum.fixed": True},
        "loss.dep": {"loss.dep": 0.3, "loss.dep_sec": 0.3},
        "loss.rot": {"loss.rot": 0.3, "loss.rot_sec": 0.3},
    }
    assert changed(name) == several.get(name, {name: tuple(expected) if isinstance(expected, list) else expected})


@pytest.mark.parametrize("compat", ["faithful", "fixed"])
def test_without_association_inference_sees_the_map_that_training_saw(compat: str) -> None:
    options = FrustumOptions.of(load(FusionConfig, {"frustum.enabled": False, "compat": compat}))
    radar, calibs = torch.rand(3, 3, 4, 5) * 50, torch.zeros(3, 3, 4)
    slots = (torch.zeros(3, 1, 4), torch.zeros(3, 1, dtype=torch.bool), torch.zeros(3, 1), torch.zeros(3, 1, 3))
    trained = associate_targets(annotated(*slots, torch.zeros(3, 1), calibs, radar), options)
    assert torch.equal(associate({}, radar, calibs, options), trained)
    assert torch.equal(trained[:, 0], radar[:, 0] / 60)
    assert torch.equal(trained[:, 1:], radar[:, 1:])


def test_training_gives_the_second_heads_the_radar_of_the_annotated_objects(tmp_path: Path) -> None:
    root = write_root(tmp_path / "nuscenes")
    config = load(FusionConfig, tiny_settings(root, tmp_path))
    index = open_nuscenes(root, VERSION, cache_dir=tmp_path / "cache")
    train, val = (NuscenesSplit(index, split, 2) for split in ("train", "val"))
    network = CenterFusion(spec_of(config))
    seen: list[torch.Tensor] = []
    network.register_forward_hook(lambda *passed: seen.append(passed[2]["pc_hm"]))
    task = CenterFusionTask(network, train, val, config, torch.device("cpu"))
    batch = next(task.train_batches(0, 0))
    task.loss(batch, 0, 0)
    task.close()
    expected = associate_targets(batch, FrustumOptions.of(config))
    assert expected.any()
    assert torch.equal(seen[0], expected)
