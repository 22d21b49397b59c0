"""Networks of a cfg: groups of channels, stretched and squared boxes, weighted shortcuts, the YOLOv4 family, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.darknet import DarknetModel, read_darknet, write_darknet
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.export import ExportRows
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import load_spec

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nactivation={}\n"
    "[yolo]\nmask=0,1\nanchors=10,13, 16,30\nclasses=2\nnum=2\njitter=.3\n{}\n"
)


def stem(filters: int, stride: int = 4) -> str:
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\nstride={stride}\npad=1\nactivation=leaky\n"


def build(text: str) -> DarknetModel:
    torch.manual_seed(0)
    return DarknetModel(DarknetSpec.from_text(text)).eval()


def test_a_route_of_groups_gives_a_part_of_the_channels() -> None:
    model = build(NET + stem(12) + "[route]\nlayers=-1\ngroups=3\ngroup_id=1\n" + HEAD.format("linear", ""))
    whole = torch.rand(1, 12, 5, 5)
    torch.testing.assert_close(model.module_list[1](whole), whole[:, 4:8])
    # The stem, then a predictor of 4 channels and not of 12.
    assert [layer.num_parameters for layer in model.layers] == [12 * 27 + 24, 0, 14 * 4 + 14, 0]


def test_a_route_of_groups_takes_its_part_of_every_layer() -> None:
    route = "[route]\nlayers=-1,-2\ngroups=2\n"
    model = build(NET + stem(4) + stem(8, 1) + route + HEAD.format("linear", ""))
    first, second = torch.rand(1, 8, 5, 5), torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(model.module_list[2](first, second), torch.cat((first[:, :4], second[:, :2]), dim=1))


@pytest.mark.parametrize("scale", [1.05, 1.2, 2.0])
def test_scale_x_y_stretches_centres_about_the_middle_of_a_cell(scale: float) -> None:
    model = build(NET + stem(4, 8) + HEAD.format("linear", f"scale_x_y={scale}"))
    raw = torch.zeros(1, 2, 3, 3, 7)
    raw[0, 1, 2, 1, :3] = torch.tensor([4.0, -1.0, 0.5])
    x, y, w, h = model.decode([raw])[0].view(2, 3, 3, 7)[1, 2, 1, :4].tolist()
    at_4, at_minus_1 = (1 / (1 + math.exp(-t)) for t in (4.0, -1.0))
    assert x == pytest.approx((at_4 * scale - (scale - 1) / 2 + 1) * 8, abs=1e-4)
    assert y == pytest.approx((at_minus_1 * scale - (scale - 1) / 2 + 2) * 8, abs=1e-4)
    assert (w, h) == pytest.approx((16 * math.exp(0.5), 30), rel=1e-5)


def test_new_coords_reads_sides_as_squares() -> None:
    model = build(NET + stem(4, 8) + HEAD.format("logistic", "new_coords=1\nscale_x_y=2.0"))
    raw = torch.zeros(1, 2, 3, 3, 7)
    raw[0, 1, 2, 1] = torch.tensor([4.0, -1.0, 0.5, -2.0, 1.0, 3.0, -3.0])
    found = model.decode([raw])[0].view(2, 3, 3, 7)[1, 2, 1].tolist()
    x, y, w, h, *scores = (1 / (1 + math.exp(-t)) for t in (4.0, -1.0, 0.5, -2.0, 1.0, 3.0, -3.0))
    expected = ((2 * x - 0.5 + 1) * 8, (2 * y - 0.5 + 2) * 8, 16 * (2 * w) ** 2, 30 * (2 * h) ** 2, *scores)
    assert found == pytest.approx(expected, rel=1e-5)
    # A new network begins with raw numbers that are no scores yet: the loss takes logits.
    assert float(model(torch.rand(1, 3, 64, 64))[0].detach()[..., 4].max()) < 0


@pytest.mark.parametrize(
    ("activation", "yolo"), [("linear", "scale_x_y=1.1"), ("logistic", "new_coords=1\nscale_x_y=1.5")]
)
def test_exported_rows_are_those_of_the_network(activation: str, yolo: str) -> None:
    model = build(NET + stem(4, 8) + HEAD.format(activation, yolo))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ExportRows(fuse(model))(image), model.decode(model(image)), rtol=1e-4, atol=1e-4)


SHORTCUT = NET + stem(6) + stem(6, 1) + stem(4, 1) + "[shortcut]\nfrom=-2,-3\n{}\n" + HEAD.format("linear", "")


def naive_sum(kind: str, how: str, weights: np.ndarray, inputs: list[np.ndarray]) -> np.ndarray:
    """Number by number: out[c] = sum over inputs of weight(input, c) * input[c], where an input has such a channel."""
    total = np.zeros_like(inputs[0])
    for c in range(total.shape[0]):
        w = weights[:, c if kind == "per_channel" else 0].astype(np.float64)
        w = np.maximum(w, 0) if how == "relu" else np.exp(w - w.max()) if how == "softmax" else w
        w = w if how == "none" else w / (w.sum() + 1e-4)
        for i, one in enumerate(inputs):
            if c < one.shape[0]:
                total[c] += w[i] * one[c]
    return total


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
@pytest.mark.parametrize("how", ["none", "relu", "softmax"])
def test_weighted_shortcuts(kind: str, how: str, tmp_path: Path) -> None:
    model = build(SHORTCUT.format(f"weights_type={kind}\nweights_normalization={how}"))
    layer = model.module_list[3]
    weights = torch.randn(3, 4 if kind == "per_channel" else 1, 1, 1)
    with torch.no_grad():
        layer.weights.copy_(weights)
    inputs = [torch.rand(1, channels, 5, 5) for channels in (4, 6, 6)]
    expected = naive_sum(kind, how, weights.flatten(1).numpy(), [one[0].numpy() for one in inputs])
    np.testing.assert_allclose(layer(*inputs)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    half = [one.bfloat16() for one in inputs]
    assert layer(*half).dtype == torch.bfloat16
    # In a file they stand between the convolutions, one input after the other.
    write_darknet(tmp_path / "net.weights", model)
    numbers = np.frombuffer((tmp_path / "net.weights").read_bytes()[20:], "<f4")
    before = sum(v.numel() for k, v in model.state_dict().items() if int(k.split(".")[1]) < 3 and "num_b" not in k)
    np.testing.assert_array_equal(numbers[before : before + weights.numel()], weights.flatten().numpy())
    read = read_darknet(tmp_path / "net.weights", model.spec).state_dict
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


def test_a_shortcut_of_other_channels_adds_those_that_both_have() -> None:
    model = build(SHORTCUT.format("activation=relu"))
    now, wide, small = torch.randn(1, 4, 5, 5), torch.randn(1, 6, 5, 5), torch.randn(1, 2, 5, 5)
    expected = now + wide[:, :4]
    expected[:, :2] += small
    torch.testing.assert_close(model.module_list[3](now, wide, small), expected.relu())


def test_weights_without_a_normalisation_are_not_written(tmp_path: Path) -> None:
    model = build(SHORTCUT.format("weights_type=per_feature"))
    inputs = [torch.rand(1, channels, 5, 5) for channels in (4, 6, 6)]
    # As the published YOLOv3-SPP for PyTorch begins: sigmoid(0) * 2 / 3 each.
    expected = sum(one[:, :4] for one in inputs) / 3
    torch.testing.assert_close(model.module_list[3](*inputs), expected)
    with pytest.raises(UserError, match=r"module_list\.3\.w is a shortcut weight without weights_normalization"):
        write_darknet(tmp_path / "net.weights", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "file_size", "strides"),
    [
        # Bytes of the published files; those of yolov4-tiny-3l and yolov4x-mish are counted from the cfg.
        ("yolov4", 162, 64_363_101, 257_717_640, (8, 16, 32)),
        ("yolov4-tiny", 38, 6_056_606, 24_251_276, (32, 16)),
        ("yolov4-tiny-3l", 45, 6_327_453, 25_336_200, (32, 16, 8)),
        ("yolov4-csp", 175, 52_921_437, 211_944_840, (8, 16, 32)),
        ("yolov4x-mish", 203, 99_751_053, 399_388_168, (8, 16, 32)),
    ],
)
def test_the_yolov4_family(name: str, layers: int, parameters: int, file_size: int, strides: tuple[int, ...]) -> None:
    spec = load_spec(name)
    assert isinstance(spec, DarknetSpec)
    with torch.device("meta"):
        model = DarknetModel(spec)
    assert len(spec.sections) == layers
    assert sum(p.numel() for p in model.parameters()) == parameters
    statistics = sum(value.numel() for key, value in model.state_dict().items() if "running" in key)
    assert 20 + 4 * (parameters + statistics) == file_size
    if parameters < 10_000_000:  # those of the large ones are in what OpenCV computes, see tests/parity
        assert DarknetModel(spec).strides == strides
    assert DarknetSpec.from_text(spec.to_text()) == spec
    squared = name in ("yolov4-csp", "yolov4x-mish")
    assert [coding.squared for coding in model.box_codings] == [squared] * len(strides)
    scales = {"yolov4": [1.2, 1.1, 1.05]}.get(name, [2.0 if squared else 1.05] * len(strides))
    assert [coding.scale_xy for coding in model.box_codings] == scales
