"""Schedules in the loop: the rates that a run really had, plateau over a resume, contradictions before a run begins."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from boxwright.engine.trainer import RunState, load_run
from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import train
from tests.integration.test_resume import assert_same
from tests.unit.engine.line_task import BATCH, LineTask, make_trainer

# The shortest warm-up is 20 epochs of this task. The fitness rises before, and then no more.
FITNESS = [*(epoch / 100 for epoch in range(20)), *[0.19] * 20]
PLATEAU = OptimConfig(schedule="plateau", plateau_patience=2, gamma=0.5, nominal_batch_size=BATCH, warmup_epochs=0)


def rates(folder: Path) -> list[float]:
    with (folder / "results.csv").open() as file:
        return [float(row["x/lr1"]) for row in csv.DictReader(file)]


def test_plateau_falls_when_the_fitness_stays(tmp_path: Path) -> None:
    make_trainer(tmp_path, LineTask(FITNESS), epochs=32, optim=PLATEAU).fit()
    # Epochs 20 to 22 are three without a better fitness, so 23 is the first with half of the rate.
    assert rates(tmp_path)[20:] == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 3 + [0.00125] * 3)


def test_plateau_counts_validations(tmp_path: Path) -> None:
    make_trainer(tmp_path, LineTask(FITNESS[10:]), epochs=32, val_period=2, optim=PLATEAU).fit()
    # Validated after epochs 1, 3, 5 ... (from 0): the tenth, which is the best, after 19; without a better: 21, 23, 25.
    assert rates(tmp_path)[21:] == pytest.approx([0.01] * 5 + [0.005] * 6)


def test_plateau_is_the_same_after_a_resume(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole", LineTask(FITNESS), epochs=30, optim=PLATEAU).fit()
    make_trainer(tmp_path / "parts", LineTask(FITNESS), epochs=22, optim=PLATEAU).fit()
    resumed = make_trainer(tmp_path / "parts", LineTask(FITNESS[22:]), epochs=30, optim=PLATEAU)
    resumed.restore(load_run(tmp_path / "parts/weights/last.pt"))
    assert resumed.state.fitness == FITNESS[:22]
    resumed.fit()
    ours, theirs = (torch.load(tmp_path / name / "weights/last.pt", weights_only=True) for name in ("parts", "whole"))
    assert_same(ours, theirs)
    assert rates(tmp_path / "parts") == rates(tmp_path / "whole")


def test_one_cycle_moves_rate_and_momentum(tmp_path: Path) -> None:
    optim = OptimConfig(schedule="one-cycle", nominal_batch_size=BATCH)
    trainer = make_trainer(tmp_path, epochs=4, optim=optim)
    seen: list[tuple[float, float]] = []
    update = trainer.update_weights

    def look(step: int) -> None:
        group = trainer.optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        update(step)

    trainer.update_weights = look  # type: ignore[method-assign]
    trainer.fit()
    assert len(seen) == 20
    assert seen[0] == pytest.approx((0.0004, 0.937))
    assert seen[5] == pytest.approx((0.01, 0.8))
    assert seen[-1] == pytest.approx((0.0001, 0.937))


def test_a_checkpoint_of_before_has_no_fitness() -> None:
    values = asdict(RunState(epoch=3))
    del values["fitness"]
    assert RunState(**values).fitness == []


def test_a_contradiction_leaves_no_run_folder(tmp_path: Path) -> None:
    settings = {"data": "gone.yaml", "project": str(tmp_path / "runs")}
    with pytest.raises(UserError, match="two schedules"):
        train(load(RunConfig, settings | {"optim.schedule": "step", "optim.cos_lr": True}))
    with pytest.raises(UserError, match="leave out --noval"):
        train(load(RunConfig, settings | {"optim.schedule": "plateau", "noval": True}))
    assert not (tmp_path / "runs").exists()
