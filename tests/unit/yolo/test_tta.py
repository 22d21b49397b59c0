"""Which rows test-time augmentation keeps, and where it puts the boxes; the numbers are held by the golden vectors."""

from __future__ import annotations

import pytest
import torch

from boxwright.yolo.build import build_model
from boxwright.yolo.scaled_images import scale_images
from boxwright.yolo.tta import AugmentedNetwork
from boxwright.yolo.zoo import load_spec

HEIGHT, WIDTH = 64, 128
SIZES = {32: ((64, 128), (64, 128), (64, 96)), 64: ((64, 128), (64, 128), (64, 128))}  # by largest stride and pass
NUM_ANCHORS = 3


def rows_of(strides: tuple[int, ...], size: tuple[int, int]) -> int:
    return sum(NUM_ANCHORS * (size[0] // stride) * (size[1] // stride) for stride in strides)


@pytest.mark.parametrize(
    ("model", "trims"),
    [
        ("yolov5n6", True),
        ("yolov5n@v6.0", True),
        ("yolov3-tiny.yaml", True),
        ("yolov3-tiny", False),  # the cfg: strides 32, 16
        ("yolov5s@v1.0", False),  # strides 32, 16, 8
        ("yolov5s@v5.0", False),
    ],
)
def test_levels_left_out(model: str, trims: bool) -> None:
    network = AugmentedNetwork(build_model(load_spec(model, 1)).eval())
    strides = network.strides
    kept = [strides] * 3
    if trims:
        kept[0] = tuple(stride for stride in strides if stride != max(strides))
        kept[2] = tuple(stride for stride in strides if stride != min(strides))
    expected = sum(rows_of(levels, size) for levels, size in zip(kept, SIZES[max(strides)], strict=True))
    (rows,) = network(torch.rand(2, 3, HEIGHT, WIDTH))
    assert rows.shape == (2, expected, 6)
    assert rows.isfinite().all()
    assert network.num_classes == 1


def test_a_mirrored_image_gives_mirrored_boxes_in_the_mirrored_pass() -> None:
    """The second pass on the mirrored image sees what a network without mirroring sees on the image itself."""
    torch.manual_seed(0)
    model = build_model(load_spec("yolov5n@v6.0", 2)).eval()
    network = AugmentedNetwork(model)
    images = torch.rand(1, 3, HEIGHT, WIDTH)
    first = rows_of(model.strides[:2], (HEIGHT, WIDTH))
    second = slice(first, first + rows_of(model.strides, (HEIGHT, WIDTH)))
    with torch.no_grad():
        seen = model.decode(model(scale_images(images, 0.83)))
    rows = network(images.flip(3))[0][:, second]
    torch.testing.assert_close(rows[..., 0], WIDTH - seen[..., 0] / 0.83)
    torch.testing.assert_close(rows[..., 1:4], seen[..., 1:4] / 0.83)
    torch.testing.assert_close(rows[..., 4:], seen[..., 4:])
