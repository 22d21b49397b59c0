"""A camera and radar checkpoint becomes a detector in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.centerfusion.network import CenterFusionSpec, build_centerfusion
from boxwright.centerfusion.settings import FAMILY, FusionConfig
from boxwright.checkpoints.native import FORMAT, VERSION, save_checkpoint
from boxwright.errors import UserError
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.settings.load import load


def written(path: Path, family: str = FAMILY) -> Path:
    torch.manual_seed(0)
    spec = CenterFusionSpec(width=0.125)
    model = build_centerfusion(spec)
    with torch.no_grad():
        dict(model.named_parameters())["dim.2.bias"].fill_(2.0)
    config = load(FusionConfig, {"imgsz": [64, 96], "radar": {"max_depth": 30.0}})
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"family": family, "spec": spec.to_mapping(), "names": list(CLASS_NAMES)},
        "config": config.model_dump(mode="json"),
        "state_dict": model.state_dict(),
    }
    save_checkpoint(path, content)
    return path


def test_a_checkpoint_is_loaded_with_the_settings_it_was_trained_with(tmp_path: Path) -> None:
    detector = bw.load_fusion(written(tmp_path / "best.pt"), device="cpu")
    assert detector.settings.input_hw == (64, 96)
    assert detector.settings.max_depth == 30.0
    image = np.zeros((90, 160, 3), np.uint8)
    calib = np.array([(120.0, 0, 80), (0, 120.0, 45), (0, 0, 1)])
    found = detector.predict(image, calib, np.zeros((18, 0)), score_threshold=-1.0, max_detections=5)
    assert len(found) == 5
    assert torch.isfinite(found.locations).all()


def test_a_checkpoint_of_another_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other\.pt is not a checkpoint of centerfusion"):
        bw.load_fusion(written(tmp_path / "other.pt", family="detect2d"), device="cpu")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", None, "it has no model"),
        ("config", None, "it has no config"),
        ("state_dict", {}, "its weights are not those of the network that it describes"),
    ],
)
def test_a_damaged_checkpoint_is_told_in_one_sentence(part: str, value: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "best.pt")
    content = torch.load(path, weights_only=True)
    save_checkpoint(path, {**content, part: value})
    with pytest.raises(UserError, match=rf"best\.pt is damaged: {message}$"):
        bw.load_fusion(path, device="cpu")


def test_a_submission_is_measured_as_it_is() -> None:
    with pytest.raises(UserError, match=r"--json measures boxes as they are, .*: leave out flip_test$"):
        bw.val(model="centerfusion-dla34", data="root", json_file="boxes.json", flip_test=True)
