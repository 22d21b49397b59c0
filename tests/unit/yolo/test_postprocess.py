"""From decoded rows to detections, test-time augmentation, and several networks as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from boxwright.errors import UserError
from boxwright.yolo.detection import Network
from boxwright.yolo.head import decode_above
from boxwright.yolo.postprocess import MEAN_GREY, AugmentedNetwork, Ensemble, YoloPostprocess, scale_images
from boxwright.yolo.zoo import build_model, load_spec


def decoded() -> torch.Tensor:
    predictions = torch.zeros(2, 4, 5 + 2)
    predictions[0, 0] = torch.tensor([50.0, 50, 20, 20, 0.9, 0.9, 0.8])
    predictions[0, 1] = torch.tensor([51.0, 50, 20, 20, 0.8, 0.1, 0.9])
    predictions[0, 2] = torch.tensor([90.0, 90, 10, 20, 0.3, 0.9, 0.1])
    return predictions


def test_detections_of_each_image() -> None:
    first, second = YoloPostprocess(score_threshold=0.25)(decoded())
    torch.testing.assert_close(first.scores, torch.tensor([0.81, 0.72, 0.27]))
    assert first.labels.tolist() == [0, 1, 0]
    assert first.labels.dtype is torch.int64
    assert first.boxes[0].tolist() == [40, 40, 60, 60]
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_settings() -> None:
    assert len(YoloPostprocess(score_threshold=0.5)(decoded())[0]) == 2
    assert len(YoloPostprocess(agnostic=True)(decoded())[0]) == 2
    assert len(YoloPostprocess(max_detections=1)(decoded())[0]) == 1
    assert YoloPostprocess(classes=(1,))(decoded())[0].labels.tolist() == [1]
    # The second class of the first row loses to the better box of that class, unless the threshold lets both live.
    assert len(YoloPostprocess(multi_label=True, iou_threshold=0.99)(decoded())[0]) == 4


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


@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_the_shape_may_stay(factor: float) -> None:
    images = torch.rand(1, 3, 64, 96)
    scaled, same = scale_images(images, factor), scale_images(images, factor, same_shape=True)
    assert same.shape == images.shape
    height, width = (min(side, part) for side, part in zip((64, 96), scaled.shape[2:], strict=True))
    assert torch.equal(same[..., :height, :width], scaled[..., :height, :width])
    assert (same[..., height:, :] == MEAN_GREY).all()
    assert (same[..., width:] == MEAN_GREY).all()


def test_factor_one_changes_nothing() -> None:
    images = torch.rand(1, 3, 33, 50)
    assert scale_images(images, 1.0) is images


def test_a_smooth_picture_stays_the_same_picture() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    half = scale_images(ramp, 0.5)
    torch.testing.assert_close(half, ramp[..., ::2, ::2], atol=0.02, rtol=0)


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


class Fixed(Network):
    """A network whose decoded rows all hold one value."""

    def __init__(
        self,
        value: float,
        rows: int,
        *,
        strides: tuple[int, ...] = (8, 16, 32),
        names: tuple[str, ...] = ("a", "b"),
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.value, self.rows, self.names, self.input_size, self.strides = value, rows, names, input_size, strides

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.full((len(images), self.rows, 7), self.value, dtype=torch.bfloat16)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        assert raw[0].dtype == torch.float32
        return raw[0] * 2


def test_rows_of_all_in_order() -> None:
    network = Ensemble([Fixed(1, 2), Fixed(3, 1), Fixed(5, 0)], ["x", "y", "z"])
    found = network.decode(network(torch.zeros(2, 3, 32, 32)))
    assert found.shape == (2, 3, 7)
    assert found[:, :, 0].tolist() == [[2, 2, 6]] * 2
    assert network.names == ("a", "b")
    assert network.num_classes == 2


@pytest.mark.parametrize("order", [1, -1])
def test_strides_of_the_coarsest_and_the_one_fixed_size(order: int) -> None:
    networks = [Fixed(0, 1), Fixed(0, 1, strides=(64, 32, 16, 8)), Fixed(0, 1, input_size=(64, 128))][::order]
    network = Ensemble(networks, ["x", "y", "z"])
    assert network.strides == (64, 32, 16, 8)
    assert network.input_size == (64, 128)


def test_networks_bound_to_different_sizes() -> None:
    networks = [Fixed(0, 1, input_size=size) for size in ((64, 128), None, (64, 64))]
    with pytest.raises(UserError, match="take only their own: x 128x64, z 64x64"):
        Ensemble(networks, ["x", "y", "z"])


def test_the_same_names_in_another_order_are_other_classes() -> None:
    with pytest.raises(UserError, match="class 0 is 'b' in y but 'a' in x"):
        Ensemble([Fixed(0, 1), Fixed(0, 1, names=("b", "a"))], ["x", "y"])


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s@v1.0", "yolov3-tiny"])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.9999])
def test_rows_below_the_threshold_may_be_left_out(name: str, threshold: float) -> None:
    torch.manual_seed(0)
    model = build_model(load_spec(name, 3)).eval()
    raw = [torch.randn(3, 3, 64 // stride, 96 // stride, 8) for stride in model.strides]
    raw[0][1, ..., 4] = -9  # an image with fewer rows than the others
    before = [level.clone() for level in raw]
    rows, few = model.decode(raw), decode_above(model, raw, threshold)
    assert all(map(torch.equal, raw, before))
    for multi_label in (False, True):
        postprocess = YoloPostprocess(threshold, 0.9, multi_label=multi_label)
        for expected, found in zip(postprocess(rows), postprocess(few), strict=True):
            torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-6, atol=1e-4)
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=1e-7)
            assert torch.equal(found.labels, expected.labels)
    assert few.shape[1] == (rows.shape[1] if threshold < 0.5 else int((rows[..., 4] > threshold).sum(dim=1).max()))
