"""The hook points: when they are called, what they are told, what happens when one raises or wants the run to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.engine.callbacks import (
    Callback,
    EndReport,
    EpochReport,
    FirstBatches,
    Progress,
    SaveReport,
    StepReport,
    checked_callbacks,
    named_callbacks,
)
from boxwright.engine.loggers import TextLog
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
from tests.integration.test_resume import assert_same
from tests.unit.engine.line_task import STEPS, LineTask, make_trainer

HOOKS = [name for name in vars(Callback) if name.startswith("on_") or name in ("optimizer_step", "teardown")]

ONCE = ("on_train_start", "on_train_end")
# A hook of the loop, and how many of its calls go well before one raises.
FAULTS = [(name, 0) for name in HOOKS if not name.startswith("on_pretrain") and name != "teardown"]
FAULTS += [(name, 1) for name, _ in FAULTS if name not in ONCE]


class Recorder(Callback):
    """Notes every hook with what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def told(self, name: str) -> list[Any]:
        return [arguments[0] for heard, arguments in self.heard if heard == name]


def _record(name: str) -> Any:
    return lambda self, *arguments: self.heard.append((name, arguments))


for _name in HOOKS:
    setattr(Recorder, _name, _record(_name))


class Faulty(Callback):
    """Raises at one call of one hook."""

    def __init__(self, hook: str, after: int = 0, error: BaseException | None = None) -> None:
        self.left = after
        self.error = error or ValueError("no such colour")
        setattr(self, hook, self._raise)

    def _raise(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


def test_order_of_an_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, callbacks=[recorder], epochs=1).fit()
    updated = ["on_before_zero_grad", "optimizer_step"]
    step = ["on_train_batch_start", "on_train_batch_end"]
    with_update = [step[0], *updated, step[1]]
    validation = ["on_val_start", "on_val_batch_start", *["on_val_image_end"] * 2, "on_val_batch_end", "on_val_end"]
    assert recorder.names[0] == "on_train_start"
    assert recorder.names[1] == "on_train_epoch_start"
    steps = recorder.names[2 : recorder.names.index("on_step_report")]
    assert steps == [name for _ in range(STEPS) for name in with_update]
    assert recorder.names[2 + len(steps) :] == [
        "on_step_report",
        "on_train_epoch_end",
        *validation,
        "on_fit_epoch_end",
        "on_model_save",
        "on_train_end",
        "teardown",
    ]


def test_the_first_batches_of_a_new_run_are_drawn_after_the_steps_on_them(tmp_path: Path) -> None:
    recorder = Recorder()

    def draw(batch: Any, number: int) -> None:
        recorder.heard.append((f"{number}: {batch.paths[0]}", ()))

    make_trainer(tmp_path, callbacks=[recorder, FirstBatches(draw, 2)], epochs=1).fit()
    started = [told[1].paths[0] for name, told in recorder.heard if name == "on_train_batch_start"]
    drawn = [name for name in recorder.names if ": " in name]
    assert drawn == [f"{number}: {path}" for number, path in enumerate(started[:2])]
    at = recorder.names.index(drawn[0])
    assert recorder.names[at - 1 : at + 2] == ["on_train_batch_end", drawn[0], "on_train_batch_start"]
    resumed = make_trainer(tmp_path, callbacks=[FirstBatches(draw, 2)], epochs=2)
    resumed.restore(load_run(tmp_path / "weights" / "last.pt"))
    resumed.fit()
    assert [name for name in recorder.names if ": " in name] == drawn


def test_what_is_told(tmp_path: Path) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, LineTask(fitness=[0.2, 0.6, 0.4]), callbacks=[recorder]).fit()
    start = recorder.told("on_train_start")[0]
    assert (start.steps, start.steps_done, start.folder) == (STEPS, 0, tmp_path)
    assert recorder.told("on_train_batch_end")[7] == Progress(1, 3, 3, STEPS)
    report: StepReport = recorder.told("on_step_report")[0]
    assert (report.epoch, report.step, len(report.rates)) == (0, STEPS, 3)
    epochs: list[EpochReport] = recorder.told("on_fit_epoch_end")
    assert [(e.epoch, e.improved, e.score and e.score.fitness) for e in epochs] == [
        (0, True, 0.2),
        (1, True, 0.6),
        (2, False, 0.4),
    ]
    saved: list[SaveReport] = recorder.told("on_model_save")
    assert [[path.name for path in report.paths] for report in saved] == [["best.pt", "last.pt"]] * 2 + [["last.pt"]]
    end: EndReport = recorder.told("on_train_end")[0]
    assert (end.epochs_done, end.best_epoch, end.best_fitness, end.reason) == (3, 1, 0.6, "")


class StopAfter(Callback):
    def on_fit_epoch_end(self, report: EpochReport) -> None:
        if report.epoch == 1:
            self.stop_training = "it is good enough"


def test_stop_training_ends_the_run_after_the_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, callbacks=[StopAfter(), recorder], epochs=5, nosave=True).fit()
    assert "stopped after epoch 2: it is good enough" in capsys.readouterr().out
    assert recorder.told("on_train_end")[0].reason == "it is good enough"
    assert load_run(tmp_path / "weights" / "last.pt")["epoch"] == 2


def test_a_stopped_run_can_be_resumed_to_the_end_that_it_would_have_had(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole").fit()
    make_trainer(tmp_path / "stopped", callbacks=[StopAfter()]).fit()
    _resume(tmp_path / "stopped")
    _assert_same_end(tmp_path)


@pytest.mark.parametrize(("hook", "after"), FAULTS)
def test_a_callback_that_raises_leaves_a_run_that_goes_on_exactly(tmp_path: Path, hook: str, after: int) -> None:
    """Wherever it raises: the sentence names it, and the resumed run ends as an undisturbed one."""
    make_trainer(tmp_path / "whole").fit()
    faulty = make_trainer(tmp_path / "stopped", callbacks=[Faulty(hook, after)])
    with pytest.raises(UserError) as caught:
        faulty.fit()
    text, checkpoint = str(caught.value), tmp_path / "stopped" / "weights" / "last.pt"
    assert text.startswith(f"callback Faulty raised in {hook}: ValueError: no such colour; ")
    assert isinstance(caught.value.__cause__, ValueError)
    if not checkpoint.exists():
        assert hook in ("on_before_zero_grad", "optimizer_step")  # in the middle of the first update
        assert text.endswith("there is no checkpoint yet")
        return
    assert text.endswith(f"go on with: boxwright train --resume '{checkpoint}'")
    if hook != "on_train_end":
        _resume(tmp_path / "stopped")
    _assert_same_end(tmp_path)


def _resume(folder: Path) -> None:
    trainer = make_trainer(folder)
    trainer.restore(load_run(folder / "weights" / "last.pt"))
    trainer.fit()


def _assert_same_end(root: Path) -> None:
    ours, theirs = (torch.load(root / name / "weights" / "last.pt", weights_only=True) for name in ("stopped", "whole"))
    assert_same(ours, theirs)
    assert (root / "stopped" / "results.csv").read_bytes() == (root / "whole" / "results.csv").read_bytes()
    assert (root / "stopped" / "weights" / "best.pt").exists()


def test_a_loss_that_is_not_finite_is_not_saved_by_a_callback_that_raises(tmp_path: Path) -> None:
    task = LineTask(poison=lambda epoch, step: float("nan") if (epoch, step) == (1, 1) else 1.0)
    with pytest.raises(UserError, match="callback Faulty raised in on_train_batch_end"):
        make_trainer(tmp_path, task, callbacks=[Faulty("on_train_batch_end", STEPS + 1)]).fit()
    kept = load_run(tmp_path / "weights" / "last.pt")
    assert (kept["epoch"], kept["engine"]["run"]["step"]) == (1, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_user_may_always_leave(tmp_path: Path, error: type[BaseException]) -> None:
    recorder = Recorder()
    with pytest.raises(error):
        make_trainer(tmp_path, callbacks=[Faulty("on_train_batch_end", 2, error()), recorder]).fit()
    assert recorder.names[-1] == "teardown"


def test_the_traceback_goes_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.log"
    with pytest.raises(UserError):
        make_trainer(tmp_path, callbacks=[TextLog(log), Faulty("on_train_epoch_end")]).fit()
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "raise self.error" in text
    assert "Traceback" not in capsys.readouterr().err


def test_teardown_reaches_all_and_the_first_mistake_is_told(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match="raised in on_train_end"):
        make_trainer(tmp_path, callbacks=[Faulty("on_train_end"), Faulty("teardown"), recorder]).fit()
    assert recorder.names.count("teardown") == 1
    with pytest.raises(UserError, match="callback Faulty raised in teardown: ValueError"):
        make_trainer(tmp_path, callbacks=[Faulty("teardown"), recorder]).fit()
    assert recorder.names.count("teardown") == 2


def test_best_weights_of_an_epoch_are_there_whatever_a_callback_does_after_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on_fit_epoch_end"):
        make_trainer(tmp_path, LineTask(fitness=[0.9]), callbacks=[Faulty("on_fit_epoch_end")]).fit()
    resumed = make_trainer(tmp_path, LineTask(fitness=[0.5]))
    resumed.restore(load_run(tmp_path / "weights" / "last.pt"))
    resumed.fit()
    assert torch.load(tmp_path / "weights" / "best.pt", weights_only=True)["metrics"]["epoch"] == 1


def test_what_is_told_belongs_to_the_callback(tmp_path: Path) -> None:
    """One that writes into it changes neither the run nor its logs."""

    class Scribbler(Callback):
        def on_fit_epoch_end(self, report: EpochReport) -> None:
            report.history[-1]["mine"] = 1.0  # type: ignore[index]
            report.history.clear()  # type: ignore[attr-defined]

    make_trainer(tmp_path / "plain").fit()
    make_trainer(tmp_path / "scribbled", callbacks=[Scribbler()]).fit()
    plain, scribbled = (tmp_path / name / "results.csv" for name in ("plain", "scribbled"))
    assert scribbled.read_text() == plain.read_text()


def test_a_callback_by_itself_or_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"write callbacks=\[...\]"):
        checked_callbacks(Callback(), 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="callback 'mlflow' is named twice"):
        named_callbacks(["mlflow", "mlflow"])


def test_a_message_of_several_lines_is_told_in_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ValueError: first second; go on with"):
        make_trainer(tmp_path, callbacks=[Faulty("on_train_batch_start", error=ValueError("first\n  second"))]).fit()
