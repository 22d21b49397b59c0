"""Lines for a terminal: broken between words, never inside a command; counts in correct English."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from boxwright.terminal import SayHandler, counted, raw, say, shown, word_wrap, wrapped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Generator[Terminal]:
    """Send both streams to one terminal."""
    stream = Terminal()
    with redirect_stdout(stream), redirect_stderr(stream):
        yield stream


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")


LONG = "the learning rate never gets where --optim.lr0 wants it"


def test_words_stay_whole() -> None:
    with terminal() as screen:
        say(LONG)
    lines = screen.getvalue().splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 30
    assert [word for line in lines for word in line.split()] == LONG.split()


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("go on with: boxwright train --resume 'runs/train/my run/weights/last.pt'", "boxwright train --resume '"),
        ("say `boxwright check data.yaml --plots here` for all", "`boxwright check data.yaml --plots here`"),
        ("Try next:\n  boxwright predict --weights best.pt --source photo.jpg", "boxwright predict --weights best.pt"),
        (
            "there is nothing at all below '/a folder/with a long name/and more'",
            "'/a folder/with a long name/and more'",
        ),
    ],
)
def test_a_command_or_path_stays_on_one_line(text: str, command: str) -> None:
    assert any(command in line for line in wrapped(text, 30).splitlines())


def test_a_line_that_fits_is_kept() -> None:
    assert wrapped("a   b\n\n  c", 30) == "a   b\n\n  c"


def test_lines_that_go_on_are_indented() -> None:
    assert wrapped("one two three\n  four five six", 9) == "one two\n  three\n  four\n    five\n    six"


def test_what_stands_before_a_colon_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    lines = "optimizer: SGD\nweights on disk: none\nphoto.jpg: 2\nfound 3: no"
    with terminal() as screen, word_wrap():
        print(lines)
        say("boxwright: no file")
    shown_lines = screen.getvalue().splitlines()
    assert shown_lines[0] == "\x1b[1;34moptimizer: \x1b[0mSGD"
    assert shown_lines[1:4] == lines.splitlines()[1:]
    assert shown_lines[4] == "\x1b[1;31mboxwright: \x1b[0mno file"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with terminal() as screen:
        say("optimizer: SGD")
    assert screen.getvalue() == "optimizer: SGD\n"


def test_a_pipe_gets_the_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with word_wrap():
        print(LONG)
        say(LONG)
    assert capsys.readouterr().out == f"{LONG}\n{LONG}\n"


def test_what_others_print_is_wrapped_too() -> None:
    with terminal() as screen:
        with word_wrap():
            print(LONG)
            print(LONG, file=sys.stderr)
        assert max(map(len, screen.getvalue().splitlines())) <= 30
        print(LONG)
    assert screen.getvalue().splitlines()[-1] == LONG


@pytest.mark.parametrize("text", [f"\x1b[1m{LONG}\x1b[0m", f"\r{LONG}"])
def test_what_moves_the_cursor_on_purpose_is_left_alone(text: str) -> None:
    with terminal() as screen, word_wrap():
        print(text, file=raw(sys.stdout))
        print("a", end="")
        print(LONG)
    assert screen.getvalue() == f"{text}\na{LONG}\n"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x00", r"a\x0db\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("txt.\u202egpj", r"txt.\u202egpj"),
        (os.fsdecode(b"l\xe9.jpg"), r"l\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("tab\tand é 車", "tab\tand é 車"),
    ],
)
def test_text_from_files_is_shown_without_control_characters(text: str, seen: str) -> None:
    assert shown(text) == seen
    for stream in (io.StringIO(), Terminal()):
        with redirect_stdout(stream), redirect_stderr(stream), word_wrap():
            print(text)
            say(text)
            say(text, to_stderr=True)
        assert stream.getvalue() == f"{seen}\n" * 3


def test_what_an_encoding_lacks_is_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with redirect_stdout(stream), word_wrap():
        print("車")
        say("車")
    stream.flush()
    assert stream.buffer.getvalue() == rb"\u8eca" + b"\n" + rb"\u8eca" + b"\n"  # type: ignore[attr-defined]


def test_a_value_of_any_length_is_cut() -> None:
    with terminal() as screen:
        say("x" * 10**6)
    assert len(screen.getvalue()) < 3000


def test_messages_go_to_what_is_the_standard_error_then() -> None:
    with terminal() as before:
        handler = SayHandler()
    with terminal() as screen:
        handler.emit(logging.LogRecord("boxwright", logging.INFO, "", 0, LONG, (), None))
    assert not before.getvalue()
    assert max(map(len, screen.getvalue().splitlines())) <= 30


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "box", "1 box"),
        (2, "box", "2 boxes"),
        (3, "class", "3 classes"),
        (2, "epoch", "2 epochs"),
        (2, "batch", "2 batches"),
        (2, "entry", "2 entries"),
        (2, "key", "2 keys"),
        (2, "label without image", "2 labels without image"),
        (1, "label without image", "1 label without image"),
    ],
)
def test_counts(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def interrupted(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in which Ctrl-C is `ctrl_c()`."""
    head = (
        "import os, signal, time\nfrom boxwright.terminal import CtrlC\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background has it ignored
        "def ctrl_c():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0)\n"
    )
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)


def test_the_second_interrupt_ends_the_process_at_once() -> None:
    done = interrupted(
        "with CtrlC():\n"
        "    try:\n        ctrl_c()\n"
        "    except KeyboardInterrupt:\n        print('first', flush=True)\n        ctrl_c()\n        print('second')\n"
    )
    assert done.stdout == "first\n"
    assert done.returncode == -2


def test_an_interrupt_waits_for_a_file_to_be_whole() -> None:
    done = interrupted(
        "try:\n"
        "    with CtrlC() as keys:\n        with keys.held():\n            ctrl_c()\n            print('whole')\n"
        "        print('not reached')\n"
        "except KeyboardInterrupt:\n    print('raised')\n"
        "try:\n    ctrl_c()\nexcept KeyboardInterrupt:\n    print('as before')\n"
    )
    assert done.stdout.split("\n") == ["whole", "raised", "as before", ""]
