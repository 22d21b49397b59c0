"""What runs of any system show: a line that moves while they work, and a table with a row per epoch.

A terminal gets lines of its own width, and the moving line is written over itself. In a pipe or a file, lines are as
long as COLUMNS says (80), and a moving line is a new line every 20 seconds.
"""

import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from operator import length_hint
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from boxwright.engine.callbacks import Callback, EndReport, EpochReport, Progress, StartReport, StepReport
from boxwright.engine.meters import duration
from boxwright.engine.task import AnyBatch, Score
from boxwright.terminal import columns, counted, raw, say, shown

B = TypeVar("B")
_REDRAWN_AFTER = 0.5  # seconds
_REPEATED_AFTER = 20.0  # seconds between two lines in a pipe
_LEAST_BAR, _LARGEST_BAR = 8, 40  # characters
_HEAD_EVERY = 20  # rows between two heads of the table: one is on most screens
_MAIN_LOSSES = 3  # losses that come before metrics where not all fit


def fitting_line(
    head: str, done: int, total: int, facts: Sequence[str], width: int, bar: tuple[str, str] | None
) -> str:
    """Format how far something is, in no more than `width` characters.

    Args:
        head: what it is; always shown.
        done, total: steps; a total of 0 is not known.
        facts: what else is known. Where not all fit, the last one stays and those before it go, from the end.
        width: characters.
        bar: characters of the full and the empty part; None: no bar.
    """
    counter = f"{done}/{total}" if total else str(done)
    least = _LEAST_BAR + 1 if bar and total else 0
    *others, last = facts or ("",)
    while others and len(" ".join((head, counter, *others, last))) + least > width:
        others.pop()
    words = [word for word in (head, counter, *others, last) if word]
    if least and (room := width - len(" ".join(words)) - 1) >= _LEAST_BAR and bar:
        size = min(room, _LARGEST_BAR)
        full = size * min(done, total) // total
        words.insert(1, bar[0] * full + bar[1] * (size - full))
    return " ".join(words)[:width]


def _console(*, stderr: bool = False) -> Console:
    """Make a console that writes past `word_wrap` to a terminal: there it moves the cursor."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(soft_wrap=True, stderr=stderr, file=raw(stream) if stream.isatty() else None)


class MovingLine:
    """The line that says how far something is. As a context it goes away at its end."""

    def __init__(self, console: Console | None = None) -> None:
        # soft_wrap: what is printed meanwhile appears above the line as it is; else rich breaks it inside commands.
        self.console = console or _console()
        self._bar = ("#", ".") if self.console.options.ascii_only else ("━", "╌")
        self._live: Live | None = None
        self._shown = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether it is time to show where things stand, which may cost something to find out."""
        return time.perf_counter() - self._shown >= (_REDRAWN_AFTER if self.console.is_terminal else _REPEATED_AFTER)

    def show(self, head: str, done: int, total: int, facts: Sequence[str] = ()) -> None:
        """Write the line, see `fitting_line`."""
        self._shown = time.perf_counter()
        if not self.console.is_terminal:
            self.write(fitting_line(head, done, total, facts, columns(), None))
            return
        text = Text(fitting_line(head, done, total, facts, self.console.width - 1, self._bar), no_wrap=True)
        if self._live is None:
            # A stream that is no terminal keeps its own text.
            stdout, stderr = sys.stdout.isatty(), sys.stderr.isatty()
            self._live = Live(
                console=self.console,
                transient=True,
                auto_refresh=False,
                redirect_stdout=stdout,
                redirect_stderr=stderr,
            )
            self._live.start()
        self._live.update(text, refresh=True)

    def write(self, text: str) -> None:
        """Print a line above it."""
        self._shown = time.perf_counter()
        self.console.print(shown(text), markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Take the line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end()


def with_progress(batches: Iterable[B], what: str = "measuring") -> Generator[B]:
    """Yield batches and show on the standard error how many are done."""
    total, start = length_hint(batches), time.perf_counter()
    with MovingLine(_console(stderr=True)) as line:
        for done, batch in enumerate(batches):
            if line.is_due:
                left = (total - done) * (time.perf_counter() - start) / done if done and total else None
                line.show(what, done, total, [] if left is None else [f"left {duration(left)}"])
            yield batch


class _Cell(NamedTuple):
    """A cell of the table of epochs."""

    title: str
    text: str
    width: int  # with a space before it
    rank: int  # where not all fit, those with a low one are shown


class ConsoleLog(Callback):
    """Shows the running epoch with its losses and the time left, then a row of the table of epochs.

    `titles`: of metrics in the head of that table; others keep their names.
    """

    def __init__(self, titles: Mapping[str, str] | None = None, console: Console | None = None) -> None:
        self.titles = titles or {}
        self.line = MovingLine(console)
        self._start = self._mark = (0, 0.0)  # steps done and time: when the run went on, when the epoch did
        self._loss_names: Sequence[str] = ()
        self._losses: Tensor | None = None  # summed over the epoch, on the device
        self._newest: StepReport | None = None
        self._images_per_second = 0.0
        self._epoch = ""  # "epoch 3/100"
        self._val_done = self._val_total = 0  # batches; the total is known after the first validation
        self._num_rows = 0

    def on_train_start(self, report: StartReport) -> None:
        self._loss_names = [name.removesuffix("_loss") for name in report.loss_names]
        self._start = self._mark = (report.steps_done, time.perf_counter())

    def on_train_epoch_start(self, progress: Progress) -> None:
        self._losses, self._mark = None, (progress.steps_done, time.perf_counter())
        self._epoch = f"epoch {progress.epoch + 1}/{progress.epochs}"
        if self.line.console.is_terminal:
            self.line.show(self._epoch, progress.step, progress.steps, self._facts(progress, ()))

    def on_train_batch_end(self, progress: Progress, losses: Tensor) -> None:
        self._losses = losses.clone() if self._losses is None else self._losses + losses
        if self.line.is_due:  # reading the losses waits for the device
            mean = self._losses / (progress.steps_done - self._mark[0])
            self.line.show(self._epoch, progress.step, progress.steps, self._facts(progress, mean.tolist()))

    def on_step_report(self, report: StepReport) -> None:
        steps, seconds = report.steps_done - self._mark[0], time.perf_counter() - self._mark[1]
        self._images_per_second = steps * report.batch_size / max(seconds, 1e-9)
        self._newest = report

    def on_val_start(self, progress: Progress) -> None:
        self._val_done = 0

    def on_val_batch_end(self, batch: AnyBatch, detections: Sequence[Any]) -> None:
        self._val_done += 1
        if self.line.is_due:
            self.line.show(f"{self._epoch} validating", self._val_done, self._val_total)

    def on_val_end(self, score: Score) -> None:
        self._val_total = self._val_done

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        cells = self._cells(report)
        width = columns() if not self.line.console.is_terminal else self.line.console.width
        room = width - 1
        shown: set[str] = set()
        for cell in sorted(cells, key=lambda cell: cell.rank):  # is stable
            if cell.width <= room:
                room -= cell.width
                shown.add(cell.title)
        cells = [cell for cell in cells if cell.title in shown]
        if self._num_rows % _HEAD_EVERY == 0:
            self.line.write("".join(cell.title.rjust(cell.width) for cell in cells).rstrip())
        self._num_rows += 1
        self.line.write("".join(cell.text.rjust(cell.width) for cell in cells).rstrip())

    def on_train_end(self, report: EndReport) -> None:
        self.line.end()
        took = f"{counted(report.epochs_done, 'epoch')} done in {duration(time.perf_counter() - self._start[1])}"
        best = (
            f"; the best was epoch {report.best_epoch + 1}" if (report.folder / "weights" / "best.pt").exists() else ""
        )
        if (newest := self._newest) is not None:
            cost = newest.cost
            took += f", {cost.mean_seconds:.3g} s per step, {cost.wait_share:.0%} of it waiting for data"
        say(took + best)

    def teardown(self) -> None:
        self.line.end()

    def _facts(self, progress: Progress, losses: Sequence[float]) -> list[str]:
        """List losses, speed, and last the time left at the pace of the run so far."""
        facts = [f"{name} {_loss(value)}" for name, value in zip(self._loss_names, losses, strict=False)]
        done, seconds = progress.steps_done, time.perf_counter() - self._start[1]
        if self._newest is not None:
            facts += [f"{self._images_per_second:.1f} img/s", f"lr {self._newest.rates[-1]:.2g}"]
        if done == self._start[0]:
            return facts
        left = (progress.epochs * progress.steps - done) * seconds / (done - self._start[0])
        return [*facts, f"left {duration(left)}"]

    def _cells(self, report: EpochReport) -> list[_Cell]:
        """Make the row of an epoch."""
        row, of_epochs = report.history[-1], len(str(report.epochs))
        losses = [(name.removesuffix("_loss"), value) for name, value in _below(row, "train")]
        cells = [_Cell("epoch", f"{report.epoch + 1}/{report.epochs}", max(2 * of_epochs + 1, 5), 0)]
        for number, (name, value) in enumerate(losses):
            rank = 1 if number < _MAIN_LOSSES else 4
            cells.append(_Cell(name, _loss(value), max(len(name) + 1, 7), rank))
        measured = report.score.metrics if report.score is not None else {}
        for name in measured or self.titles or [name for name, _ in _below(row, "metrics")]:
            title = self.titles.get(name, name)
            text = f"{measured[name]:.3f}" if measured else ""  # empty: this epoch was not validated
            cells.append(_Cell(title, text, max(len(title) + 1, 7), 2))
        if (newest := self._newest) is not None:
            done, seconds = newest.steps_done, time.perf_counter() - self._start[1]
            left = (report.epochs - report.epoch - 1) * newest.steps * seconds / max(done - self._start[0], 1)
            cells += [
                _Cell("img/s", f"{self._images_per_second:.1f}", 7, 3),
                _Cell("lr", f"{newest.rates[-1]:.1e}", 8, 5),
                _Cell("GiB", f"{newest.cost.memory / 2**30:.1f}", 6, 5),
                _Cell("wait", f"{newest.cost.wait_share:.0%}", 6, 5),
                _Cell("left", duration(left), 9, 0),
            ]
        return [*cells, _Cell("", "best" if report.improved else "", 5, 0)]


def _below(row: Mapping[str, float], group: str) -> list[tuple[str, float]]:
    """List the columns of results.csv whose names begin with a group."""
    return [(name.partition("/")[2], value) for name, value in row.items() if name.startswith(f"{group}/")]


def _loss(value: float) -> str:
    """Format in at most six characters, where it is no giant."""
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
