"""The members of one big object inside a JSON file, one after another: memory holds one member, not the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from boxwright.errors import UserError

_CHUNK = 1 << 22  # characters read at once
_TAIL = 1 << 16  # a mistake nearer to the end of what is read may be the end itself
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def stream_members(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object that the file's own object has under `name`; other entries are skipped.

    Raises:
        UserError: the file cannot be read, is not JSON, is cut off, or has no such object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _Reader(file).members_of(name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} cannot be read: {error}; it should be one JSON object with "{name}"') from error


class _Reader:
    """A window on the text that moves forward."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.place = 0

    def members_of(self, name: str) -> Iterator[tuple[str, Any]]:
        found = False
        for key in self._keys():
            if key != name:
                self._value()
                continue
            found = True
            for member in self._keys():
                yield member, self._value()
        if not found:
            raise ValueError(f'it has no "{name}"')
        if self._next(optional=True):
            raise ValueError("text follows its end")

    def _keys(self) -> Iterator[str]:
        """Go through an object: after each key its value is to be read."""
        self._expect("{")
        if self._next() == "}":
            self.place += 1
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is no key")
            self._expect(":")
            yield key
            if self._next() == "}":
                self.place += 1
                return
            self._expect(",")

    def _expect(self, wanted: str) -> None:
        found = self._next()
        if found != wanted:
            raise ValueError(f"{found!r} stands where {wanted!r} should")
        self.place += 1

    def _next(self, *, optional: bool = False) -> str:
        """The next character that is not space; empty at the end of the file, where that may be."""
        while True:
            while self.place < len(self.text):
                if self.text[self.place] not in _SPACE:
                    return self.text[self.place]
                self.place += 1
            if not self._more():
                if optional:
                    return ""
                raise ValueError("it is cut off")

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if error.pos < len(self.text) - _TAIL:
                    raise ValueError(error.msg) from error
                if not self._more():
                    raise ValueError("it is cut off or ends with a mistake") from error
                continue
            if end < len(self.text) or not self._more():  # a number may go on behind what is read
                self.place = end
                return value

    def _more(self) -> bool:
        """Read on; at least as much as is waiting, so that one long value is not scanned again and again."""
        waiting = len(self.text) - self.place
        chunk = self.file.read(max(_CHUNK, waiting))
        self.text, self.place = self.text[self.place :] + chunk, 0
        return bool(chunk)
