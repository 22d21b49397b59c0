"""The training loop: epochs, steps, optimizer, averaging, validation, saving. It knows a Task and no model.

The state of a run goes to and from one file, from which it resumes as if it had never stopped: `last.pt` holds all of
it, `best.pt` only averaged weights. best.pt is written before last.pt: a run killed between the two resumes from the
older last.pt and writes the same best.pt again.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from boxwright.checkpoints.native import halved, load_checkpoint, not_finite, save_checkpoint
from boxwright.engine.callbacks import (
    Callback,
    CallbackError,
    EndReport,
    EpochReport,
    Hooks,
    Progress,
    SaveReport,
    StartReport,
    StepReport,
)
from boxwright.engine.device import BatchMover, Policy
from boxwright.engine.distributed import World
from boxwright.engine.meters import WINDOW, StepClock
from boxwright.engine.optim import (
    EarlierTraining,
    ModelEma,
    apply_settings,
    clip_gradients,
    describe_groups,
    make_optimizer,
    take_over,
)
from boxwright.engine.schedule import Schedule
from boxwright.engine.stopping import EXIT_CODES, EarlyStopping, FiniteWatch, Interrupt
from boxwright.engine.task import AnyBatch, Score, Task, ValWatch
from boxwright.errors import DivergedError, UserError
from boxwright.reading import parsing
from boxwright.settings.base import TrainingConfig
from boxwright.settings.load import dump
from boxwright.terminal import counted, say

_errors = logging.getLogger("boxwright.user_errors")  # for log.log alone, see there
# A scale starts at 2**16, and each step that is left out halves it: it gets here when some 26 more were than were not.
_LEAST_SCALE = 2.0**-10


@dataclass(slots=True)
class RunState:
    """The state of a run that is not weights: where it stands and what it has measured."""

    epoch: int = 0  # the running epoch
    step: int = 0  # batches of it that are done
    last_update: int = -1  # global step of the newest optimizer step; -1 before the first
    loss_sum: Tensor | None = None  # of the loss items over the running epoch, on the device; None at its start
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])  # rows of results.csv
    class_maps: list[float] = field(default_factory=list[float])  # of the last validation; weigh images
    fitness: list[float] = field(default_factory=list[float])  # of all validations, in their order
    first_epoch: int = 0  # where the run began; more than 0: it goes on from the training of its weights


def load_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run can resume from.

    Raises:
        UserError: missing, damaged, or a file of weights only.
    """
    content = load_checkpoint(path)
    if "engine" not in content:
        raise UserError(f"{path} holds weights only; a run goes on from its last.pt (start a new one with --weights)")
    kinds = {"config": dict, "engine": dict, "model": dict, "state_dict": dict, "ema": dict, "epoch": int}
    if wrong := [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]:
        raise UserError(f"{path} is damaged: it lacks {' and '.join(wrong)} of a run, so nothing can go on from it")
    return content


_MEASURED = ("fitness", "metrics", "losses", "more", "class_maps")  # of a Score


class Trainer:
    """The loop of one run. All ranks take the same steps and decisions; the first one writes and prints.

    Args:
        task: what is trained, on its device.
        config: settings of the run.
        folder: run folder; weights go to its `weights`.
        policy: device and precision.
        hooks: callbacks and loggers; empty but in the first process.
        world: the processes that train together.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        config: TrainingConfig,
        folder: Path,
        policy: Policy,
        hooks: Hooks = Hooks(),  # noqa: B008  # empty, immutable
        world: World = World(),  # noqa: B008  # immutable
    ) -> None:
        self.task = task
        self.world = world
        self.config = config
        self.folder = folder
        self.policy = policy
        self.device = policy.device
        self.hooks = hooks
        self.schedule = Schedule(
            config.optim, config.epochs, task.steps_per_epoch, config.batch_size, task.schedule_rules
        )
        self.optimizer = make_optimizer(
            task.model,
            config.optim,
            self.schedule.weight_decay,
            decays_everything=self.schedule.decays_everything,
            nesterov=self.schedule.nesterov,
        )
        self.scaler = policy.make_scaler()
        self._data = task.describe_data()
        self.ema = ModelEma(task.model, config.optim.ema_decay, config.optim.ema_tau)
        self.stopping = EarlyStopping(config.patience)
        self.state = RunState()
        self._finite = FiniteWatch(self.device)
        self._bring = BatchMover(self.device)
        self._gradients: Callable[[Any, float], Tensor] = self._add_gradients
        if config.cuda_graph:
            from boxwright.engine.cuda_graph import CapturedStep  # few runs need it

            self._gradients = CapturedStep(self._add_gradients, self.device)
        self.clock = StepClock(self.device, world)
        self._recent_losses: deque[Tensor] = deque(maxlen=WINDOW)  # on the device until they are read
        self._stopped = ""  # why a callback ended the run
        self._between_steps = True  # what is saved now can be resumed
        self._recent: deque[tuple[int, tuple[Path, ...]]] = deque(maxlen=config.log_period + 1)

    @property
    def weights_folder(self) -> Path:
        return self.folder / "weights"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, the fitness has not improved for too long, or a callback has ended it."""
        epoch = self.state.epoch
        return bool(self._stopped) or epoch >= self.config.epochs or self.stopping.exhausted(epoch - 1)

    @property
    def progress(self) -> Progress:
        return Progress(self.state.epoch, self.config.epochs, self.state.step, self.task.steps_per_epoch)

    @property
    def start_report(self) -> StartReport:
        progress = self.progress
        done, names = progress.steps_done, self.task.loss_names
        first = self.state.first_epoch
        return StartReport(
            self.folder, self.config, self.task.model, self._history(), done, progress.steps, names, first
        )

    def fit(self) -> None:
        """Train from where the state stands to the last epoch, or until it stops improving.

        Raises:
            UserError: the loss is not finite, a checkpoint cannot be written, or a callback raised.
            SystemExit: 143, 130 or 129 after SIGTERM, SIGINT or SIGHUP; the state is saved then.
        """
        if self.world.is_first:
            self.weights_folder.mkdir(parents=True, exist_ok=True)
        with self.hooks, Interrupt(patient=self.world.size > 1) as interrupt:
            try:
                self.hooks.notify(Callback.on_train_start, self.start_report)
                while not self.finished:
                    self.train_epoch(interrupt)
                    self.finish_epoch(interrupt)
                    self._exit_on_signal(interrupt)
                best, fitness = self.stopping.best_epoch, self.stopping.best_fitness
                report = EndReport(self.folder, self.state.epoch, self._history(), best, fitness, self._stopped)
                self.hooks.notify(Callback.on_train_end, report)
            except CallbackError as error:
                if not isinstance(error.__cause__, UserError):
                    _errors.info("%s", error, exc_info=error.__cause__)
                raise UserError(f"{error}; {self._keep_state()}") from error.__cause__
            finally:
                self.task.close()

    def train_epoch(self, interrupt: Interrupt) -> None:
        """Train on each batch of an epoch, or on what was left of it."""
        state, task = self.state, self.task
        task.model.train()
        self.hooks.notify(Callback.on_train_epoch_start, self.progress)
        self.clock.begin()
        for batch in task.train_batches(state.epoch, state.step, state.class_maps):
            self.clock.got_batch()
            self.hooks.notify(Callback.on_train_batch_start, self.progress, batch)
            self._between_steps = False
            step = state.epoch * task.steps_per_epoch + state.step
            settings = self.schedule.at(step, state.fitness)
            apply_settings(self.optimizer, settings)
            items = self._gradients(self._bring(batch), settings.loss_scale)
            if self.schedule.updates(step, state.last_update):
                self.update_weights(step)
                state.last_update = step
            state.loss_sum = items.clone() if state.loss_sum is None else state.loss_sum + items
            self._recent.append((step, batch.paths))  # to name the images should this step turn out not to be finite
            self._recent_losses.append(items)
            self._finite.note_loss(items, step)
            state.step += 1
            self._between_steps = True
            self.clock.end_step()
            self.hooks.notify(Callback.on_train_batch_end, self.progress, items)
            if state.step % self.config.log_period == 0 or state.step == task.steps_per_epoch:
                self._report_step()
            self._exit_on_signal(interrupt)
            self.clock.begin()
        self.hooks.notify(Callback.on_train_epoch_end, self.progress)

    def _add_gradients(self, batch: AnyBatch, loss_scale: float) -> Tensor:
        """Run forward and backward pass of a batch on the device; return the items of its loss."""
        with self.policy.autocast():
            loss = self.task.loss(batch, self.state.epoch, self.state.step)
        self.scaler.scale(loss.total * loss_scale).backward()
        return loss.items

    def update_weights(self, step: int) -> None:
        """Update the weights by the gathered gradients, then their average."""
        self.scaler.unscale_(self.optimizer)  # before clipping: the limit is one of true gradients
        norm = clip_gradients(self.task.model, self.config.optim.clip_norm)
        if not self.scaler.is_enabled():  # the scaler leaves such a step out and tries a smaller scale
            self._finite.note_gradient(norm, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.hooks.notify(Callback.on_before_zero_grad, self.progress)
        self.optimizer.zero_grad(set_to_none=not self.config.cuda_graph)  # a graph adds to the same tensors again
        self.ema.update()
        self.hooks.notify(Callback.optimizer_step, self.progress)

    def finish_epoch(self, interrupt: Interrupt) -> None:
        """Validate, log and save. A signal during validation ends the run as after the last step of the epoch."""
        state, config = self.state, self.config
        last = state.epoch + 1 == config.epochs
        self._check_weights()
        score = None
        due = not config.noval and (state.epoch + 1) % config.val_period == 0
        if due or last or self.stopping.may_stop_next(state.epoch):
            score = self._evaluate(interrupt)
            state.class_maps = list(score.class_maps)
        state.history.append(self._row(score))
        if score is not None:
            state.fitness.append(score.fitness)
        # Weights whose validation gives no numbers are not the best ones, however low the bar.
        improved = (
            score is not None
            and all(math.isfinite(value) for value in (score.fitness, *score.losses))
            and self.stopping.update(state.epoch, score.fitness)
        )
        report = EpochReport(state.epoch, config.epochs, self._history(), score, improved)
        epoch = state.epoch
        state.epoch, state.step, state.loss_sum = epoch + 1, 0, None
        saved = self._save_weights(epoch, improved=improved)  # before last.pt, see above
        self.hooks.notify(Callback.on_fit_epoch_end, report)
        self._stopped = self.world.from_first(self.hooks.stop_reason)
        if self.world.is_first and (self.finished or not config.nosave):
            saved.append(self.weights_folder / "last.pt")
            self.save_last(saved[-1])
        if saved:
            self.hooks.notify(Callback.on_model_save, SaveReport(epoch, saved))
        if self._stopped:
            say(f"stopped after epoch {epoch + 1}: {self._stopped}")
        elif self.finished and not last:
            waited = counted(config.patience, "epoch")
            say(f"no better fitness for {waited}; the best was epoch {self.stopping.best_epoch + 1}")

    def _evaluate(self, interrupt: Interrupt) -> Score:
        """Validate the averaged weights."""
        self.hooks.notify(Callback.on_val_start, self.progress)
        self.world.copy_from_first(self.ema.module.state_dict().values())

        def before(batch: AnyBatch) -> None:
            self._exit_on_signal(interrupt)
            self.hooks.notify(Callback.on_val_batch_start, batch)

        watch: ValWatch[Any, Any] = ValWatch(before, self.hooks.after_val_batch)
        score = self.task.evaluate(self.ema.module, self.policy.autocast, watch)
        # The first rank has measured; `detail` is for its reports only.
        values = (score.fitness, score.metrics, score.losses, score.more, score.class_maps)
        score = replace(score, **dict(zip(_MEASURED, self.world.from_first(values), strict=True)))
        self.hooks.notify(Callback.on_val_end, score)
        return score

    def _save_weights(self, epoch: int, *, improved: bool) -> list[Path]:
        """Write best.pt and the periodic checkpoint where they are due; return what was written."""
        paths: list[Path] = []
        if not self.world.is_first:
            return paths
        if improved:
            paths.append(self.weights_folder / "best.pt")
            paths += [Path(self.config.best_weight)] if self.config.best_weight else []
        regular = self.config.save_period > 0 and (epoch + 1) % self.config.save_period == 0
        if (regular or epoch + 1 in self.config.save_epochs) and not self.config.save_best_only:
            paths.append(self.weights_folder / f"{self.config.save_name}{epoch + 1}.pt")
        for path in paths:  # averaged weights only, for use and for fine-tuning
            row = dict(self.state.history[-1])
            state = self.ema.module.state_dict()
            state = halved(state) if self.config.save_half else state
            save_checkpoint(path, self._description() | {"state_dict": state, "metrics": row})
        return paths

    def _description(self) -> dict[str, Any]:
        """Describe model and run, as every checkpoint does."""
        described = {"model": self.task.describe_model(), "data": self._data}
        return described | {"config": dump(self.config), "epoch": self.state.epoch}

    def save_last(self, path: Path) -> None:
        """Write the whole state of the run."""
        state, model = self.state, self.task.model
        # Plain values only: the closed reader of checkpoints knows no class of this package.
        run = {one.name: getattr(state, one.name) for one in fields(state)}
        run["loss_sum"] = None if state.loss_sum is None else state.loss_sum.detach().cpu()
        content = self._description() | {
            "state_dict": model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "engine": {
                "run": run,
                "ema_updates": self.ema.updates,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best_fitness": self.stopping.best_fitness,
                "best_epoch": self.stopping.best_epoch,
                "criterion": self.task.criterion.state_dict(),
                # What was gathered since the last optimizer step; nothing right after one.
                "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            },
        }
        save_checkpoint(path, content, keep_before=True)

    def describe_optimizer(self) -> str:
        """Return the lines that the published training begins with: weight decay, optimizer and its groups."""
        decay, set_decay = self.schedule.weight_decay, self.config.optim.weight_decay
        nominal = self.config.optim.nominal_batch_size
        scaled = f"Scaled weight_decay = {decay:.4g} ({set_decay:g} is that of batches of {nominal})\n"
        return ("" if self.schedule.decays_everything else scaled) + f"optimizer: {describe_groups(self.optimizer)}"

    def carry_on(self, earlier: EarlierTraining) -> None:
        """Go on from the training that the weights are of: optimizer, average, best fitness, epochs."""
        self.state.epoch = self.state.first_epoch = earlier.epochs
        # Patience counts from here: the epoch of the best fitness is of another run.
        self.stopping = EarlyStopping(self.config.patience, earlier.best_fitness, earlier.epochs - 1)
        self.ema.module.load_state_dict(earlier.average, strict=False)
        self.ema.updates = earlier.updates
        taken = take_over(self.optimizer, self.task.model, earlier.moments)
        trained = sum(len(group["params"]) for group in self.optimizer.param_groups)
        print(
            f"taken over: the optimizer's state of {taken} of {counted(trained, 'parameter')}, the average after "
            f"{counted(earlier.updates, 'update')}, the best fitness {earlier.best_fitness:.4g}; "
            "best.pt is written when an epoch reaches it"
        )

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the state that `save_last` wrote."""
        with parsing(self.folder / "weights" / "last.pt", "checkpoint of this run"):
            self._restore(content)

    def _restore(self, content: dict[str, Any]) -> None:
        engine, model = content["engine"], self.task.model
        model.load_state_dict(content["state_dict"])
        self.ema.module.load_state_dict(content["ema"])
        self.ema.updates = engine["ema_updates"]
        self.optimizer.load_state_dict(engine["optimizer"])
        self.scaler.load_state_dict(engine["scaler"])
        self.task.criterion.load_state_dict(engine["criterion"])
        self.stopping.best_fitness, self.stopping.best_epoch = engine["best_fitness"], engine["best_epoch"]
        self.state = RunState(**engine["run"])
        if self.state.history and self.state.history[0]["epoch"] == 0:  # rows of earlier versions count from 0
            self.state.history = [row | {"epoch": row["epoch"] + 1} for row in self.state.history]
        if self.state.loss_sum is not None:
            self.state.loss_sum = self.state.loss_sum.to(self.device)
        parameters = dict(model.named_parameters())
        for name, gradient in engine["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name])

    def _history(self) -> list[dict[str, float]]:
        """Copy the rows for callbacks, which may do with them what they like."""
        return [dict(row) for row in self.state.history]

    def _row(self, score: Score | None) -> dict[str, float]:
        """Make a row of results.csv, with the published columns; without those of a validation where there was none."""
        task, state = self.task, self.state
        assert state.loss_sum is not None
        losses = (state.loss_sum / task.steps_per_epoch).tolist()
        row = {"epoch": float(state.epoch + 1)}  # from 1, as everywhere that people look
        row |= {f"train/{name}": value for name, value in zip(task.loss_names, losses, strict=True)}
        metrics = {**score.metrics, **score.more} if score else {}
        row |= {name if "/" in name else f"metrics/{name}": value for name, value in metrics.items()}
        if score is not None:
            row |= {f"val/{name}": value for name, value in zip(task.loss_names, score.losses, strict=True)}
        row |= {f"x/lr{i}": float(group["lr"]) for i, group in enumerate(self.optimizer.param_groups)}
        return row

    def _report_step(self) -> None:
        """Report the newest steps; waits for the device."""
        self.check_finite()
        state = self.state
        assert state.loss_sum is not None
        medians = torch.stack(tuple(self._recent_losses)).float().quantile(0.5, dim=0)
        report = StepReport(
            **asdict(self.progress),
            losses=dict(zip(self.task.loss_names, (state.loss_sum / state.step).tolist(), strict=True)),
            rates=[float(group["lr"]) for group in self.optimizer.param_groups],
            batch_size=self.config.batch_size,
            recent=dict(zip(self.task.loss_names, medians.tolist(), strict=True)),
            cost=self.clock.read(),
        )
        self.hooks.notify(Callback.on_step_report, report)

    def _keep_state(self) -> str:
        """Save the state after an error of a callback, if it is one between two steps; say how to resume."""
        path = self.weights_folder / "last.pt"
        if self._between_steps and self._finite.first() is None and not self._wrong_weights():
            try:
                self.save_last(path)
            except UserError as error:  # as on a full disk, which may be what the callback has found
                return str(error)
        elif not path.exists():
            return "there is no checkpoint yet"
        return f"go on with: boxwright train --resume '{path}'"

    def check_finite(self) -> None:
        """Stop if the loss or gradient of a recent step was not finite; the last good checkpoint stays as it is.

        Raises:
            DivergedError: names the value, the step and its images.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE:
            # In fp16, steps whose gradients are not finite are left out, and each of them halves the scale.
            text = (
                "the gradients are not finite step after step, so the loss scale of fp16 has fallen to "
                f"{self.scaler.get_scale():.2g}. "
                "Try --precision bf16 or fp32, a lower --optim.lr0 or --optim.weight_decay"
            )
            _errors.info("%s", text)
            raise DivergedError(text)
        bad = self._finite.first()
        if bad is None:
            return
        paths = next((paths for step, paths in self._recent if step == bad.step), ())
        epoch, step = divmod(bad.step, self.task.steps_per_epoch)
        images = ", ".join(str(path) for of_rank in self.world.all(tuple(paths)) for path in of_rank)
        kept = self.weights_folder / "last.pt"
        keep = f"{kept} of before is kept. " if kept.exists() else ""
        text = (
            f"the {bad.what} is {bad.value:g}, at epoch {epoch + 1}, step {step + 1}, where the rate was "
            f"{self.schedule.at(bad.step, self.state.fitness).lr_other:.3g}. {keep}{bad.advice()}: {images}"
        )
        _errors.info("%s", text)
        raise DivergedError(text)

    def _wrong_weights(self) -> list[str]:
        """Return names of weights, or of their averages, that are not finite; waits for the device."""
        return not_finite(self.task.model.state_dict()) or not_finite(self.ema.module.state_dict())

    def _check_weights(self) -> None:
        """Stop before weights that are not finite are validated, and saved over good ones.

        A finite loss and gradient do not exclude them: the last update of an epoch may have been the one too large.

        Raises:
            DivergedError: names an entry.
        """
        wrong = self.world.from_first(self._wrong_weights() if self.world.is_first else [])
        if not wrong:
            return
        kept = self.weights_folder / "last.pt"
        keep = f"{kept} of before is kept. " if kept.exists() else ""
        text = (
            f"the weights are not finite at epoch {self.state.epoch + 1}, step {self.state.step}: "
            f"{counted(len(wrong), 'entry')}, such as {wrong[0]}. {keep}"
            "Try a lower --optim.lr0 or --optim.weight_decay, or --precision fp32"
        )
        _errors.info("%s", text)
        raise DivergedError(text)

    def _exit_on_signal(self, interrupt: Interrupt) -> None:
        """Save and exit after a signal to any rank, all ranks after the same step."""
        number = self.world.largest(interrupt.received or 0)
        if not number:
            return
        signal = Signals(number)
        self.check_finite()
        self._check_weights()
        if self.world.is_first:
            path = self.weights_folder / "last.pt"
            self.save_last(path)
            say(f"stopped by {signal.name}; go on with: boxwright train --resume '{path}'", to_stderr=True)
        self.world.wait()  # a launcher ends all when one ends
        raise SystemExit(EXIT_CODES[signal])
