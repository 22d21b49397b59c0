"""Sentences for a terminal: lines broken between words and never inside a command, and counts in correct English."""

import logging
import re
import shutil
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self, TextIO, cast

# What no line is broken in: `code`, 'a path', a command that ends its line, a word.
_UNIT = re.compile(r"`[^`]+`\S*|'[^']+'\S*|(?:(?<=: )|^)boxwright [a-z].*|\S+")
_AFTER_CONSONANT = re.compile(r"[^aeiou]y$")


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print sentences; a terminal gets lines that end between words, anything else one line as it is."""
    stream: TextIO = sys.stderr if to_stderr else sys.stdout
    print(wrapped(text, columns()) if stream.isatty() else text, file=stream, flush=True)


class CtrlC:
    """A context in which the second Ctrl-C ends the process at once; the first one raises KeyboardInterrupt as ever.

    Outside the main thread, where Python cannot handle signals, it changes nothing.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._is_held = self._came = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if callable(self._before):  # else Ctrl-C is ignored, or ends the process as it is
                signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        if callable(self._before):
            signal.signal(signal.SIGINT, self._before)

    def _first(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._came = True
        if not self._is_held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Generator[None]:
        """Finish a block, such as one that writes, before KeyboardInterrupt is raised."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            raise KeyboardInterrupt


class SayHandler(logging.Handler):
    """Prints messages to what is the standard error at the time: a moving line puts there what goes above it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), to_stderr=True)


@contextmanager
def word_wrap() -> Generator[None]:
    """Break lines that anything prints to a terminal between words, as `say` does."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Wrapping(s)) if s.isatty() else s for s in (stdout, stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr


class _Wrapping:
    """A terminal whose long lines are wrapped where they come in one piece, as `print` writes them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._at_start = True  # of a line

    def write(self, text: str) -> int:
        # What moves the cursor has been laid out already.
        is_laid_out = not self._at_start or "\x1b" in text or "\r" in text
        self._stream.write(text if is_laid_out else wrapped(text, columns()))
        self._at_start = text.endswith("\n") if text else self._at_start
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def columns() -> int:
    """Return the width of the terminal, or as COLUMNS says; 80 where there is none."""
    return shutil.get_terminal_size().columns


def wrapped(text: str, width: int, further: str = "  ") -> str:
    """Break long lines between words; a command that is longer than a line is left to the terminal, to be copied.

    `further`: indents lines after the first, besides the indent that the line has.
    """
    rows: list[str] = []
    for line in text.split("\n"):
        body = line.lstrip()
        indent = line[: len(line) - len(body)]
        if len(line) <= width or not body:
            rows.append(line)
            continue
        first, *units = (match[0] for match in _UNIT.finditer(body))
        row = indent + first
        for unit in units:
            if len(row) + 1 + len(unit) <= width:
                row += f" {unit}"
            else:
                rows.append(row)
                row = f"{indent}{further}{unit}"
        rows.append(row)
    return "\n".join(rows)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 box, 2 boxes, 0 images, 3 labels without image."""
    head, *rest = noun.partition(" without ")
    if number != 1:
        if _AFTER_CONSONANT.search(head):
            head = f"{head[:-1]}ies"
        else:
            head += "es" if head.endswith(("s", "x", "tch", "sh")) else "s"
    return f"{number} {head}{''.join(rest)}"
