"""Hub blocks from rows of a model yaml, and what needs no recorded vector."""

from typing import Any

import pytest
import torch
from torch import nn

from boxwright.errors import UserError
from boxwright.yolo.graph import ACTIVATIONS, GraphModel
from boxwright.yolo.hub_layers import Contract, Expand, MixConv2d, TransformerBlock
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.zoo import HUB_NAMES, load_spec

ROWS: list[list[Any]] = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "GhostConv", [16, 3, 2]],
    [-1, 3, "C3Ghost", [16]],
    [-1, 1, "GhostBottleneck", [32, 3, 2]],
    [-1, 1, "DWConv", [32, 3, 1, 2]],
    [-1, 2, "C3x", [32]],
    [-1, 2, "C3TR", [32]],
    [-1, 1, "C3SPP", [32, [3, 5]]],
    [-1, 2, "CrossConv", [32, 3]],
    [-1, 1, "MixConv2d", [32, [1, 3]]],
    [-1, 1, "Contract", [2]],
    [-1, 1, "Expand", [2]],
    [-1, 1, "nn.BatchNorm2d", []],
    [-1, 1, "nn.GELU", []],
    [-1, 1, "nn.ConvTranspose2d", [16, 4, 2, 1]],
    [-1, 1, "DWConvTranspose2d", [16, 4, 2, 1]],
    [-1, 1, "Conv", [32, 3, 4]],
]


def network(rows: list[list[Any]], **more: Any) -> GraphModel:
    head = [[[len(rows) - 1], 1, "Detect", ["nc", "anchors"]]]
    mapping = {"nc": 2, "anchors": [[8, 8, 16, 16]], "backbone": rows, "head": head} | more
    return GraphModel(ModelSpec.from_mapping(mapping))


def test_every_block_is_built_from_its_row_and_learns() -> None:
    model = network(ROWS)
    assert model.strides == (8,)
    raw = model(torch.rand(2, 3, 64, 96))
    sum(level.square().mean() for level in raw).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(("block", "inner"), [("C3Ghost", "m"), ("C3TR", "m.tr"), ("C3x", "m")])
def test_repeats_are_inside_the_cross_stage_blocks(block: str, inner: str) -> None:
    built = network([[-1, 1, "Conv", [16, 3, 8]], [-1, 3, block, [16]]]).model[1]
    assert len(list(built.get_submodule(inner).children())) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([-1, 1, "Expand", [3]], "16 channels cannot be divided by 9"),
        ([-1, 1, "MixConv2d", [8, [1, 3, 5, 7, 9, 11, 13, 15, 17]]], "8 channels cannot be shared out to kernels"),
        ([-1, 1, "C3TR", [16, True, 1, 0.4]], "6 inner channels cannot be split into 4 heads"),
        ([-1, 1, "GhostConvolution", [16]], "unknown block GhostConvolution"),
        ([-1, 1, "nn.Softmax2d", []], "unknown block nn.Softmax2d"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_row(row: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        network([ROWS[0], row])
    assert "row 2" in str(error.value)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_name(name: str) -> None:
    model = network(ROWS[:2], activation=f"nn.{name}()")
    assert type(model.model[0].act) is getattr(nn, name)


def test_activation_with_arguments() -> None:
    assert network(ROWS[:1], activation="nn.ELU(alpha=0.5, inplace=True)").model[0].act.alpha == 0.5
    assert network(ROWS[:1], activation="torch.nn.Hardtanh(-2, 3.5)").model[0].act.max_val == 3.5


@pytest.mark.parametrize(
    "text", ["nn.Softmax2d()", "nn.GELU(print(1))", "nn.SiLU().x", "nn.ELU(beta=1)", "__import__('os')"]
)
def test_other_activations_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown activation"):
        network(ROWS[:1], activation=text)
    assert capsys.readouterr().out == ""


def test_expand_undoes_contract() -> None:
    x = torch.rand(2, 6, 8, 12)
    cells = Contract(2)(x)
    torch.testing.assert_close(Expand(2)(cells), x, rtol=0, atol=0)
    # Channels are the fastest part of the index, then the column, then the row.
    torch.testing.assert_close(cells[:, 6:12], x[:, :, ::2, 1::2], rtol=0, atol=0)


def test_mixed_kernels_of_equal_weights() -> None:
    conv = MixConv2d(16, 45, (1, 3, 5), equal_channels=False)
    channels = [part.out_channels for part in conv.m]
    assert channels == [39, 4, 2]  # 45 in proportion to 1, 1/9 and 1/25


def test_transformer_mixes_all_pixels() -> None:
    block = TransformerBlock(8, 4, 1).eval()
    x = torch.rand(1, 8, 3, 5)
    changed = x.clone()
    changed[..., 2, 4] += 1
    assert ((block(changed) - block(x)).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", HUB_NAMES)
def test_hub_models_are_release_7(name: str) -> None:
    assert load_spec(f"{name}.yaml").to_mapping() == load_spec(f"{name}@v7.0").to_mapping()
    with pytest.raises(UserError, match=r"known here as release v7\.0"):
        load_spec(f"{name}@v3.0")


def test_network_of_one_channel_takes_grey_images_and_the_luminance_of_rgb() -> None:
    model = network(ROWS[:1], ch=1).eval()
    assert model.model[0].conv.weight.shape == (16, 1, 3, 3)
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = model(grey)[0]
        torch.testing.assert_close(model(grey.expand(-1, 3, -1, -1))[0], expected)
        green = torch.zeros(2, 3, 64, 64)
        green[:, 1] = 1
        torch.testing.assert_close(model(green)[0], model(torch.full((2, 1, 64, 64), 0.587))[0])


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=r"model yaml: ch: a network takes images of 3 channels \(RGB\) or 1 \(grey\)"):
        network(ROWS[:1], ch=channels)
