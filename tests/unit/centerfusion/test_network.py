"""The centre network: widths, with and without radar, node kinds, freezing, precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from boxwright.centerfusion.dla import Upsampling
from boxwright.centerfusion.frustum import associate
from boxwright.centerfusion.network import (
    BACKBONE,
    CAMERA_HEADS,
    FIRST_HEADS,
    SECOND_HEADS,
    CenterFusion,
    CenterFusionSpec,
)
from boxwright.errors import UserError

CALIB = torch.tensor([[1200.0, 0, 800, 0], [0, 1200, 450, 0], [0, 0, 1, 0]])


def small(**changes: object) -> CenterFusion:
    torch.manual_seed(0)
    return CenterFusion(CenterFusionSpec(**{"width": 0.125, "head_conv": 64} | changes))  # type: ignore[arg-type]


def images(batch: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_spec_round_trip() -> None:
    spec = CenterFusionSpec(width=0.5, radar=False, dla_node="conv", head_conv=32)
    assert CenterFusionSpec.from_mapping(dict(spec)) == spec
    assert CenterFusionSpec.from_mapping({"width": 1}) == CenterFusionSpec()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"width": "wide"}, "ckpt: width: Input should be a valid number, not 'wide'"),
        ({"radar": 1}, "radar: Input should be a valid boolean, not 1"),
        ({"depth": 34}, "depth: Extra inputs are not permitted"),
        ({"dla_node": "gcn"}, "dla_node: Input should be 'dcn' or 'conv'"),
        ({"width": 0.0}, "width: Input should be greater than 0"),
        ({"head_conv": 0}, "head_conv: Input should be greater than or equal to 1"),
    ],
)
def test_malformed_spec(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CenterFusionSpec.from_mapping(mapping, "ckpt")


def test_width_scales_all_channels() -> None:
    whole, half = CenterFusion(CenterFusionSpec()), CenterFusion(CenterFusionSpec(width=0.5))
    given = whole.state_dict()
    for name, value in half.state_dict().items():
        if value.dim() == 4 and not name.startswith((*FIRST_HEADS, *SECOND_HEADS)) and "offset_mask" not in name:
            assert value.shape[0] == given[name].shape[0] / 2, name
    assert half.hm[0].out_channels == 128
    assert half.velocity[0].in_channels == 32 + 3
    narrow = [m.out_channels for m in small(width=0.1).base.modules() if isinstance(m, nn.Conv2d)]
    assert all(channels % 4 == 0 for channels in narrow)
    assert max(narrow) == 52  # 512 * 0.1


@pytest.mark.parametrize("node", ["dcn", "conv"])
def test_with_radar(node: str) -> None:
    model = small(dla_node=node)
    radar = torch.zeros(2, 3, 16, 24)
    radar[:, 0, 4:12, 4:20] = torch.linspace(1, 60, 16)
    calibs = CALIB.expand(2, 3, 4)
    heads = model.eval()(images(), radar, calibs)
    sizes = {name: value.shape[1] for name, value in heads.items()}
    assert sizes == FIRST_HEADS | SECOND_HEADS | {"hm": 10, "pc_hm": 3}
    assert all(value.shape[2:] == (16, 24) for value in heads.values())
    expected = associate(heads, radar, calibs, model.frustum)
    torch.testing.assert_close(heads["pc_hm"], expected, rtol=0, atol=0)
    given = model(images(), association=expected)
    torch.testing.assert_close(given, heads)
    other = model(images(), association=torch.zeros_like(expected) + 0.5)
    assert torch.equal(other["hm"], heads["hm"])
    assert not torch.equal(other["velocity"], heads["velocity"])
    with pytest.raises(ValueError, match="needs a radar map"):
        model(images(), radar)


def test_without_radar() -> None:
    model = small(radar=False)
    heads = model(images())
    assert {name: value.shape[1] for name, value in heads.items()} == FIRST_HEADS | CAMERA_HEADS | {"hm": 10}
    assert [type(layer).__name__ for layer in model.velocity] == ["Conv2d", "ReLU", "Conv2d"]
    assert model.velocity[0].in_channels == 8


def test_gradients_reach_all_but_what_is_named() -> None:
    model = small()
    heads = model(images(), association=torch.rand(2, 3, 16, 24))
    sum(value.square().mean() for name, value in heads.items() if name != "pc_hm").backward()  # type: ignore[union-attr]
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == [name for name, _ in model.named_parameters() if name.startswith(model.unused_prefixes)]
    assert len(without) == 6


def test_unused_projections_move_their_statistics_in_training_only() -> None:
    model = small().eval()
    before = model.base.level3.project[1].running_mean.clone()
    association = torch.zeros(2, 3, 16, 24)
    model(images(), association=association)
    assert torch.equal(model.base.level3.project[1].running_mean, before)
    model.train()(images(), association=association)
    assert not torch.equal(model.base.level3.project[1].running_mean, before)


def test_freezing_the_backbone_leaves_the_heads() -> None:
    model = small()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(BACKBONE))
    before = model.base.level2.root.bn.running_mean.clone()
    heads = model(images(), association=torch.rand(2, 3, 16, 24))
    sum(value.square().mean() for name, value in heads.items() if name != "pc_hm").backward()  # type: ignore[union-attr]
    got = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert got == {*FIRST_HEADS, *SECOND_HEADS}
    assert not torch.equal(model.base.level2.root.bn.running_mean, before)  # as published


def test_bf16_is_close_and_trains() -> None:
    model = small().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    association = torch.rand(2, 3, 16, 24)
    batch = images().contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model.eval()(batch, association=association)  # batch statistics of six cells would blow up rounding
    with torch.no_grad():
        expected = model(batch, association=association)
    for name in (*model.first_heads, *model.second_heads):
        difference = float((low[name].float() - expected[name]).norm() / expected[name].norm())
        assert difference < 0.03, (name, difference)
    with torch.autocast("cpu", torch.bfloat16):
        heads = model.train()(batch, association=association)
    assert heads["dep_sec"].dtype == torch.bfloat16
    heads["dep_sec"].float().square().mean().backward()
    gradient = model.base.base_layer[0].weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.any()


def test_features_stay_in_channels_last() -> None:
    """Layers that fall out of it copy whole maps."""
    model = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads = model(images().contiguous(memory_format=torch.channels_last), association=torch.rand(2, 3, 16, 24))
    assert heads["rot"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_interpolates(factor: int) -> None:
    line = torch.arange(8.0)
    plane = (2 * line[:, None] + line)[None, None]
    up = Upsampling(1, factor)(plane)
    inner = slice(factor, -factor)
    expected = nn.functional.interpolate(plane, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up[..., inner, inner], expected[..., inner, inner])
