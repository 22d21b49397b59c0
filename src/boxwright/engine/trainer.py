"""The training loop. It knows a Task and nothing of models: epochs, steps, optimizer, averaging, validation, saving."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

import torch
from torch import Tensor

from boxwright.config.schema import RunConfig
from boxwright.engine.checkpointing import save_last, save_weights
from boxwright.engine.distributed import World
from boxwright.engine.ema import ModelEma
from boxwright.engine.interrupt import EXIT_CODES, Interrupt
from boxwright.engine.loggers import EpochReport, Logger, StepReport
from boxwright.engine.optim import apply_settings, clip_gradients, make_optimizer
from boxwright.engine.precision import Policy
from boxwright.engine.schedule import make_schedule
from boxwright.engine.state import RunState
from boxwright.engine.stopping import EarlyStopping
from boxwright.engine.task import Score, StepLoss, Task
from boxwright.errors import UserError
from boxwright.structures import Batch

LOG_STEPS = 20  # the device is waited for once in so many steps


class Trainer:
    """Args:
    task: what is trained, on its device.
    config: settings of the run.
    folder: run folder; weights go to its `weights`.
    policy: precision.
    loggers: told of steps and epochs.
    world: the processes that train together. All take the same steps and decisions; the first one writes and prints.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        folder: Path,
        policy: Policy,
        loggers: Sequence[Logger] = (),
        world: World = World(),  # noqa: B008  # immutable
    ) -> None:
        self.task = task
        self.world = world
        self.config = config
        self.folder = folder
        self.policy = policy
        self.device = policy.device
        self.loggers = loggers if world.is_first else ()
        self.schedule = make_schedule(config.optim, config.epochs, task.steps_per_epoch, config.batch_size)
        self.optimizer = make_optimizer(
            task.model, config.optim, self.schedule.weight_decay, decays_everything=self.schedule.decays_everything
        )
        self.scaler = policy.make_scaler()
        self.ema = ModelEma(task.model, config.optim.ema_decay, config.optim.ema_tau)
        self.stopping = EarlyStopping(config.patience)
        self.state = RunState()
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._recent: deque[tuple[int, tuple[Path, ...]]] = deque(maxlen=LOG_STEPS + 1)

    @property
    def weights_folder(self) -> Path:
        return self.folder / "weights"

    @property
    def finished(self) -> bool:
        """All epochs are done, or the fitness has not improved for too long."""
        return self.state.epoch >= self.config.epochs or self.stopping.exhausted(self.state.epoch - 1)

    def fit(self) -> None:
        """Train from where the state stands to the last epoch, or until it stops improving.

        Raises:
            UserError: the loss is not finite, or a checkpoint cannot be written.
            SystemExit: 143 or 130 after SIGTERM or SIGINT; the state is saved then.
        """
        if self.world.is_first:
            self.weights_folder.mkdir(parents=True, exist_ok=True)
        done = self.state.epoch * self.task.steps_per_epoch + self.state.step
        self._tell(lambda logger: logger.start(self.state.history, done))
        with Interrupt(patient=self.world.size > 1) as interrupt:
            try:
                while not self.finished:
                    self.train_epoch(interrupt)
                    self.finish_epoch()
                    self._leave_if_told(interrupt)
            finally:
                self.task.close()
                self._tell(lambda logger: logger.close())

    def train_epoch(self, interrupt: Interrupt) -> None:
        """One pass over the training images."""
        state, task = self.state, self.task
        task.model.train()
        for batch in task.train_batches(state.epoch, state.step):
            step = state.epoch * task.steps_per_epoch + state.step
            settings = self.schedule.at(step)
            apply_settings(self.optimizer, settings)
            on_device = batch.to(self.device)
            with self.policy.autocast():
                loss = task.loss(on_device, state.epoch, state.step)
            self.scaler.scale(loss.total * settings.loss_scale).backward()
            if self.schedule.updates(step, state.last_update):
                self.update_weights(step)
                state.last_update = step
            self._note(loss, batch, step)
            state.step += 1
            if state.step % LOG_STEPS == 0 or state.step == task.steps_per_epoch:
                self._report_step()
            self._leave_if_told(interrupt)

    def update_weights(self, step: int) -> None:
        """One optimizer step from the gathered gradients, and one step of the average."""
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.task.model, self.config.optim.clip_norm)
        if not self.scaler.is_enabled():  # the scaler leaves such a step out and tries a smaller scale
            self._mark_bad(~norm.isfinite(), step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()

    def finish_epoch(self) -> None:
        """Validate, log and save."""
        state, config = self.state, self.config
        last = state.epoch + 1 == config.epochs
        score = None
        due = not config.noval and (state.epoch + 1) % config.val_period == 0
        if due or last or self.stopping.may_stop_next(state.epoch):
            self.world.copy_from_first(self.ema.module.state_dict().values())
            score = self.world.from_first(self.task.evaluate(self.ema.module, self.policy.autocast))
        state.history.append(self._row(score))
        improved = score is not None and self.stopping.update(state.epoch, score.fitness)
        report = EpochReport(state.epoch, config.epochs, state.history, score, improved)
        self._tell(lambda logger: logger.epoch(report))
        epoch = state.epoch
        state.epoch, state.step, state.loss_sum = epoch + 1, 0, None
        self._save_epoch(epoch, improved=improved)
        if self.finished and not last:
            print(f"no better fitness for {config.patience} epochs; the best was epoch {self.stopping.best_epoch + 1}")

    def _save_epoch(self, epoch: int, *, improved: bool) -> None:
        if not self.world.is_first:
            return
        if improved:
            save_weights(self, self.weights_folder / "best.pt")
        if self.config.save_period > 0 and (epoch + 1) % self.config.save_period == 0:
            save_weights(self, self.weights_folder / f"{self.config.save_name}{epoch + 1}.pt")
        if self.finished or not self.config.nosave:
            save_last(self, self.weights_folder / "last.pt")

    def _row(self, score: Score | None) -> dict[str, float]:
        """A line of results.csv, with the published columns."""
        task, state = self.task, self.state
        assert state.loss_sum is not None
        losses = (state.loss_sum / task.steps_per_epoch).tolist()
        row = {"epoch": float(state.epoch)}
        row |= {f"train/{name}": value for name, value in zip(task.loss_names, losses, strict=True)}
        metrics = {**score.metrics, **score.more} if score else dict.fromkeys(task.metric_names, 0.0)
        row |= {f"metrics/{name}": value for name, value in metrics.items()}
        val_losses = score.losses if score else [0.0] * len(task.loss_names)
        row |= {f"val/{name}": value for name, value in zip(task.loss_names, val_losses, strict=True)}
        row |= {f"x/lr{i}": float(group["lr"]) for i, group in enumerate(self.optimizer.param_groups)}
        return row

    def _note(self, loss: StepLoss, batch: Batch, step: int) -> None:
        """Add up the losses and mark a step whose loss is not finite, all on the device."""
        state = self.state
        state.loss_sum = loss.items.clone() if state.loss_sum is None else state.loss_sum + loss.items
        self._recent.append((step, batch.paths))
        self._mark_bad(~loss.items.isfinite().all(), step)

    def _mark_bad(self, bad: Tensor, step: int) -> None:
        self._first_bad = torch.where(bad & (self._first_bad < 0), step, self._first_bad)

    def _report_step(self) -> None:
        """Tell the loggers how it goes. The device is waited for here."""
        self.check_finite()
        state = self.state
        assert state.loss_sum is not None
        losses = (state.loss_sum / state.step).tolist()
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        names = self.task.loss_names
        report = StepReport(
            state.epoch,
            self.config.epochs,
            state.step,
            self.task.steps_per_epoch,
            dict(zip(names, losses, strict=True)),
            rates,
            self.config.batch_size,
        )
        self._tell(lambda logger: logger.step(report))

    def _tell(self, say: Callable[[Logger], None]) -> None:
        """Let every logger hear something.

        Raises:
            UserError: one of them cannot write, as on a full disk.
        """
        for logger in self.loggers:
            try:
                say(logger)
            except OSError as error:
                kept = "; the weights saved so far are kept" if (self.weights_folder / "last.pt").exists() else ""
                raise UserError(f"cannot write the logs in {self.folder}: {error.strerror or error}{kept}") from error

    def check_finite(self) -> None:
        """Stop if the loss or gradient of a recent step was not finite; the last good checkpoint stays as it is.

        Raises:
            UserError: names the step and its images.
        """
        bad = int(self._first_bad)
        if bad < 0:
            return
        paths = next((paths for step, paths in self._recent if step == bad), ())
        epoch, step = divmod(bad, self.task.steps_per_epoch)
        images = ", ".join(str(path) for of_rank in self.world.all(paths) for path in of_rank)
        kept = self.weights_folder / "last.pt"
        keep = f"{kept} of before is kept. " if kept.exists() else ""
        raise UserError(
            f"the loss or its gradient is not finite at epoch {epoch + 1}, step {step + 1}. {keep}"
            "Try a lower --optim.lr0, --precision fp32, or look at these images and their labels: " + images
        )

    def _leave_if_told(self, interrupt: Interrupt) -> None:
        """After a signal to any rank: save, say how to go on, leave, all after the same step."""
        number = self.world.largest(interrupt.received or 0)
        if not number:
            return
        signal = Signals(number)
        self.check_finite()
        if self.world.is_first:
            path = self.weights_folder / "last.pt"
            save_last(self, path)
            print(f"stopped by {signal.name}; go on with: boxwright train --resume '{path}'", file=sys.stderr)
        self.world.wait()  # a launcher ends all when one ends
        raise SystemExit(EXIT_CODES[signal])
