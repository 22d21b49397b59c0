"""Plots work for one class and eighty, and for nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boxwright.reporting import plots
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
    plot_results(path, tmp_path / "results.png", LAYOUT.panels, 1)
    assert read(tmp_path / "results.png").size
    columns = read_results(path)
    assert "train/box_loss" in columns
    assert len(columns["epoch"]) == epochs


def test_results_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"{COLUMNS}\n0, 0.1, nan, , word\n", encoding="utf-8")
    plot_results(path, tmp_path / "results.png", LAYOUT.panels, 1)
    columns = read_results(path)
    assert columns["train/box_loss"][0] == 0.1
    assert np.isnan(columns["metrics/precision"][0])
    assert np.isnan(columns["x/lr2"][0])


def test_the_best_epoch_is_marked_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [",".join(map(str, [epoch, *([0.5] * 13)])) for epoch in (1, 2, 3)]
    (tmp_path / "results.csv").write_text("\n".join([COLUMNS, *rows]) + "\n", encoding="utf-8")
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: drawn.append(figure))
    plot_results(tmp_path / "results.csv", tmp_path / "results.png", LAYOUT.panels, 2)
    for panel in drawn[0].axes:
        curve, best = panel.get_lines()
        assert list(curve.get_xdata()) == [1, 2, 3]
        assert list(best.get_xdata()) == [2, 2]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["best: epoch 2"]


def test_each_curve_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: drawn.append(figure))
    x, curves = np.linspace(0, 1, 3), np.array([[0.1] * 3, [0.9] * 3])
    plot_curve(tmp_path / "PR.png", x, curves, ["low", "high"], x_name="r", y_name="p", summary="all")
    by_name = {line.get_label(): line.get_ydata()[0] for line in drawn[0].axes[0].get_lines()}
    assert by_name == pytest.approx({"low": 0.1, "high": 0.9, "all": 0.5})


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


def test_the_best_epoch_is_marked(tmp_path: Path) -> None:
    """A red line in each panel; none where nothing is the best."""
    rows = [",".join([str(e), *(f"{0.1 * k:.4f}" for k in range(13))]) for e in range(1, 6)]
    (tmp_path / "results.csv").write_text("\n".join([COLUMNS, *rows]) + "\n", encoding="utf-8")
    red: list[np.ndarray] = []
    for best in (0, 2, 4):
        plot_results(tmp_path / "results.csv", tmp_path / "results.png", LAYOUT.panels, best)
        red.append(np.flatnonzero(near(read(tmp_path / "results.png")[200:], (214, 39, 40)).any(0)))
    assert len(red[0]) == 0
    assert len(red[1]) >= 5
    assert red[1][0] < red[2][0]


def test_counts_stand_in_the_confusion_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few false alarms of a class with many objects are not as dark as what is always found."""
    texts: list[str] = []
    drawn = Axes.text

    def note(self: Axes, x: float, y: float, s: str, **more: Any) -> Any:
        texts.append(s)
        return drawn(self, x, y, s, **more)

    monkeypatch.setattr(Axes, "text", note)
    plot_confusion(np.array([[30, 0, 3], [10, 20, 0], [0, 0, 0]]), ["a", "b"], tmp_path / "a.png")
    assert texts == ["30\n75%", "3", "10\n25%", "20\n100%"]
    # A single class: what was never a false alarm is no dark square, three of them among thirty objects neither.
    plot_confusion(np.array([[30, 3], [0, 0]]), ["a"], tmp_path / "one.png")
    dark = near(read(tmp_path / "one.png"), (8, 48, 107))
    columns = np.flatnonzero(dark[:, : int(0.85 * dark.shape[1])].sum(0) > 100)  # without the color bar
    assert np.ptp(columns) < dark.shape[1] * 0.4


def test_a_single_class_is_one_line_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[Any] = []
    drawn = Axes.plot

    def note(self: Axes, *values: Any, **more: Any) -> Any:
        labels.append(more.get("label"))
        return drawn(self, *values, **more)

    monkeypatch.setattr(Axes, "plot", note)
    x = np.linspace(0, 1, 50)
    axes = {"x_name": "recall", "y_name": "precision"}
    plot_curve(tmp_path / "one.png", x, x[None], ["car 0.5"], summary="car 0.5 mAP@0.5", **axes)
    plot_curve(tmp_path / "two.png", x, np.stack((x, x)), ["car 0.5", "bus 0.6"], summary="all 0.55", **axes)
    assert labels == ["car 0.5 mAP@0.5", "car 0.5", "bus 0.6", "all 0.55"]
