"""A run that goes wrong says why, with numbers, once: on the console through logging, and in log.log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import resume, train
from tests.integration.small_runs import small_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # No warm-up: the shortest of the others is 100 steps.
    return small_settings(tmp_path, **{"epochs": 6, "optim.release": "v3", "optim.warmup_epochs": 0})


def advice(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "boxwright.advice"]


def starts(line: str, beginnings: tuple[str, ...]) -> bool:
    return any(line.startswith(beginning) for beginning in beginnings)


def test_a_run_that_cannot_learn(settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rate near zero, a class that has no name, anchors far too large; and a resume that repeats nothing."""
    label = sorted((tmp_path / "data").rglob("labels/train/*.txt"))[0]
    label.write_text(label.read_text() + "7 .5 .5 .2 .2\n")
    wrong = settings | {"optim.lr0": 1e-9, "noautoanchor": True, "anchors": [[500, 500], [600, 600], [900, 900]]}
    folder = train(load(RunConfig, wrong))
    lines = advice(caplog)
    boxes = 2 * len(list((tmp_path / "data").rglob("labels/train/*.txt")))
    assert lines[0].startswith("1 labels are not in range and are not trained on (1 unknown class), ")
    assert f"{boxes} boxes are left; the first is {label}:3: class 7 is beyond the 2 names" in lines[0]
    assert lines[1].startswith("the anchors do not fit the labels: best possible recall is 0.0000, below 0.98")
    assert "leave out --noautoanchor" in lines[1]
    assert lines[2].startswith("recall is 0.0000 after 5 of 6 epochs, below 0.05")
    assert lines[3].startswith("the training loss stays high: ")
    assert "over epochs 2 to 6" in lines[3]
    assert "and recall is 0.000" in lines[3]
    assert "--optim.lr0 is 1e-09" in lines[3]
    assert len(lines) == 4
    written = (folder / "log.log").read_text()
    assert [written.count(line) for line in lines] == [1] * 4
    caplog.clear()
    resume(folder, {"epochs": 8})
    assert advice(caplog) == []


def test_a_run_that_learns_gets_no_advice(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    train(load(RunConfig, settings | {"epochs": 2}))
    assert advice(caplog) == []


def test_a_rate_that_is_absurd(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    wrong = settings | {"optim.lr0": 1e30, "optim.clip_norm": 0.0, "noval": True, "epochs": 20}
    with pytest.raises(
        UserError, match=r"^the (loss|norm of the gradients) is (nan|-?inf), at epoch \d+, step \d"
    ) as told:
        train(load(RunConfig, wrong))
    assert "where the rate was 1e+30" in str(told.value)
    assert "Try a lower --optim.lr0" in str(told.value)
    logs = next(Path(settings["project"]).rglob("log.log")).read_text()
    assert str(told.value) in logs
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
