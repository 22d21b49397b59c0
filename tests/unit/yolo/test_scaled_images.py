"""Images at another size."""

from __future__ import annotations

import pytest
import torch

from boxwright.yolo.scaled_images import MEAN_GREY, scale_images


@pytest.mark.parametrize(
    ("factor", "sides", "picture"),
    [(0.83, (128, 160), (106, 159)), (0.67, (96, 160), (85, 128)), (0.5, (64, 96), (64, 96))],
)
def test_padded_to_a_multiple_with_grey(factor: float, sides: tuple[int, int], picture: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 128, 192)
    scaled = scale_images(images, factor)
    assert tuple(scaled.shape) == (2, 3, *sides)
    assert (scaled[..., picture[0] :, :] == MEAN_GREY).all()
    assert (scaled[..., picture[1] :] == MEAN_GREY).all()
    assert (scaled[..., : picture[0], : picture[1]] != MEAN_GREY).float().mean() > 0.99


def test_factor_one_changes_nothing() -> None:
    images = torch.rand(1, 3, 33, 50)
    assert scale_images(images, 1.0) is images


def test_a_smooth_picture_stays_the_same_picture() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    half = scale_images(ramp, 0.5)
    torch.testing.assert_close(half, ramp[..., ::2, ::2], atol=0.02, rtol=0)
