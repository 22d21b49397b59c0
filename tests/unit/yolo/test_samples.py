"""Training samples: labels lie where the objects are, whatever the recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.data.index import DataIndex
from boxwright.data.source_images import SourceImages
from boxwright.yolo.augmentation import choose_pastes, mixup, paste_mirrored
from boxwright.yolo.geometry import Shapes, shapes_of
from boxwright.yolo.samples import TrainingSamples
from boxwright.yolo.settings import AugmentConfig
from tests.unit.data.scenes import draw_boxes, write_scenes

SIDE = 96
PLAIN = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}  # so that objects stay white and the rest black or grey
SIZES = [(96, 72), (60, 96), (200, 300), (50, 50), (400, 210), (33, 97)]


def make(index: DataIndex, image: int, epoch: int = 0, out_hw: tuple[int, int] = (SIDE, SIDE), **config: float):
    samples = TrainingSamples(SourceImages(index, SIDE), SIDE, 32, AugmentConfig(**(PLAIN | config)), seed=5)
    out = np.zeros((*out_hw, 3), np.uint8)
    labels = samples.write(epoch, image, out)
    return out, labels


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="default"),
        pytest.param({"flipud": 1.0, "fliplr": 1.0}, id="both flips"),
        pytest.param({"fliplr": 1.0, "scale": 0.9}, id="strong scale"),
        pytest.param({"mosaic": 0.0}, id="letterbox"),
        pytest.param({"mosaic9": 1.0}, id="mosaic of nine"),
        pytest.param({"copy_paste": 1.0}, id="copy-paste"),
        pytest.param({"mosaic": 0.0, "translate": 0.4, "flipud": 0.5}, id="letterbox, far shift"),
    ],
)
def test_upright_objects_fill_their_boxes(tmp_path: Path, config: dict[str, float]) -> None:
    index = write_scenes(tmp_path / "bílé obrázky", SIZES, polygons="copy_paste" in config)
    # The black rim of a pasted object, a pixel or two wide, may lie on another one.
    smallest, share, slack = (12.0, 0.7, 6.0) if "copy_paste" in config else (0.0, 0.97, 3.0)
    seen = 0
    for image in range(len(index)):
        for epoch in range(4):
            out, labels = make(index, image, epoch, **config)
            white = (out > 230).all(axis=2)
            for box in labels.boxes:
                if box[2:].min() * SIDE < smallest:
                    continue
                inner = draw_boxes(box[None], (SIDE, SIDE), grow=-2.0)
                assert inner.sum() == 0 or white[inner].mean() > share, (image, epoch, box)
                rim = draw_boxes(box[None], (SIDE, SIDE), grow=1.5)
                inside = white & rim
                spans = [np.ptp(np.flatnonzero(inside.any(axis=axis))) + 1 for axis in (0, 1)]
                assert abs(np.array(spans) - box[2:] * SIDE).max() <= slack, (image, epoch, box)
                seen += 1
    assert seen > 30


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"degrees": 30.0, "shear": 8.0}, id="rotation and shear"),
        pytest.param({"degrees": 10.0, "perspective": 0.001}, id="perspective"),
        pytest.param({"mosaic": 0.0, "degrees": 45.0}, id="letterbox, rotation"),
    ],
)
def test_boxes_of_turned_objects_hold_them(tmp_path: Path, config: dict[str, float]) -> None:
    index = write_scenes(tmp_path, SIZES)
    labelled = missed = 0
    for image in range(len(index)):
        for epoch in range(4):
            out, labels = make(index, image, epoch, **config)
            white = (out > 200).all(axis=2)
            missed += (white & ~draw_boxes(labels.boxes, (SIDE, SIDE), grow=2.0)).sum()
            labelled += white.sum()
            for box in labels.boxes:
                low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
                whole = low.min() > 0.05 and high.max() < 0.95  # else only an empty corner of it may be in the image
                assert not whole or white[draw_boxes(box[None], (SIDE, SIDE))].any()
    assert missed < 0.02 * labelled  # only scraps too small to be labelled


def test_polygons_give_tighter_boxes_than_corners_do(tmp_path: Path) -> None:
    with_polygons = write_scenes(tmp_path / "a", SIZES, polygons=True)
    # A diamond inside each box: turned by 45 degrees it becomes upright and smaller than the turned box.
    points = with_polygons.points.reshape(-1, 4, 2)
    diamonds = ((points + np.roll(points, 1, axis=1)) / 2).reshape(-1, 2)
    object.__setattr__(with_polygons, "points", diamonds)
    without = write_scenes(tmp_path / "b", SIZES)
    config = {"degrees": 45.0, "mosaic": 0.0, "scale": 0.0, "translate": 0.0}
    areas = [sum(make(index, 2, e, **config)[1].boxes[:, 2:].prod(axis=1).sum() for e in range(5))
             for index in (with_polygons, without)]  # fmt: skip
    assert 0.2 < areas[0] / areas[1] < 0.9


def test_a_sample_depends_on_seed_epoch_and_index_only(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, SIZES)
    first, labels = make(index, 3, 7, mixup=0.5)
    make(index, 1, 0)
    again, same = make(index, 3, 7, mixup=0.5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(labels.boxes, same.boxes)
    assert (make(index, 3, 8, mixup=0.5)[0] != first).any()
    assert (make(index, 2, 7, mixup=0.5)[0] != first).any()


def test_mixup_keeps_the_labels_of_both(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, SIZES)
    alone = sum(len(make(index, image)[1].classes) for image in range(len(index)))
    mixed = sum(len(make(index, image, mixup=1.0)[1].classes) for image in range(len(index)))
    assert mixed > 1.5 * alone


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.517, 1.0])
def test_mixup_is_float64_arithmetic_rounded_down(ratio: float) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    expected = (first.astype(np.float64) * ratio + second * (1.0 - ratio)).astype(np.uint8)
    np.testing.assert_array_equal(mixup(first, second, ratio), expected)


def test_hsv_changes_colours_and_no_labels(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, SIZES)
    plain, labels = make(index, 0)
    other, same = make(index, 0, hsv_v=0.9)
    assert (plain != other).any()
    np.testing.assert_array_equal(labels.boxes, same.boxes)


def test_images_without_labels_give_empty_samples(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, SIZES[:1], boxes=0)
    out, labels = make(index, 0, copy_paste=1.0, mixup=1.0)
    assert labels.boxes.shape == (0, 4)
    assert out.any()


def test_rectangular_samples_fill_their_shape(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, [(60, 96)])
    samples = TrainingSamples(
        SourceImages(index, SIDE),
        SIDE,
        32,
        AugmentConfig(**PLAIN, scale=0.0, translate=0.0, fliplr=0.0),
        0,
        mosaic=False,
    )
    out = np.zeros((64, 96, 3), np.uint8)
    labels = samples.write(0, 0, out)
    assert (out[:2] == 114).all()
    assert (out[2:62] != 114).all()
    assert len(labels.classes) == 2
    white = (out > 128).all(axis=2)
    wanted = draw_boxes(labels.boxes, (64, 96))
    assert (white != wanted).mean() < 0.01


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float32)


def test_copy_paste_pastes_where_little_is_hidden() -> None:
    polygons = [square(4, 4, 10), square(60, 30, 12), square(26, 60, 8)]  # the last one lies nearly on its mirror image
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32)
    offsets = np.array([0, 4, 8, 12])
    shapes = Shapes(np.arange(3, dtype=np.int32), boxes, np.concatenate(polygons), offsets)
    image = np.zeros((80, 64, 3), np.uint8)
    image[4:15, 4:15] = 255
    chosen, after = choose_pastes(shapes, np.array([2, 0]), width=64)
    assert chosen.tolist() == [0]
    assert after.classes.tolist() == [0, 1, 2, 0]
    assert after.boxes[3].tolist() == [50, 4, 60, 14]
    assert after.polygon(3)[:, 0].tolist() == [60, 50, 50, 60]
    paste_mirrored(image, shapes, chosen)
    columns = np.flatnonzero(image[8].any(axis=1))
    assert columns.tolist() == [*range(4, 15), *range(49, 60)]


@pytest.mark.parametrize(("hidden", "pasted"), [(2.9, True), (3.0, False), (3.1, False)])
def test_copy_paste_leaves_out_what_hides_30_percent(hidden: float, pasted: bool) -> None:
    polygons = [square(4, 4, 10), square(60 - hidden, 4, 10)]  # the mirror image of the first spans x of 50 to 60
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32)
    shapes = Shapes(np.zeros(2, np.int32), boxes, np.concatenate(polygons), np.array([0, 4, 8]))
    chosen, _ = choose_pastes(shapes, np.array([0]), width=64)
    assert bool(len(chosen)) == pasted


def test_pasting_looks_at_what_was_pasted_before() -> None:
    polygons = [square(4, 4, 10), square(5, 5, 10)]
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32)
    shapes = Shapes(np.zeros(2, np.int32), boxes, np.concatenate(polygons), np.array([0, 4, 8]))
    chosen, _ = choose_pastes(shapes, np.array([1, 0]), width=64)
    assert chosen.tolist() == [1]


def test_shapes_of_scales_boxes_and_polygons_alike(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, [(40, 80)], polygons=True)
    shapes = shapes_of(index, 0, (20.0, 40.0), (3.0, 7.0))
    for item in range(len(shapes)):
        polygon = shapes.polygon(item)
        np.testing.assert_allclose([*polygon.min(axis=0), *polygon.max(axis=0)], shapes.boxes[item], atol=1e-4)
