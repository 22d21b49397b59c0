"""Each verb hands its settings to one library call."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import boxwright as bw
from boxwright.cli.main import main
from boxwright.systems import training_of
from boxwright.yolo.settings import CheckConfig, PredictConfig, RunConfig, ValConfig


class Recorder:
    """Stands in for a job and keeps what it was called with."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls.append((*args, *named.values()))
        return self.result


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace()
    monkeypatch.setattr("boxwright.systems.find_problems", lambda *_: [])  # the files that they name are not there
    for name in ("train", "val", "predict", "evolve"):
        recorder = Recorder(Path("runs/exp"))
        monkeypatch.setattr(f"boxwright.yolo.verbs.{name}.{name}", recorder)
        setattr(found, name, recorder)
    found.resume = Recorder(Path("runs/exp"))
    monkeypatch.setattr("boxwright.engine.run.resume", found.resume)
    found.check = Recorder(1)
    monkeypatch.setattr("boxwright.yolo.verbs.check.check", found.check)
    return found


def test_train(jobs: SimpleNamespace) -> None:
    assert main(["train", "--data", "a b/d.yaml", "--epochs", "2", "--loss.box", "0.1"]) == 0
    assert jobs.train.calls == [(RunConfig.model_validate({"data": "a b/d.yaml", "epochs": 2, "loss": {"box": 0.1}}),)]


@pytest.mark.parametrize(
    ("argv", "call"),
    [
        (["--resume"], (None, {})),
        (["--resume", "runs/exp/weights/last.pt"], (Path("runs/exp/weights/last.pt"), {})),
        (
            ["--resume", "last.pt", "--workers", "1", "--device", "cpu"],
            (Path("last.pt"), {"workers": 1, "device": "cpu"}),
        ),
        (["--resume", "--epochs", "20"], (None, {"epochs": 20})),
    ],
)
def test_resume_passes_only_what_was_given(jobs: SimpleNamespace, argv: list[str], call: tuple[object, object]) -> None:
    assert main(["train", *argv]) == 0
    assert jobs.resume.calls == [(*call, training_of)]
    assert not jobs.train.calls


def test_a_resumed_run_keeps_its_other_settings(jobs: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--imgsz", "320"]) == 2
    assert "--imgsz" in capsys.readouterr().err
    assert not jobs.resume.calls


def test_val_predict_and_check(jobs: SimpleNamespace) -> None:
    assert main(["val", "--weights", "w.pt", "--task", "test"]) == 0
    assert jobs.val.calls == [(ValConfig(weights="w.pt", task="test"),)]
    assert main(["predict", "--source", "0", "--classes", "1,2"]) == 0
    assert jobs.predict.calls == [(PredictConfig(source="0", classes=(1, 2)),)]
    assert main(["check", "d.yaml"]) == 1
    assert jobs.check.calls == [(CheckConfig(data="d.yaml"),)]


def test_python_does_the_same(jobs: SimpleNamespace) -> None:
    assert bw.train("d.yaml", epochs=2, optim={"lr0": 0.02}, hyp="scratch-high") == Path("runs/exp")
    run, callbacks = jobs.train.calls[0]
    assert not callbacks
    assert (run.data, run.epochs, run.optim.lr0, run.loss.obj) == ("d.yaml", 2, 0.02, 0.7)
    bw.train(resume=True, workers=0)
    assert jobs.resume.calls == [(None, {"workers": 0}, training_of, [])]
    bw.val(Path("w.pt"), "d.yaml", imgsz=320)
    assert jobs.val.calls == [(ValConfig(weights="w.pt", data="d.yaml", imgsz=320),)]
    bw.predict("w.pt", "photo.jpg", conf_thres=0.5)
    assert jobs.predict.calls == [(PredictConfig(weights="w.pt", source="photo.jpg", conf_thres=0.5),)]
    bw.evolve("d.yaml", generations=4, optim={"lr0": 0.02})
    (search,) = jobs.evolve.calls[0]
    assert (search.data, search.generations, search.optim.lr0, search.noval) == ("d.yaml", 4, 0.02, True)


def test_python_names_a_wrong_setting(jobs: SimpleNamespace) -> None:
    with pytest.raises(Exception, match="epochz: no such setting; did you mean epochs"):
        bw.train("d.yaml", epochz=3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["info", "centerfusion-dla34", "--find", "Conv"], "--find belongs to info of yolo"),
        (["info", "centerfusion-dla34", "--verbose"], "--verbose belongs to info of yolo"),
        (["info", "centerfusion-dla35"], "did you mean centerfusion-dla34"),
        (["info", "centerfusion-dla34", "--imgsz", "100"], "multiple of 32"),
        (["train", "--model", "centerfusion-dla34", "--resume", "runs/exp"], "own settings: leave out --model"),
        (["predict", "--model", "centerfusion-dla34", "--fps", "1e9"], "fps"),
        (["val", "--model", "centerfusion-dla34", "--data", "d"], "needs --weights FILE or --json JSON"),
    ],
)
def test_what_camera_and_radar_refuse(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_the_published_network_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "centerfusion-dla34", "--imgsz", "64", "128"]) == 0
    told = capsys.readouterr().out
    assert "21,402,320 parameters" in told
    assert "10 x 16 x 32" in told
