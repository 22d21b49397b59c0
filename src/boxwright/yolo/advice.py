"""What to do when training goes wrong: a line of advice, once a run, with the numbers that gave rise to it.

Source: the troubles that the early YOLOv5 generation is known for (docs/spec/yolov5.md, B13): a loss that stays high,
recall that stays low, labels and anchors that do not fit. The limits are this project's own. Losses and gradients that
are not finite end the run, see engine/stopping.py.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from boxwright.data.index import Problem
from boxwright.engine.callbacks import Callback, EpochReport, StartReport
from boxwright.engine.schedule import Schedule
from boxwright.terminal import counted
from boxwright.yolo.published import schedule_rules
from boxwright.yolo.settings import RunConfig

_log = logging.getLogger("boxwright.advice")

_WINDOW = 5  # epochs that a mean is taken over
_MUST_FALL = 0.05  # share by which the training loss falls in any run that learns
_GOOD_RECALL = 0.3  # above it the loss may have been low from the start, as in fine-tuning
_LEAST_RECALL = 0.05
_EARLY = 0.1  # share of the run in which recall may be near zero
_EXPLODED = 10.0  # times the lowest training loss
_RISE = 1.1  # of the validation loss
_LEAST_ANCHOR_RECALL = 0.98  # the published limit of the anchor check
_OUT_OF_RANGE = ("unknown class", "out of range", "degenerate box")


def labels_out_of_range(problems: Sequence[Problem], num_boxes: int, data: str) -> str | None:
    """Warn of labels that training leaves out because a class or a coordinate is not in its range."""
    found = [problem for problem in problems if problem.drops and problem.kind in _OUT_OF_RANGE]
    if not found:
        return None
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(problem.kind for problem in found).most_common())
    return (
        f"{len(found)} labels are not in range and are not trained on ({kinds}), {num_boxes} boxes are left; the first "
        f"is {found[0]}. `boxwright check {data}` lists all of them"
    )


def unknown_classes(problems: Sequence[Problem], num_classes: int) -> str:
    """Count the labels whose class is none of the names, and name the first; empty: there is none."""
    found = [problem for problem in problems if problem.kind == "unknown class"]
    if not found:
        return ""
    count = sum(problem.count for problem in found)
    names = counted(num_classes, "name")
    return f"{counted(count, 'label')} of a class that is none of the {names}; the first is {found[0]}"


def anchors_do_not_fit(recall: float | None, *, searched: bool) -> str | None:
    """Warn of anchors that too few labels can be matched with; `recall`: best possible one, None if not asked for."""
    if recall is None or recall > _LEAST_ANCHOR_RECALL:
        return None
    remedy = (
        "a search found none that fit better: try a larger --imgsz if the boxes are small, or a larger --loss.anchor_t"
        if searched
        else "leave out --noautoanchor, or find anchors with `boxwright anchors`"
    )
    return (
        f"the anchors do not fit the labels: best possible recall is {recall:.4f}, below {_LEAST_ANCHOR_RECALL}, so "
        f"{1 - recall:.1%} of the boxes are never trained on; {remedy}"
    )


def loss_stays_high(losses: Sequence[float], warm_epochs: int, recall: float | None, lr0: float) -> str | None:
    """Warn of a training loss that does not fall.

    Args:
        losses: sum of the training losses of each epoch so far.
        warm_epochs: epochs with steps of warm-up.
        recall: the newest, if there is one.
        lr0: set rate.
    """
    if len(losses) < max(warm_epochs, 1) + _WINDOW or (recall is not None and recall >= _GOOD_RECALL):
        return None
    now = fmean(losses[-_WINDOW:])
    if now <= losses[0] * (1 - _MUST_FALL):
        return None
    measured = "" if recall is None else f", and recall is {recall:.3f}"
    return (
        f"the training loss stays high: {now:.4g} on average over epochs {len(losses) - _WINDOW + 1} to {len(losses)}, "
        f"{losses[0]:.4g} in epoch 1{measured}. The usual causes: a learning rate that is too large (--optim.lr0 is "
        f"{lr0:g}) or far too small, or boxes that do not lie on the objects (look at train_batch0.jpg)"
    )


def loss_explodes(losses: Sequence[float], lr0: float) -> str | None:
    """Warn of a training loss that is many times what it was."""
    lowest = min(losses)
    if losses[-1] <= lowest * _EXPLODED:
        return None
    return (
        f"the training loss has grown from {lowest:.4g} to {losses[-1]:.4g} in epoch {len(losses)}: the run has "
        f"diverged; try a lower --optim.lr0 (it is {lr0:g})"
    )


def validation_not_finite(loss: float, epochs_done: int) -> str | None:
    """Warn of a validation whose loss is no number: the averaged weights are useless."""
    if math.isfinite(loss):
        return None
    return (
        f"the validation loss is {loss:g} after epoch {epochs_done}, so these weights do not count as the best: the "
        "run has diverged; try a lower --optim.lr0 or --precision fp32"
    )


def recall_near_zero(recall: float | None, epochs_done: int, epochs: int, warm_epochs: int) -> str | None:
    """Warn of a recall that is still near zero after the warm-up; None: this epoch was not validated."""
    if recall is None or recall >= _LEAST_RECALL or epochs_done < max(_WINDOW, epochs * _EARLY, warm_epochs + 1):
        return None
    return (
        f"recall is {recall:.4f} after {epochs_done} of {epochs} epochs, below {_LEAST_RECALL}: hardly any object is "
        "found. Look at train_batch0.jpg whether boxes and classes are right, start from --weights, or try another "
        "--optim.lr0"
    )


def learns_by_heart(epochs: Sequence[tuple[int, float, float]], warm_epochs: int) -> str | None:
    """Warn of a validation loss that has risen by a tenth from its lowest while the training loss went on falling.

    Args:
        epochs: of each that was validated its number from 0, and the sums of its training and validation losses.
        warm_epochs: epochs with steps of warm-up.
    """
    # Means of five epochs: single validations of a small split go up and down by more than a tenth.
    after = [row for row in epochs if row[0] >= warm_epochs]
    if len(after) < 2 * _WINDOW:
        return None
    windows = [tuple(zip(*after[i : i + _WINDOW], strict=True)) for i in range(len(after) - _WINDOW + 1)]
    now, best = windows[-1], min(windows, key=lambda window: fmean(window[2]))
    train_now, val_now, train_best, val_best = map(fmean, (*now[1:], *best[1:]))
    if val_now <= val_best * _RISE or train_now > train_best * (1 - _MUST_FALL):
        return None
    return (
        f"the validation loss has risen from {val_best:.4g} (epochs {best[0][0] + 1} to {best[0][-1] + 1}) to "
        f"{val_now:.4g} while the training loss fell from {train_best:.4g} to {train_now:.4g}: images are learned by "
        "heart. More images, more augmentation (--hyp scratch-high) or fewer epochs help; best.pt is of the best epoch"
    )


class Advice(Callback):
    """Looks at each epoch. A resumed run says nothing that it has said before."""

    def __init__(self, at_start: Sequence[str | None] = ()) -> None:
        self.at_start = at_start  # lines for the beginning of a run; None where there is nothing to say
        self._said: set[str] = set()
        self._config = RunConfig()
        self._warm_epochs = 0

    def on_train_start(self, report: StartReport) -> None:
        assert isinstance(report.config, RunConfig)  # YOLO runs alone have this callback
        config = self._config = report.config
        schedule = Schedule(
            config.optim, config.epochs, report.steps, config.batch_size, schedule_rules(config.optim.release)
        )
        self._warm_epochs = math.ceil(schedule.warmup_steps / report.steps)
        # What was said before the stop is not stored: the rows give rise to it again.
        for done in range(1, len(report.history) + 1):
            self._said |= self._found(report.history[:done]).keys()
        for line in filter(None, () if report.resumed else self.at_start):
            _log.warning("%s", line)

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        found = self._found(report.history)
        for name in (name for name in found if name not in self._said):
            _log.warning("%s", found[name])
        self._said |= found.keys()

    def _found(self, history: Sequence[Mapping[str, float]]) -> dict[str, str]:
        """Collect the advice, by name, that the rows of results.csv give rise to."""
        warm, config, done = self._warm_epochs, self._config, len(history)
        train, val = (  # sums of the losses; 0 of validation where there was none
            [sum(value for name, value in row.items() if name.startswith(prefix)) for row in history]
            for prefix in ("train/", "val/")
        )
        losses = [
            (int(row["epoch"]) - 1, of_train, of_val)
            for row, of_train, of_val in zip(history, train, val, strict=True)
            if of_val
        ]
        newest = next(
            (row.get("metrics/recall") for row, loss in zip(history[::-1], val[::-1], strict=True) if loss), None
        )
        found = {
            "loss": loss_stays_high(train, warm, newest, config.optim.lr0),
            "recall": recall_near_zero(newest if val[-1] else None, done, config.epochs, warm),
            "overfitting": learns_by_heart(losses, warm),
            "divergence": loss_explodes(train, config.optim.lr0),
            "validation": validation_not_finite(val[-1], done),
        }
        return {name: line for name, line in found.items() if line}
