"""The loop over a task of a few numbers: what is saved when, exact resume, losses that are not finite, full disks."""

from __future__ import annotations

import errno
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.checkpoints.native import load_checkpoint
from boxwright.engine.callbacks import Callback, Progress
from boxwright.engine.loggers import EventsJsonl
from boxwright.engine.stopping import Interrupt
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.yolo.fine_tune import freeze_layers
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.test_resume import assert_same
from tests.unit.engine.line_task import BATCH, KEPT, STEPS, LineTask, make_trainer


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "weights" / "last.pt", weights_only=True)


def test_best_is_the_epoch_of_the_best_fitness(tmp_path: Path) -> None:
    task = LineTask(fitness=[0.2, 0.6, 0.4])
    make_trainer(tmp_path, task, save_period=2).fit()
    best = torch.load(tmp_path / "weights" / "best.pt", weights_only=True)
    assert best["metrics"]["epoch"] == best["epoch"] == 2
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["best.pt", "epoch2.pt", *KEPT]
    assert last(tmp_path)["engine"]["best_epoch"] == 1
    assert task.closed
    header, *rows = (tmp_path / "results.csv").read_text().splitlines()
    assert header == "epoch,train/loss,metrics/error,val/loss,x/lr0,x/lr1,x/lr2"
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]
    assert [row.split(",")[2] for row in rows] == ["0.2", "0.6", "0.4"]


def test_patience_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, LineTask(fitness=[0.5, 0.4, 0.3, 0.6]), epochs=10, patience=2)
    trainer.fit()
    assert trainer.state.epoch == 3
    assert "no better fitness for 2 epochs; the best was epoch 1" in capsys.readouterr().out


def test_validation_every_few_epochs(tmp_path: Path) -> None:
    task = LineTask(fitness=[0.2, 0.6, 0.4])
    make_trainer(tmp_path, task, epochs=7, val_period=3, save_period=3, save_name="epoch_").fit()
    assert task.num_evaluations == 3  # after epochs 3, 6 and the last
    names = sorted(p.name for p in (tmp_path / "weights").iterdir())
    assert names == ["best.pt", "epoch_3.pt", "epoch_6.pt", *KEPT]
    rows = (tmp_path / "results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in rows] == ["", "", "0.2", "", "", "0.6", "0.4"]


def test_the_best_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    best = tmp_path / "elsewhere.pt"
    task = LineTask(fitness=[0.1, 0.3, 0.2])
    make_trainer(tmp_path, task, best_weight=str(best), save_best_only=True, save_epochs=(1,)).fit()
    assert load_checkpoint(best)["epoch"] == 2
    assert best.read_bytes() == (tmp_path / "weights" / "best.pt").read_bytes()
    assert not (tmp_path / "weights" / "epoch1.pt").exists()


def test_noval_and_nosave_act_only_at_the_end(tmp_path: Path) -> None:
    task = LineTask()
    trainer = make_trainer(tmp_path, task, noval=True, nosave=True)
    seen: list[bool] = []
    finish = trainer.finish_epoch

    def finish_and_look(interrupt: Interrupt) -> None:
        finish(interrupt)
        seen.append((tmp_path / "weights" / "last.pt").exists())

    trainer.finish_epoch = finish_and_look  # type: ignore[method-assign]
    trainer.fit()
    assert seen == [False, False, True]
    assert task.num_evaluations == 1


@pytest.mark.parametrize("stop_after", range(1, STEPS * 2))
def test_resume_between_two_batches_of_one_optimizer_step(tmp_path: Path, stop_after: int) -> None:
    """Stopped at each step of two epochs: gathered gradients, running losses and all else go on as they were."""
    settings: dict[str, Any] = {"epochs": 2, "optim": OptimConfig(nominal_batch_size=3 * BATCH, warmup_momentum=0.9)}
    stopped = make_trainer(tmp_path / "stopped", **settings)
    stopped.schedule = _gathering_three(stopped.schedule)
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.schedule = _gathering_three(whole.schedule)
    whole.fit()

    class StoppedError(Exception):
        pass

    note_loss, count = stopped._finite.note_loss, 0

    def note_and_stop(*args: Any) -> None:
        nonlocal count
        note_loss(*args)
        count += 1
        if count == stop_after:
            stopped.state.step += 1
            stopped.save_last(stopped.weights_folder / "last.pt")
            raise StoppedError

    stopped._finite.note_loss = note_and_stop  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        stopped.fit()
    resumed = make_trainer(tmp_path / "stopped", **settings)
    resumed.schedule = _gathering_three(resumed.schedule)
    resumed.restore(load_run(tmp_path / "stopped" / "weights" / "last.pt"))
    resumed.fit()
    ours, theirs = last(tmp_path / "stopped"), last(tmp_path / "whole")
    assert_same(ours, theirs)
    assert (tmp_path / "stopped" / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()


def test_resume_remembers_the_best_epoch(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, LineTask(fitness=[0.6, 0.2]), epochs=2)
    first.fit()
    resumed = make_trainer(tmp_path, LineTask(fitness=[0.5]), epochs=3)
    resumed.restore(load_run(tmp_path / "weights" / "last.pt"))
    resumed.fit()
    best = torch.load(tmp_path / "weights" / "best.pt", weights_only=True)
    assert best["metrics"]["epoch"] == 1
    assert last(tmp_path)["engine"]["best_fitness"] == 0.6


def test_rows_of_a_run_that_counted_from_zero_go_on_from_one(tmp_path: Path) -> None:
    make_trainer(tmp_path, LineTask(fitness=[0.6, 0.2]), epochs=2).fit()
    content = load_run(tmp_path / "weights" / "last.pt")
    for row in content["engine"]["run"]["history"]:
        row["epoch"] -= 1
    resumed = make_trainer(tmp_path, LineTask(fitness=[0.5]), epochs=3)
    resumed.restore(content)
    resumed.fit()
    assert [row["epoch"] for row in resumed.state.history] == [1, 2, 3]


def _gathering_three(schedule: Any) -> Any:
    """The same rates, but three batches an optimizer step from the first one on."""

    class Gathering:
        def at(self, step: int, fitness: Any = ()) -> Any:
            return replace(schedule.at(step + 20), accumulate=3)

        def updates(self, step: int, last_update: int) -> bool:
            return step - last_update >= 3

    return Gathering()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_names_step_and_images(tmp_path: Path, value: float) -> None:
    """The third step of the second epoch goes wrong: the checkpoint of the first epoch stays, to the byte."""
    task = LineTask(poison=lambda epoch, step: value if (epoch, step) == (1, 2) else 1.0)
    trainer = make_trainer(tmp_path, task)
    trainer.schedule = _gathering_three(trainer.schedule)  # that step only gathers: its gradient is not looked at yet
    place = rf"^the loss is {value}, at epoch 2, step 3\b"
    with pytest.raises(UserError, match=rf"{place}.*last\.pt.*image 1-2-0\.jpg, image 1-2-1\.jpg"):
        trainer.fit()
    kept = last(tmp_path)
    assert kept["engine"]["run"]["epoch"] == 1
    assert all(bool(t.isfinite().all()) for t in kept["state_dict"].values())
    assert task.closed


def test_gradient_that_is_not_finite_in_the_last_step_is_not_saved(tmp_path: Path) -> None:
    """The loss is fine, its gradient is not: the weights are spoiled and no loss will tell before they are saved."""
    trainer = make_trainer(tmp_path, epochs=2, optim=OptimConfig(nominal_batch_size=BATCH))
    loss = trainer.task.loss

    def spoil(batch: Any, epoch: int, step: int) -> Any:
        result = loss(batch, epoch, step)
        if (epoch, step) == (1, STEPS - 1):
            result.total.register_hook(lambda gradient: gradient * float("nan"))
        return result

    trainer.task.loss = spoil  # type: ignore[method-assign]
    with pytest.raises(UserError, match=f"the norm of the gradients is nan, at epoch 2, step {STEPS}"):
        trainer.fit()
    assert all(bool(t.isfinite().all()) for t in last(tmp_path)["state_dict"].values())


@pytest.mark.parametrize(("scale", "ends"), [(2.0**-9, False), (2.0**-12, True)])
def test_a_loss_scale_that_has_fallen_to_nothing(tmp_path: Path, scale: float, ends: bool) -> None:
    """fp16 leaves out steps whose gradients are not finite; if there are no others, nothing is learned."""

    class Scaler(torch.amp.GradScaler):
        def is_enabled(self) -> bool:
            return True

        def get_scale(self) -> float:
            return scale

    trainer = make_trainer(tmp_path, epochs=1)
    trainer.scaler = Scaler("cpu", enabled=False)
    trainer.scaler.unscale_ = lambda optimizer: None  # type: ignore[method-assign]
    trainer.scaler.scale = lambda outputs: outputs  # type: ignore[method-assign]
    trainer.scaler.step = lambda optimizer: optimizer.step()  # type: ignore[method-assign]
    trainer.scaler.update = lambda new_scale=None: None  # type: ignore[method-assign]
    trainer.scaler.state_dict = dict  # type: ignore[method-assign]
    if not ends:
        trainer.fit()
        return
    with pytest.raises(UserError, match=r"the loss scale of fp16 has fallen to 0\.00024\. Try --precision bf16"):
        trainer.fit()
    assert not (tmp_path / "weights/last.pt").exists()


def test_full_disk_while_saving_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, LineTask(fitness=[0.5, 0.1]))
    real, before = os.fsync, b""

    def fsync(handle: int) -> None:
        if trainer.state.epoch == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    finish = trainer.finish_epoch

    def finish_and_keep(interrupt: Interrupt) -> None:
        nonlocal before
        finish(interrupt)
        before = (tmp_path / "weights" / "last.pt").read_bytes()

    trainer.finish_epoch = finish_and_keep  # type: ignore[method-assign]
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        UserError, match=r"cannot write .*last\.pt: no space left on device; the last\.pt of before is kept"
    ):
        trainer.fit()
    assert (tmp_path / "weights" / "last.pt").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_full_disk_while_logging_is_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    trainer = make_trainer(tmp_path, callbacks=[EventsJsonl(Path("/dev/full"))])
    with pytest.raises(UserError, match=r"cannot write /dev/full: no space left on device"):
        trainer.fit()


def test_freezing_everything_is_refused() -> None:
    model = build_model(load_spec("yolov5n"))
    assert freeze_layers(model, (0,)) == []
    assert {name.split(".")[1] for name in freeze_layers(model, (1,))} == {"0"}
    with pytest.raises(UserError, match="--freeze 25 freezes every layer"):
        freeze_layers(model, (25,))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_validation_that_gives_no_numbers_is_not_the_best(tmp_path: Path, bad: float) -> None:
    task = LineTask(fitness=[0.0, 0.3, 0.0], val_losses=[bad, 0.25, bad])
    make_trainer(tmp_path, task).fit()
    best = torch.load(tmp_path / "weights" / "best.pt", weights_only=True)
    assert best["metrics"]["epoch"] == 2
    assert last(tmp_path)["engine"]["best_epoch"] == 1


def test_a_signal_during_validation_ends_the_run_there(tmp_path: Path) -> None:
    """It does not wait for the end of a long validation; what goes on equals a run that was not stopped."""

    class Stop(Callback):
        def on_val_start(self, progress: Progress) -> None:
            if progress.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    make_trainer(tmp_path / "whole").fit()
    task = LineTask()
    with pytest.raises(SystemExit, match="143"):
        make_trainer(tmp_path / "stopped", task, [Stop()]).fit()
    assert task.num_evaluations == 1
    again = make_trainer(tmp_path / "stopped")
    again.restore(load_run(tmp_path / "stopped" / "weights" / "last.pt"))
    assert (again.state.epoch, again.state.step) == (1, STEPS)
    again.fit()
    for part in ("state_dict", "ema", "engine"):
        assert_same(last(tmp_path / "stopped")[part], last(tmp_path / "whole")[part], part)
    assert (tmp_path / "stopped" / "results.csv").read_text() == (tmp_path / "whole" / "results.csv").read_text()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The last update of an epoch may spoil them with a loss and gradients that are finite."""

    class Spoils(Callback):
        def on_train_epoch_end(self, progress: Progress) -> None:
            if progress.epoch == 1:
                next(trainer.task.model.parameters()).data[0, 0] = math.inf

    trainer = make_trainer(tmp_path, callbacks=[Spoils()], epochs=3)
    with pytest.raises(
        UserError, match=r"weights are not finite at epoch 2, step 5: 1 entry.*last\.pt of before is kept"
    ):
        trainer.fit()
    assert last(tmp_path)["epoch"] == 1
    assert load_run(tmp_path / "weights" / "last.pt")


def test_nohup_is_obeyed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.received is None
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.received == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("config", [None, [], "x"])
def test_a_checkpoint_without_a_config_is_damaged(config: object, tmp_path: Path) -> None:
    whole = {"format": "boxwright", "version": 1, "epoch": 1, "model": {}, "engine": {}, "state_dict": {}, "ema": {}}
    torch.save(whole if config is None else whole | {"config": config}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt is damaged: it lacks config of a run"):
        load_run(tmp_path / "last.pt")
