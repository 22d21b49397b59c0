"""Advice on numbers: each rule where it speaks and where it is silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from boxwright.data.index import Problem
from boxwright.engine.callbacks import EpochReport, StartReport
from boxwright.engine.stopping import FiniteWatch, NotFinite
from boxwright.yolo.advice import (
    Advice,
    anchors_do_not_fit,
    labels_out_of_range,
    learns_by_heart,
    loss_explodes,
    loss_stays_high,
    recall_near_zero,
    unknown_classes,
    validation_not_finite,
)
from boxwright.yolo.settings import RunConfig, YoloOptimConfig

FILE = Path("a.txt")


def test_labels() -> None:
    harmless = [
        Problem("out of range", FILE, 1, "the box reaches out of the image"),
        Problem("duplicate", FILE, 2, "twice", "row"),
    ]
    assert labels_out_of_range(harmless, 9, "d.yaml") is None
    bad = [Problem("unknown class", FILE, 3, "class 9", "row"), Problem("out of range", FILE, 4, "above 1", "image")]
    line = labels_out_of_range(harmless + bad + bad[1:], 9, "d.yaml")
    assert line is not None
    assert line.startswith(
        "3 labels are not in range and are not trained on (2 out of range, 1 unknown class), 9 boxes"
    )
    assert "the first is a.txt:3: class 9. `boxwright check d.yaml`" in line


def test_labels_of_no_class_are_counted() -> None:
    assert unknown_classes([Problem("out of range", FILE, 4, "above 1", "image")], 3) == ""
    found = [Problem("unknown class", FILE, 3, "class 9", "row"), Problem("unknown class", FILE, 5, "x", "row", 2)]
    line = "3 labels of a class that is none of the 3 names; the first is a.txt:3: class 9"
    assert unknown_classes(found, 3) == line


def test_anchors() -> None:
    assert anchors_do_not_fit(None, searched=False) is None
    assert anchors_do_not_fit(0.99, searched=False) is None
    kept, searched = (anchors_do_not_fit(0.5123, searched=searched) or "" for searched in (False, True))
    assert "best possible recall is 0.5123" in kept
    assert "48.8% of the boxes" in kept
    assert "--noautoanchor" in kept
    assert "a search found none" in searched


@pytest.mark.parametrize(
    ("losses", "warm", "recall", "speaks"),
    [
        ([1.0] * 6, 0, 0.01, True),
        ([1.0] * 6, 0, None, True),
        ([1.0, *[0.96] * 5], 0, 0.01, True),
        ([1.0, 0.5, 0.6, 2, 3, 9], 0, 0.01, True),
        ([1.0] * 5, 0, 0.01, False),  # too early
        ([1.0] * 8, 4, 0.01, False),  # warm-up was until now
        ([1.0] * 9, 4, 0.01, True),
        ([1.0, *[0.94] * 5], 0, 0.01, False),  # it falls
        ([1.0] * 6, 0, 0.3, False),  # as in fine-tuning
    ],
)
def test_loss(losses: list[float], warm: int, recall: float | None, speaks: bool) -> None:
    line = loss_stays_high(losses, warm, recall, 0.02)
    assert bool(line) == speaks
    if line:
        mean = sum(losses[-5:]) / 5
        assert f"{mean:.4g} on average over epochs {len(losses) - 4} to {len(losses)}, 1 in epoch 1" in line
        assert "--optim.lr0 is 0.02" in line


@pytest.mark.parametrize(
    ("recall", "done", "epochs", "warm", "speaks"),
    [
        (0.049, 10, 100, 3, True),
        (0.05, 10, 100, 3, False),
        (None, 10, 100, 3, False),
        (0.0, 9, 100, 3, False),
        (0.0, 4, 10, 0, False),
        (0.0, 5, 10, 0, True),
        (0.0, 12, 100, 12, False),
        (0.0, 13, 100, 12, True),
    ],
)
def test_recall(recall: float | None, done: int, epochs: int, warm: int, speaks: bool) -> None:
    line = recall_near_zero(recall, done, epochs, warm)
    assert bool(line) == speaks
    if line:
        assert line.startswith(f"recall is {recall:.4f} after {done} of {epochs} epochs")


def losses(train: Sequence[float], val: Sequence[float]) -> list[tuple[int, float, float]]:
    return [(epoch, *pair) for epoch, pair in enumerate(zip(train, val, strict=True))]


def test_learning_by_heart() -> None:
    falls = [1 - epoch / 20 for epoch in range(15)]
    rises = [0.5] * 10 + [0.6] * 5
    line = learns_by_heart(losses(falls, rises), 0)
    assert line is not None
    assert "risen from 0.5 (epochs 1 to 5) to 0.6 while the training loss fell from 0.9 to 0.4" in line
    assert learns_by_heart(losses(falls, [0.5] * 10 + [0.54] * 5), 0) is None
    assert learns_by_heart(losses([1.0] * 15, rises), 0) is None
    assert learns_by_heart(losses(falls, rises), 6) is None  # nine epochs are too few
    assert learns_by_heart(losses(falls[:9], rises[6:]), 0) is None


def row(epoch: int, train: float, recall: float, val: float = 0.2) -> dict[str, float]:
    return {"epoch": float(epoch), "train/box_loss": train, "metrics/recall": recall, "val/box_loss": val}


def start(history: Sequence[Mapping[str, float]]) -> StartReport:
    optim = YoloOptimConfig(release="v3", warmup_epochs=0.0)
    config = RunConfig(epochs=20, optim=optim)
    return StartReport(Path(), config, torch.nn.Identity(), history, len(history) * 3, 3)


def tell(advice: Advice, history: Sequence[Mapping[str, float]]) -> None:
    advice.on_fit_epoch_end(EpochReport(len(history) - 1, 20, history, None, False))


def test_each_line_once_and_not_again_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    history = [row(epoch, 1.0, 0.01) for epoch in range(10)]
    advice = Advice(["labels", None])
    advice.on_train_start(start([]))
    for done in range(1, 8):
        tell(advice, history[:done])
    said = [record.getMessage()[:20] for record in caplog.records]
    assert said == ["labels", "recall is 0.0100 aft", "the training loss st"]
    assert all(record.name == "boxwright.advice" and record.levelname == "WARNING" for record in caplog.records)
    caplog.clear()
    for done_before, expected in (
        (7, []),
        (5, ["the training loss st"]),
        (4, ["recall is 0.0100 aft", "the training loss st"]),
    ):
        resumed = Advice(["labels"])
        resumed.on_train_start(start(history[:done_before]))
        for done in range(done_before + 1, 11):
            tell(resumed, history[:done])
        assert [record.getMessage()[:20] for record in caplog.records] == expected
        caplog.clear()


def test_epochs_without_validation_have_no_recall(caplog: pytest.LogCaptureFixture) -> None:
    """Their rows hold zeros, which mean nothing."""
    history = [row(epoch, 1 - epoch / 10, 0.0, 0.0) for epoch in range(9)]
    advice = Advice()
    advice.on_train_start(start([]))
    for done in range(1, 10):
        tell(advice, history[:done])
    assert not caplog.records


def test_epochs_without_validation_between_others(caplog: pytest.LogCaptureFixture) -> None:
    history = [row(epoch, 1 - epoch / 20, 0.5, 0.2 * (epoch % 2)) for epoch in range(19)]
    advice = Advice()
    advice.on_train_start(start([]))
    for done in range(1, 20):
        tell(advice, history[:done])
    assert not caplog.records


def test_warm_up_of_the_schedule_counts(caplog: pytest.LogCaptureFixture) -> None:
    """At least 100 steps by default, 34 epochs of three: nothing is said before."""
    history = [row(epoch, 1.0, 0.0) for epoch in range(20)]
    report = start([])
    advice = Advice()
    advice.on_train_start(StartReport(report.folder, RunConfig(epochs=20), report.model, [], 0, 3))
    for done in range(1, 20):
        tell(advice, history[:done])
    assert not caplog.records


def test_the_first_value_that_is_not_finite() -> None:
    watch = FiniteWatch(torch.device("cpu"))
    watch.note_loss(torch.tensor([1.0, 2.0]), 0)
    watch.note_gradient(torch.tensor(3.0), 0)
    assert watch.first() is None
    watch.note_gradient(torch.tensor(float("inf")), 4)
    watch.note_loss(torch.tensor([1.0, float("nan")]), 5)
    watch.note_gradient(torch.tensor(float("nan")), 6)
    assert watch.first() == NotFinite(4, "norm of the gradients", float("inf"))
    watch = FiniteWatch(torch.device("cpu"))
    watch.note_gradient(torch.tensor(float("nan")), 7)
    watch.note_loss(torch.tensor([float("-inf")]), 7)
    assert watch.first() == NotFinite(7, "loss", float("-inf"))
    assert watch.first() != NotFinite(6, "loss", float("-inf"))


def test_divergence() -> None:
    assert loss_explodes([2.0, 0.5, 4.9], 0.01) is None
    line = loss_explodes([2.0, 0.5, 5.1], 0.01)
    assert line is not None
    assert line.startswith("the training loss has grown from 0.5 to 5.1 in epoch 3")
    assert validation_not_finite(1e30, 2) is None
    for value in (float("nan"), float("inf")):
        line = validation_not_finite(value, 2)
        assert line is not None
        assert line.startswith(f"the validation loss is {value:g} after epoch 2")
