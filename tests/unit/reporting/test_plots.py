"""Plots and sheets work for one class and eighty, for nothing at all, and draw what they are told to."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright.data.structures import Batch, Detections, Targets
from boxwright.drawing.boxes import class_color as drawn_color
from boxwright.drawing.lettering import class_color, draw_boxes, draw_text, plate_size, text_mask
from boxwright.drawing.sheets import fit, tile
from boxwright.reporting.plots import plot_batch, plot_confusion, plot_curve, plot_results, plot_val_batch, read_results

NAMES = ("car", "Fußgänger", "автомобиль", "日本 $x_1$")
COLUMNS = (
    "               epoch,      train/box_loss, train/obj_loss, train/cls_loss, metrics/precision, metrics/recall,"
    " metrics/mAP_0.5, metrics/mAP_0.5:0.95, val/box_loss, val/obj_loss, val/cls_loss, x/lr0, x/lr1, x/lr2"
)


def read(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def make_batch(count: int, boxes: int, height: int = 64, width: int = 96) -> Batch:
    targets = Targets(
        torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(count, boxes, 4),
        torch.ones(count, boxes, dtype=torch.int64),
        torch.ones(count, boxes, dtype=torch.bool),
    )
    return Batch(
        images=torch.full((count, 3, height, width), 30, dtype=torch.uint8),
        targets=targets,
        indices=torch.arange(count),
        original_sizes=torch.tensor([[height * 2, width * 2]] * count),
        scales=torch.full((count, 2), 0.5),
        pads=torch.zeros(count, 2),
        paths=tuple(Path(f"Bild {i} é.jpg") for i in range(count)),
    )


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image.astype(int) - color).max(-1) < 60


@pytest.mark.parametrize(("count", "boxes"), [(1, 1), (3, 0), (16, 2), (20, 1)])
def test_train_sheet(tmp_path: Path, count: int, boxes: int) -> None:
    path = tmp_path / "train_batch0 ü.jpg"
    plot_batch(make_batch(count, boxes), NAMES, path)
    image = read(path)
    assert image.shape[1] <= 1960
    assert bool(near(image, class_color(1)).sum() > 200) == (boxes > 0)


def test_an_empty_batch_is_drawn(tmp_path: Path) -> None:
    plot_batch(make_batch(0, 1), NAMES, tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").size


def test_detections_are_mapped_from_the_original_image(tmp_path: Path) -> None:
    """The label covers the middle half of the image; the detection, in original pixels, the same half."""
    found = Detections(torch.tensor([[48.0, 32.0, 144.0, 96.0]]), torch.tensor([0.9]), torch.tensor([1]))
    plot_val_batch(make_batch(1, 1), [found], NAMES, tmp_path / "val.png")
    image = read(tmp_path / "val.png")
    half = (image.shape[1] - 4) // 2
    left, right = near(image[:, 4:half], class_color(1)), near(image[:, half + 4 :], class_color(1))
    left_rows, right_rows = np.flatnonzero(left.any(1)), np.flatnonzero(right.any(1))
    assert left_rows[-1] == pytest.approx(right_rows[-1], abs=2)
    lower = [np.flatnonzero(side[rows[-1] - 2]) for side, rows in ((left, left_rows), (right, right_rows))]
    assert lower[0][0] == pytest.approx(lower[1][0], abs=4)
    assert lower[0][-1] == pytest.approx(lower[1][-1], abs=4)


def test_low_scores_are_not_drawn(tmp_path: Path) -> None:
    found = Detections(torch.tensor([[48.0, 32.0, 144.0, 96.0]]), torch.tensor([0.2]), torch.tensor([1]))
    plot_batch(make_batch(1, 1), NAMES, tmp_path / "a.png", detections=[found])
    assert near(read(tmp_path / "a.png"), class_color(1)).sum() < 50


@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_results(tmp_path: Path, epochs: int) -> None:
    rows = [",".join([str(e), *(f"{0.1 * k:.4f}" for k in range(13))]) for e in range(epochs)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([COLUMNS, *rows]) + "\n", encoding="utf-8")
    plot_results(path, tmp_path / "results.png")
    assert read(tmp_path / "results.png").size
    columns = read_results(path)
    assert "train/box_loss" in columns
    assert len(columns["epoch"]) == epochs


def test_results_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"{COLUMNS}\n0, 0.1, nan, , word\n", encoding="utf-8")
    plot_results(path, tmp_path / "results.png")
    columns = read_results(path)
    assert columns["train/box_loss"][0] == 0.1
    assert np.isnan(columns["metrics/precision"][0])
    assert np.isnan(columns["x/lr2"][0])


@pytest.mark.parametrize("num_classes", [1, 4, 80])
def test_confusion(tmp_path: Path, num_classes: int) -> None:
    matrix = np.eye(num_classes + 1) * 5
    plot_confusion(matrix, (NAMES * 20)[:num_classes], tmp_path / "confusion_matrix.png")
    plot_confusion(matrix * 0, (NAMES * 20)[:num_classes], tmp_path / "nothing.png")
    assert (
        near(read(tmp_path / "confusion_matrix.png"), (8, 48, 107)).sum()
        > near(read(tmp_path / "nothing.png"), (8, 48, 107)).sum()
    )


@pytest.mark.parametrize("num_classes", [0, 1, 80])
def test_curve(tmp_path: Path, num_classes: int) -> None:
    x = np.linspace(0, 1, 50)
    curves = np.tile(1 - x, (num_classes, 1))
    names = (NAMES * 20)[:num_classes]
    plot_curve(tmp_path / "PR_curve.png", x, curves, names, x_name="recall", y_name="precision", summary="all")
    assert read(tmp_path / "PR_curve.png").size


def test_text_beyond_the_border_is_cut() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for left, top in ((-8, -6), (25, 15), (100, 100), (-500, 0)):
        draw_text(image, "Fußgänger", left, top, 12, (255, 255, 255))
    assert image.any()


def test_letters_are_painted_and_long_text_is_cut() -> None:
    assert text_mask("Ж", 12).max() > 0.9
    assert text_mask("", 12).max() == 0
    assert text_mask("o", 40)[27, 12] < 0.1  # the hole of the letter stays open
    assert text_mask("a" * 200, 10).shape[1] < 400


def test_names_of_boxes_that_lie_on_each_other_do_not_overlap() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    boxes = np.array([[50.0, 60, 200, 150]] * 3)
    draw_boxes(image, boxes, np.array([0, 1, 2]), ("........",) * 3)
    height, width = plate_size("........", 11)
    for label in (1, 2):  # their outlines lie under that of the first
        assert (image == class_color(label)).all(-1).sum() > height * width * 0.6


def test_a_class_has_one_colour_in_all_pictures() -> None:
    assert all(class_color(label) == drawn_color(label)[::-1] for label in range(100))


def test_tiles_hold_images_of_different_size() -> None:
    cells = [fit(np.full((h, w, 3), 9, np.uint8), 100)[0] for h, w in ((50, 100), (100, 50), (7, 300))]
    sheet = tile(cells, 2)
    assert (sheet == 9).all(-1).sum() == sum(cell.shape[0] * cell.shape[1] for cell in cells)
