"""Focus and the 6x6 convolution that stands for it give the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.settings import WeightsConfig
from boxwright.yolo.verbs.convert import weights, with_conv6_stem
from boxwright.yolo.weights import load_model
from boxwright.yolo.zoo import build_model, load_spec


@pytest.mark.parametrize("name", ["yolov5s@v1.0", "yolov5s@v3.1", "yolov5s@v5.0"])
def test_same_numbers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(load_spec(name, 3), ["a", "b", "ü"]).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
    source = _saved(model, tmp_path / "focus.safetensors")
    weights(WeightsConfig(source=str(source), target=str(tmp_path / "conv6.pt"), stem="conv6"))
    made = load_model(tmp_path / "conv6.pt").eval()
    assert made.layers[0].block == "Conv"
    assert made.names == model.names
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(made(images), model(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters())


def _saved(model: DetectionModel, path: Path) -> Path:
    from boxwright.checkpoints.safetensors_file import write_safetensors

    write_safetensors(path, model.state_dict(), model.describe())
    return path


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny"])
def test_a_network_without_focus(name: str) -> None:
    with pytest.raises(UserError, match="begins with a 3x3 Focus"):
        with_conv6_stem(build_model(load_spec(name, 2)))
