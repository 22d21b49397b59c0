"""Sentences for a terminal: lines broken between words and never inside a command, and counts in correct English.

Here, too, text from files loses what would move a cursor or set a title: `shown` for what goes to a terminal by itself,
`word_wrap` for all that is printed.
"""

import logging
import os
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


# Control characters but tab and line feed, marks that turn the direction of writing, halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_LINE = 2000  # characters of a message; a value from a file may have millions


def shown(text: str) -> str:
    """Return text with escapes in place of control characters, and of bytes of file names that are no text."""
    return _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # a byte that the file system could not decode
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print sentences; a terminal gets lines that end between words, anything else one line as it is."""
    stream: TextIO = sys.stderr if to_stderr else sys.stdout
    lines = shown(text).split("\n")
    lines = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}... (cut)" for line in lines]
    text = _encodable("\n".join(lines), stream)
    if stream.isatty():  # past `word_wrap`, which would escape colours
        print(_for_terminal(text), file=raw(stream), flush=True)
    else:
        print(text, file=stream, flush=True)


# One or two words and a colon, as `optimizer: `; of an error `boxwright: `.
_PREFIX = re.compile(r"^(?:(boxwright)|[a-z][a-z-]+(?: [a-z][a-z-]+)?): ", re.MULTILINE)


def _for_terminal(text: str) -> str:
    """Break lines between words, and colour what stands before the colon of a line, unless NO_COLOR is set."""
    text = wrapped(text, columns())
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return _PREFIX.sub(lambda found: f"\x1b[1;{31 if found[1] else 34}m{found[0]}\x1b[0m", text)


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


def _encodable(text: str, stream: TextIO) -> str:
    """Escape what the encoding of a stream has no bytes for."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class SayHandler(logging.Handler):
    """Prints messages to what is the standard error at the time: a moving line puts there what goes above it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), to_stderr=True)


@contextmanager
def word_wrap() -> Generator[None]:
    """Escape what `shown` does in all that is printed, and break lines of a terminal between words, as `say` does."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Careful(stream)) for stream in (stdout, stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr


def raw(stream: TextIO) -> TextIO:
    """Return what is behind a stream of `word_wrap`, for what moves the cursor on purpose."""
    return stream.stream if isinstance(stream, _Careful) else stream


class _Careful:
    """A stream without control characters; a terminal's long lines are wrapped where they come in one piece."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._at_start = True  # of a line

    @property
    def rich_proxied_file(self) -> Any:
        """Return where rich writes: its colours and moving lines are no text from files."""
        return self.stream if self.stream.isatty() else self

    def write(self, text: str) -> int:
        safe = _encodable(shown(text), self.stream)
        self.stream.write(_for_terminal(safe) if self._at_start and self.stream.isatty() else safe)
        self._at_start = text.endswith("\n") if text else self._at_start
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


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
