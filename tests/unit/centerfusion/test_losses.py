"""The losses of CenterFusion: batches without objects, unknown labels, precision, the names of both kinds of model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.settings import FusionLossConfig
from boxwright.centerfusion.structures import RawHeads, Targets3d

CHANNELS = {
    "hm": 10,
    "reg": 2,
    "wh": 2,
    "dep": 1,
    "rot": 8,
    "dim": 3,
    "amodel_offset": 2,
    "dep_sec": 1,
    "rot_sec": 8,
    "nuscenes_att": 8,
    "velocity": 3,
}


def some_heads(images: int = 2, dtype: torch.dtype = torch.float32) -> RawHeads:
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(images, count, 6, 8, generator=random).to(dtype).requires_grad_()
        for name, count in CHANNELS.items()
    }


def some_targets(images: int = 2, most: int = 5, objects: int = 3) -> Targets3d:
    random = torch.Generator().manual_seed(1)
    valid = (torch.arange(most) < objects).expand(images, most).contiguous()

    def numbers(count: int) -> torch.Tensor:
        return torch.randn(images, most, count, generator=random)

    def marks(count: int) -> torch.Tensor:
        return valid[..., None].expand(-1, -1, count).contiguous()

    return Targets3d(
        heatmap=torch.rand(images, 10, 6, 8, generator=random) * (objects > 0),
        cell=torch.randint(48, (images, most), generator=random),
        label=torch.randint(10, (images, most), generator=random),
        valid=valid,
        boxes=numbers(4),
        offset=numbers(2),
        size=numbers(2),
        depth=numbers(1),
        depth_valid=marks(1),
        dims=numbers(3),
        amodel_offset=numbers(2),
        velocity=numbers(3),
        velocity_valid=marks(3),
        attributes=torch.zeros(images, most, 8),
        attributes_valid=marks(8),
        rot_bins=torch.randint(2, (images, most, 2), generator=random),
        rot_residuals=numbers(2),
        rot_valid=valid.clone(),
        annotation_depth=numbers(1)[..., 0],
        alpha=numbers(1)[..., 0],
    )


@pytest.mark.parametrize("most", [0, 5])
def test_without_objects_only_the_heat_map_costs(most: int) -> None:
    heads = some_heads()
    total, items = CenterLoss()(heads, some_targets(most=most, objects=0))
    total.backward()
    assert items[1] > 0
    assert items[0] == items[1]
    assert not items[2:].any()
    for name, values in heads.items():
        assert values.grad is not None
        assert bool(values.grad.any()) == (name == "hm")


def test_nan_velocity_that_is_not_counted_leaves_no_trace() -> None:
    targets = some_targets()
    known = targets.velocity_valid.clone()
    known[:, 1] = False
    velocity = targets.velocity.clone()
    velocity[:, 1] = math.nan
    without, expected = (
        replace(targets, velocity=velocity, velocity_valid=known),
        replace(targets, velocity_valid=known),
    )
    heads, others = some_heads(), some_heads()
    total, items = CenterLoss()(heads, without)
    other_total, other_items = CenterLoss()(others, expected)
    total.backward()
    other_total.backward()
    assert torch.equal(items, other_items)
    assert heads["velocity"].grad is not None
    assert torch.isfinite(heads["velocity"].grad).all()


def test_what_lies_in_padding_does_not_count() -> None:
    targets = some_targets()
    changed = replace(
        targets,
        cell=targets.cell.masked_fill(~targets.valid, 47),
        rot_bins=targets.rot_bins.masked_fill(~targets.valid[..., None], 1),
        depth=targets.depth.masked_fill(~targets.depth_valid, 99.0),
    )
    assert torch.equal(CenterLoss()(some_heads(), targets)[1], CenterLoss()(some_heads(), changed)[1])


def test_one_image_is_enough() -> None:
    total, _ = CenterLoss()(some_heads(1), some_targets(1))
    assert torch.isfinite(total)


def test_half_precision_heads_are_computed_in_float32() -> None:
    heads = some_heads(dtype=torch.bfloat16)
    exact = {name: values.detach().float() for name, values in heads.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, items = CenterLoss()(heads, some_targets())
    total.backward()
    assert total.dtype == torch.float32
    assert torch.equal(items, CenterLoss()(exact, some_targets())[1])
    assert heads["hm"].grad is not None
    assert torch.isfinite(heads["hm"].grad).all()


def test_a_camera_only_model_has_no_second_stage() -> None:
    heads = {name: values for name, values in some_heads().items() if name not in ("dep_sec", "rot_sec")}
    loss = CenterLoss(radar=False)
    _, items = loss(heads, some_targets())
    assert loss.loss_names == (
        "tot",
        "hm",
        "wh",
        "reg",
        "dep",
        "dim",
        "rot",
        "amodel_offset",
        "nuscenes_att",
        "velocity",
    )
    assert len(items) == len(loss.loss_names)


def test_names_stand_in_published_order_and_weights_scale_the_total() -> None:
    loss = CenterLoss(FusionLossConfig(wh=2.0))
    assert loss.loss_names == (
        "tot", "hm", "wh", "reg", "dep", "dep_sec", "dim", "rot", "rot_sec", "amodel_offset", "nuscenes_att", "velocity"
    )  # fmt: skip
    assert CenterLoss().weights == dict.fromkeys(loss.weights, 1.0) | {"wh": 0.1}
    assert CenterLoss(FusionLossConfig(rot=0.3)).weights["rot_sec"] == 0.3
    heads, targets = some_heads(), some_targets()
    items, published = loss(heads, targets)[1], CenterLoss()(heads, targets)[1]
    place = loss.loss_names.index("wh")
    torch.testing.assert_close(items[0] - published[0], 1.9 * items[place])
