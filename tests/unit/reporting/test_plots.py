"""Plots work for one class and eighty, and for nothing at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.reporting.plots import plot_confusion, plot_curve, plot_results
from boxwright.reporting.report import read_results
from boxwright.yolo.val_output import LAYOUT

NAMES = ("car", "Fußgänger", "автомобиль", "日本 $x_1$")
COLUMNS = (
    "               epoch,      train/box_loss, train/obj_loss, train/cls_loss, metrics/precision, metrics/recall,"
    " metrics/mAP_0.5, metrics/mAP_0.5:0.95, val/box_loss, val/obj_loss, val/cls_loss, x/lr0, x/lr1, x/lr2"
)


def read(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image.astype(int) - color).max(-1) < 60


@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_results(tmp_path: Path, epochs: int) -> None:
    rows = [",".join([str(e), *(f"{0.1 * k:.4f}" for k in range(13))]) for e in range(epochs)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([COLUMNS, *rows]) + "\n", encoding="utf-8")
    plot_results(path, tmp_path / "results.png", LAYOUT)
    assert read(tmp_path / "results.png").size
    columns = read_results(path)
    assert "train/box_loss" in columns
    assert len(columns["epoch"]) == epochs


def test_results_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"{COLUMNS}\n0, 0.1, nan, , word\n", encoding="utf-8")
    plot_results(path, tmp_path / "results.png", LAYOUT)
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
