"""Contact sheets show labels and detections of a batch where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright.data.structures import Batch, Detections, Targets
from boxwright.drawing.canvas import class_color, fit
from boxwright.drawing.sheets import plot_batch, plot_val_batch, tile

NAMES = ("car", "Fußgänger", "автомобиль", "日本 $x_1$")


def read(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image.astype(int) - color).max(-1) < 60


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
    plot_val_batch(make_batch(1, 0), [found], NAMES, tmp_path / "a.png")
    assert near(read(tmp_path / "a.png"), class_color(1)).sum() < 50


def test_tiles_hold_images_of_different_size() -> None:
    cells = [fit(np.full((h, w, 3), 9, np.uint8), (100, 100)) for h, w in ((50, 100), (100, 50), (7, 300))]
    sheet = tile(cells, 2)
    assert (sheet == 9).all(-1).sum() == sum(cell.shape[0] * cell.shape[1] for cell in cells)


def test_each_row_and_column_is_as_large_as_its_images() -> None:
    cells = [np.full((h, w, 3), 9, np.uint8) for h, w in ((50, 100), (50, 40), (80, 100), (20, 40), (30, 60))]
    assert tile(cells, 2).shape == (4 + 54 + 84 + 34, 4 + 104 + 44, 3)


def test_borders_of_a_letterbox_are_cut_off(tmp_path: Path) -> None:
    """A wide image in a square batch: its sheet shows no border, and boxes where they are."""
    batch = make_batch(1, 1, 96, 96)
    batch.images[:, :, :24] = batch.images[:, :, 72:] = 114
    batch = replace(
        batch,
        original_sizes=torch.tensor([[96, 192]]),
        pads=torch.tensor([[24.0, 0.0]]),
        scales=torch.full((1, 2), 0.5),
    )
    found = Detections(torch.tensor([[48.0, 24.0, 144.0, 72.0]]), torch.tensor([0.9]), torch.tensor([1]))
    plot_val_batch(batch, [found], NAMES, tmp_path / "val.png")
    image = read(tmp_path / "val.png")
    assert image.shape == (240 + 8, 2 * 480 + 12, 3)
    assert near(image, (114, 114, 114)).mean() < 0.02  # soft edges of letters
    rows = np.flatnonzero(near(image[:, 488:], class_color(1)).sum(1) > 200)  # horizontal lines of the detection
    assert rows[0] == pytest.approx(4 + 60, abs=20)  # its label stands above it
    assert rows[-1] == pytest.approx(4 + 180, abs=3)
