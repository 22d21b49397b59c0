"""What a run shows on a terminal and in a pipe, at any width."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from boxwright.engine import console as module
from boxwright.engine.callbacks import EpochReport, Progress, StartReport, StepReport
from boxwright.engine.console import ConsoleLog, MovingLine, fitting_line, with_progress
from boxwright.engine.meters import StepCost, duration
from boxwright.engine.task import Score
from boxwright.terminal import say, word_wrap
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import TITLES
from tests.unit.engine.line_task import make_trainer

YOLO = ("box_loss", "obj_loss", "cls_loss"), ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
FUSION = (
    ("tot", "hm", "reg", "wh", "dep", "dim", "rot", "amodel_offset", "nuscenes_att", "velocity", "dep_sec", "rot_sec"),
    ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"),
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
MOVING = "epoch 100/300 "
COST = StepCost(1.5, 1.6, 0.1, 0.1, 3 << 30)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def shown(console: Console) -> list[str]:
    """Lines of a console, also those that were written over, without control codes."""
    assert isinstance(console.file, io.StringIO)
    return [line for line in re.split(r"[\r\n]+", ESCAPES.sub("", console.file.getvalue())) if line.strip()]


def run_of_a_minute(
    names: tuple[Sequence[str], Sequence[str]], width: int, clock: Clock, *, terminal: bool, seconds: float = 1.5
) -> list[str]:
    """What 40 of 7392 steps show, each frame once, then head and row of the table."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, soft_wrap=True)
    losses, metrics = names
    log = ConsoleLog(TITLES if names is YOLO else None, console)
    log.on_train_start(StartReport(Path(), RunConfig(), torch.nn.Identity(), [], 0, 7392, losses))
    log.on_train_epoch_start(Progress(99, 300, 0, 7392))
    for step in range(1, 41):
        clock.now += seconds
        log.on_train_batch_end(Progress(99, 300, step, 7392), torch.full((len(losses),), 0.0123))
        if step % 20 == 0:
            values = dict.fromkeys(losses, 0.0123)
            log.on_step_report(StepReport(99, 300, step, 7392, values, [0.01], 16, values, COST))
    row = {"epoch": 99.0, **{f"train/{name}": 0.0001 for name in losses}, **{f"metrics/{m}": 0.5 for m in metrics}}
    score = Score(0.5, dict.fromkeys(metrics, 0.5), [0.0], None)
    log.on_fit_epoch_end(EpochReport(99, 300, [row], score, improved=True))
    log.teardown()
    lines = list(dict.fromkeys(shown(console)))  # a row makes the line below it appear anew
    moving = [line for line in lines if line.startswith(MOVING)]
    return moving + [line for line in lines if line not in moving]


@pytest.mark.parametrize("names", [YOLO, FUSION], ids=["yolo", "fusion"])
@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_no_line_is_wider_than_the_terminal(
    names: Any, width: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run_of_a_minute(names, width, clock, terminal=True)
    assert max(map(len, lines)) <= width
    moving = [line for line in lines if line.startswith(MOVING)]
    assert len(moving) == 41  # a step takes longer than what a line may stand still
    assert "40/7392" in moving[-1]
    assert "━" in moving[-1] or "╌" in moving[-1] or width < 80
    assert re.search(r" left \d+", moving[-1])
    head, row = lines[-2:]
    assert head.split()[0] == "epoch"
    assert row.split()[0] == "100/300"
    assert row.endswith("best")
    # Each cell stands below its title, the right end of one below that of the other.
    ends = [match.end() for match in re.finditer(r"\S+", row.removesuffix("best"))]
    assert len(ends) >= len(head.split())
    assert all(match.end() in ends for match in re.finditer(r"\S+", head))


def test_at_80_columns_there_are_losses_metrics_and_the_time_left(clock: Clock) -> None:
    lines = run_of_a_minute(YOLO, 80, clock, terminal=True)
    assert lines[-2].split() == "epoch box obj cls P R mAP50 mAP50-95 img/s left".split()
    assert all(f"{name} 0.0123" in lines[-3] for name in ("box", "obj", "cls"))
    fusion = run_of_a_minute(FUSION, 80, clock, terminal=True)
    assert fusion[-2].split()[:4] == "epoch tot hm reg".split()
    assert {"mAP", "NDS", "left"} < set(fusion[-2].split())


def test_a_wide_terminal_shows_more(clock: Clock) -> None:
    lines = run_of_a_minute(YOLO, 140, clock, terminal=True)
    assert {"img/s", "lr", "GiB", "wait"} < set(lines[-2].split())
    assert "img/s" in lines[-3]


def test_steps_of_no_time_do_not_read_the_losses_each(clock: Clock) -> None:
    lines = run_of_a_minute(YOLO, 80, clock, terminal=True, seconds=0.125)
    assert len([line for line in lines if line.startswith(MOVING)]) == 1 + 40 // 4


def test_a_pipe_gets_a_line_every_half_minute_at_least(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run_of_a_minute(YOLO, 80, clock, terminal=False, seconds=4)
    steps = [int(match[1]) for line in lines if (match := re.match(r"epoch 100/300 (\d+)/7392 box 0.0123 ", line))]
    assert steps == list(range(5, 41, 5))  # 20 s
    assert max(map(len, lines)) <= 80
    assert not any("━" in line for line in lines)


def test_a_row_of_an_epoch_without_validation_has_empty_cells(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=80)
    log = ConsoleLog(TITLES, console)
    row = {"train/box_loss": 1234.5, "metrics/precision": 0.0}
    log.on_fit_epoch_end(EpochReport(0, 3, [row], None, improved=False))
    assert [line.split() for line in shown(console)] == [["epoch", "box", *TITLES.values()], ["1/3", "1234"]]


def test_the_head_comes_again(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=80)
    log = ConsoleLog(TITLES, console)
    for epoch in range(41):
        log.on_fit_epoch_end(EpochReport(epoch, 41, [{"train/box_loss": 1.0}], None, improved=False))
    assert [number for number, line in enumerate(shown(console)) if line.split()[0] == "epoch"] == [0, 21, 42]


def test_a_run_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), width=80)
    make_trainer(tmp_path, callbacks=[ConsoleLog(console=console)]).fit()
    lines = shown(console)
    assert lines[0].split() == ["epoch", "loss", "error", "img/s", "lr", "GiB", "wait", "left"]
    assert [line.split()[0] for line in lines[1:]] == ["1/3", "2/3", "3/3"]
    assert all(line.split()[2] == "0.500" and line.endswith("best") for line in lines[1:])
    said = capsys.readouterr().out
    assert re.fullmatch(r"3 epochs done in 0:00:0\d, \S+ s per step, \d+% of it .*; the best was epoch 3\n", said)


def test_validation_is_shown(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    log = ConsoleLog(console=console)
    log.on_train_epoch_start(Progress(0, 2, 0, 5))
    for _ in range(2):
        log.on_val_start(Progress(0, 2, 5, 5))
        for _ in range(3):
            clock.now += 1
            log.on_val_batch_end([], [])  # type: ignore[arg-type]
        log.on_val_end(Score(0.5, {}, [], None))
    log.teardown()
    lines = [line for line in shown(console) if "validating" in line]
    assert lines[2] == "epoch 1/2 validating 3"
    assert lines[-1] == f"epoch 1/2 validating {'━' * 40} 3/3"


def test_progress_of_batches(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def slow(batches: range) -> None:
        for _ in with_progress(batches):
            clock.now += 15

    slow(range(8))
    assert capsys.readouterr().err.splitlines() == [
        "measuring 2/8 left 0:01:30",
        "measuring 4/8 left 0:01:00",
        "measuring 6/8 left 0:00:30",
    ]


def test_what_is_printed_meanwhile_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    command = "boxwright train --resume 'runs/train/a very long name of a run/and/a/folder/weights/last.pt' " * 2
    with MovingLine(Console(width=80, force_terminal=True, soft_wrap=True)) as line:
        line.show("epoch 1/3", 1, 2)
        print(command)
    assert command in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (754, "0:12:34"), (86399, "23:59:59"), (3 * 86400 + 4 * 3600, "3d 04h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("bar", [None, ("#", ".")])
def test_facts_go_before_the_last_one(bar: tuple[str, str] | None) -> None:
    make: Callable[[int], str] = lambda width: fitting_line("head", 3, 4, ["a 1", "b 2", "left 9"], width, bar)  # noqa: E731
    assert make(60).endswith("3/4 a 1 b 2 left 9")
    narrow = make(24 if bar else 20)
    assert "left 9" in narrow
    assert "b 2" not in narrow
    assert len(make(10)) == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_moves_under_word_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its escapes reach the terminal as they are, before and while other things are printed."""
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stdout(Terminal()) as screen, word_wrap(), MovingLine() as line:
        line.show("epoch 1/2", 1, 2)
        print("optimizer: SGD")
        say("frozen: a.txt\x1b[2J")
        line.show("epoch 1/2", 2, 2)
    assert screen.getvalue().count("\x1b[2K") >= 2
    assert "\\x1b[2K" not in screen.getvalue()
    assert "a.txt\\x1b[2J" in screen.getvalue()
