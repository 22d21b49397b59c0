"""Sentences for a terminal: lines broken between words and never inside a command, and counts in correct English."""

import logging
import re
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# What no line is broken in: `code`, 'a path', a command that ends its line, a word.
_UNIT = re.compile(r"`[^`]+`\S*|'[^']+'\S*|(?:(?<=: )|^)boxwright [a-z].*|\S+")
_AFTER_CONSONANT = re.compile(r"[^aeiou]y$")


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print sentences; a terminal gets lines that end between words, anything else one line as it is."""
    stream: TextIO = sys.stderr if to_stderr else sys.stdout
    print(wrapped(text, columns()) if stream.isatty() else text, file=stream, flush=True)


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
