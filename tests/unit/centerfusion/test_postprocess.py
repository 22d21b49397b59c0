"""Decoding of CenterFusion's heads: few cells, nothing found, several images, the flip test, half precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from boxwright.centerfusion.heads import depth_from_raw, raw_from_depth
from boxwright.centerfusion.postprocess import decode, merge_flipped, to_detections, unproject, with_mirror
from boxwright.centerfusion.structures import RawHeads
from boxwright.nuscenes.structures import Detections3d

CHANNELS = {
    "hm": 10,
    "reg": 2,
    "wh": 2,
    "dep": 1,
    "rot": 8,
    "dim": 3,
    "amodel_offset": 2,
    "nuscenes_att": 8,
    "velocity": 3,
}
CALIB = torch.tensor([[100.0, 0, 16, 0], [0, 100, 12, 0], [0, 0, 1, 0]])
AFFINE = torch.tensor([[4.0, 0, 0], [0, 4, 0]])


def some_heads(images: int, height: int = 6, width: int = 8, *, seed: int = 0) -> RawHeads:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(images, count, height, width, generator=random) for name, count in CHANNELS.items()}


def one_object() -> RawHeads:
    """A car at cell (3, 2), 10 m away, 1.5 x 2 x 4 m, looking along x (alpha = pi / 2 turned to the second bin)."""
    heads = {name: torch.zeros(1, count, 6, 8) for name, count in CHANNELS.items()}
    heads["hm"] -= 10
    heads["hm"][0, 0, 2, 3] = 3
    heads["reg"] += 0.5
    heads["wh"] += 2
    heads["dep"][:] = raw_from_depth(torch.tensor(10.0, dtype=torch.float64))
    heads["dim"][:] = torch.tensor([1.5, 2, 4])[:, None, None]
    heads["rot"][0, 5] = 1  # second bin; its middle is pi / 2
    heads["rot"][0, 7] = 1
    heads["velocity"][:] = torch.tensor([3.0, 0.5, 4])[:, None, None]
    return heads


def detect(heads: RawHeads, *, threshold: float = 0.5, radar: bool = False) -> list[Detections3d]:
    images = heads["hm"].shape[0]
    return to_detections(
        decode(heads),
        AFFINE.expand(images, -1, -1),
        CALIB.expand(images, -1, -1),
        score_threshold=threshold,
        radar=radar,
    )


def test_one_object_is_where_it_was_put() -> None:
    (found,) = detect(one_object())
    assert len(found) == 1
    torch.testing.assert_close(found.boxes, torch.tensor([[10.0, 6, 18, 14]]))
    # The middle of the box, (14, 10), seen from (16, 12) with focal length 100, and half a height down.
    torch.testing.assert_close(found.locations, torch.tensor([[-0.2, -0.2 + 0.75, 10]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.alpha, torch.tensor([math.pi / 2]))
    torch.testing.assert_close(found.rotation_y, torch.tensor([math.pi / 2 + math.atan2(-2, 100)]))
    torch.testing.assert_close(found.velocity, torch.tensor([[3.0, 0.5, 4]]))


def test_a_radar_model_turns_the_velocity_along_the_box() -> None:
    (found,) = detect(one_object(), radar=True)
    angle = found.rotation_y[0]
    torch.testing.assert_close(found.velocity[0], torch.stack((5 * angle.cos(), torch.tensor(0.5), -5 * angle.sin())))


def test_second_stage_replaces_the_first() -> None:
    heads = one_object()
    heads["dep_sec"] = torch.full_like(heads["dep"], float(raw_from_depth(torch.tensor(20.0))))
    heads["rot_sec"] = torch.zeros_like(heads["rot"])
    heads["rot_sec"][0, 1], heads["rot_sec"][0, 3] = 1, 1
    (found,) = detect(heads)
    torch.testing.assert_close(found.locations[:, 2], torch.tensor([20.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.alpha, torch.tensor([-math.pi / 2]))


def test_more_peaks_asked_for_than_there_are_cells() -> None:
    heads = some_heads(2, 2, 3)
    assert decode(heads, k=100).scores.shape == (2, 60)
    assert len(detect(heads)) == 2


@pytest.mark.parametrize("images", [0, 1, 3])
def test_nothing_above_the_threshold(images: int) -> None:
    found = detect(some_heads(images), threshold=1.0)
    assert len(found) == images
    assert all(len(each) == 0 and each.boxes.shape == (0, 4) and each.attributes.shape == (0, 8) for each in found)


def test_images_do_not_touch_each_other() -> None:
    both = some_heads(2)
    together = detect(both)
    for image in range(2):
        (alone,) = detect({name: values[image : image + 1] for name, values in both.items()})
        torch.testing.assert_close(together[image].locations, alone.locations)
        torch.testing.assert_close(together[image].scores, alone.scores)


def test_boxes_without_extent_go() -> None:
    heads = one_object()
    heads["dim"][0, 1] = 0
    assert len(detect(heads)[0]) == 0


def test_a_mirrored_copy_changes_nothing() -> None:
    plain = some_heads(2)
    mirror = {name: values.flip(3) for name, values in plain.items()}
    mirror["amodel_offset"] = mirror["amodel_offset"] * torch.tensor([-1.0, 1])[:, None, None]
    merged = merge_flipped({name: torch.cat((plain[name], mirror[name])) for name in plain})
    for name, values in plain.items():
        torch.testing.assert_close(merged[name], values, rtol=1e-5, atol=1e-6)


def test_what_the_flip_test_averages_is_probabilities_and_metres() -> None:
    heads = {"hm": torch.tensor([2.0, -1]).view(2, 1, 1, 1), "dep": torch.tensor([0.0, -3]).view(2, 1, 1, 1)}
    merged = merge_flipped(heads)
    torch.testing.assert_close(merged["hm"].sigmoid(), heads["hm"].sigmoid().mean(0, keepdim=True))
    torch.testing.assert_close(depth_from_raw(merged["dep"]), depth_from_raw(heads["dep"]).mean(0, keepdim=True))


def test_saturated_scores_survive_the_flip_test() -> None:
    merged = merge_flipped({"hm": torch.full((2, 1, 1, 1), 90.0), "dep": torch.full((2, 1, 1, 1), -90.0)})
    assert merged["hm"].sigmoid().item() == 1
    assert depth_from_raw(merged["dep"]).item() > 9e5


def test_the_mirror_of_radar_turns_its_sideways_velocity() -> None:
    maps = torch.arange(12.0).view(1, 3, 1, 4)
    doubled = with_mirror(maps, radar=True)
    assert torch.equal(doubled[:1], maps)
    assert doubled[1, :, 0].tolist() == [[3, 2, 1, 0], [-7, -6, -5, -4], [11, 10, 9, 8]]


def test_half_precision_heads() -> None:
    found = decode({name: values.bfloat16() for name, values in some_heads(1).items()})
    assert found.scores.dtype == found.boxes.dtype == found.depth.dtype == torch.float32


def test_pixels_and_back() -> None:
    calib = torch.tensor([[1260.0, 0, 800, 40], [0, 1250, 450, 20], [0, 0, 1, 0.003]], dtype=torch.float64)
    points = np.random.default_rng(0).uniform([-9, -3, 4], [9, 3, 60], (20, 3))
    homogeneous = np.c_[points, np.ones(20)] @ calib.numpy().T
    pixels, depth = torch.from_numpy(homogeneous[:, :2] / homogeneous[:, 2:]), torch.from_numpy(homogeneous[:, 2])
    np.testing.assert_allclose(unproject(pixels, depth, calib), points, atol=1e-9)
