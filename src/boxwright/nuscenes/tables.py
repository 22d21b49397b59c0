"""Read nuScenes tables: JSON read member by member, tokens as 64-bit keys, and the position of a key in a table.

A table of the full data set is gigabytes of text, so no file is ever held as a whole: a window of text moves over it
and one value at a time is decoded. Submissions are read the same way. DuckDB and Polars were measured instead of this
and need five to ten times the memory (docs/decisions/0012-nuscenes-tables.md).

A token is 32 characters, of which the full data set has ten million. Their keys (BLAKE2b, 8 bytes) take an eighth of
the memory and are found by binary search. Two tokens of one table that share a key, which has a probability of 2e-7 at
2.6 million tokens, would be reported as a token that stands twice.
"""

import json
import math
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.ops.arrays import Array, Floats, Ints

Record = dict[str, Any]
Keys = NDArray[np.uint64]


TABLES = (
    "scene",
    "sample",
    "sample_data",
    "ego_pose",
    "calibrated_sensor",
    "sensor",
    "sample_annotation",
    "instance",
    "category",
    "attribute",
    "visibility",
    "log",
    "map",
)
_CHUNK = 1 << 20  # characters read at a time: a thousand records
_TAIL = 1 << 16  # an error nearer to the end of what is read may be the end itself
_BLOCK = 4096  # records handed out together
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()
_LARGEST = 2**63 - 1  # that an index can hold


class CutOffError(ValueError):
    """The text ends before the value does."""


class JsonReader:
    """A window of text that moves forward over a JSON file and decodes one value at a time.

    Args:
        file: open for reading text.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0

    def peek(self, *, optional: bool = False) -> str:
        """Return the next character that is not space; at the end of the file raise, or return "" if `optional`."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                if optional:
                    return ""
                raise CutOffError("it is cut off")

    def skip(self, wanted: str) -> None:
        """Pass one character that has to be there."""
        found = self.peek()
        if found != wanted:
            raise ValueError(f"{found!r} stands where {wanted!r} should")
        self._at += 1

    def value(self) -> Any:
        """Decode the next value, however long it is."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if error.pos < len(self._text) - _TAIL:
                    raise
                if not self._more():
                    raise CutOffError("it is cut off or ends with a mistake") from error
                continue
            if end < len(self._text) or not self._more():  # a number may go on behind what is read
                self._at = end
                return value

    def keys(self) -> Iterator[str]:
        """Walk through an object: after each key its value is to be read."""
        self.skip("{")
        if self.peek() == "}":
            self.skip("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is no key")
            self.skip(":")
            yield key
            if self.peek() == "}":
                self.skip("}")
                return
            self.skip(",")

    def _more(self) -> bool:
        # At least as much as is waiting, so that one long value is not scanned again and again.
        waiting = len(self._text) - self._at
        chunk = self._file.read(max(_CHUNK, waiting))
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)


def stream_members(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object that the file's own object has under `name`; other entries are skipped.

    Raises:
        UserError: the file cannot be read, is not JSON, is cut off, or has no such object.
    """
    found = False
    try:
        with path.open(encoding="utf-8") as file:
            reader = JsonReader(file)
            for key in reader.keys():  # noqa: SIM118
                if key != name:
                    reader.value()
                    continue
                found = True
                for member in reader.keys():  # noqa: SIM118
                    yield member, reader.value()
            if not found:
                raise ValueError(f'it has no "{name}"')
            if reader.peek(optional=True):
                raise ValueError("text follows its end")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f'{path} cannot be read: {said}; it should be one JSON object with "{name}"') from error


def version_folder(root: Path, version: str) -> Path:
    """Find the folder of a version's tables.

    Raises:
        UserError: there is no such root or version; the sentence names the versions that there are.
    """
    folder = root / version
    if version and folder.is_dir():
        return folder
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder; a nuScenes root holds samples, sweeps and a version such as v1.0-mini"
        )
    there = versions_of(root)
    if not there:
        raise UserError(f"{root} is no nuScenes root: no folder in it has a sample.json")
    raise UserError(f"{root} has no version {version or '(none given)'}; there are {', '.join(there)}")


def versions_of(root: Path) -> list[str]:
    """List the folders of a root that hold tables; empty if it is no nuScenes root."""
    return sorted(file.parent.name for file in root.glob("*/sample.json")) if root.is_dir() else []


def read_table(folder: Path, table: str) -> Iterator[Record]:
    """Yield the records of a table, one at a time.

    Raises:
        UserError: the table is missing, is cut off, or is not a list of records.
    """
    file = folder / f"{table}.json"
    try:
        stream = file.open(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"the table {file} is missing") from error
    except OSError as error:
        raise UserError(f"cannot read the table {file}: {error.strerror}") from error
    with stream:
        reader, count = JsonReader(stream), 0
        try:
            if reader.peek(optional=True) != "[":
                raise UserError(f"{file} is not a table: it does not start with a list of records")
            reader.skip("[")
            while (character := reader.peek()) != "]":
                if character == "," and count:
                    reader.skip(",")
                    character = reader.peek()
                if character != "{":
                    raise UserError(f"{file} is not a table: after record {count} there is no record but {character!r}")
                yield reader.value()
                count += 1
        except CutOffError as error:
            raise UserError(f"the table {file} is cut off after record {count}") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"the table {file} is damaged after record {count}: {error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"the table {file} is no text: {error.reason}") from error
        except OSError as error:
            raise UserError(f"cannot read the table {file}: {error.strerror}") from error


def blocks(folder: Path, table: str) -> Iterator[list[Record]]:
    """Yield the records of a table, some thousands at a time, so that arrays can be made of them."""
    block: list[Record] = []
    for record in read_table(folder, table):
        block.append(record)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def column(block: Sequence[Record], field: str, folder: Path, table: str) -> list[Any]:
    """Take one field of every record.

    Raises:
        UserError: a record lacks it.
    """
    try:
        return [record[field] for record in block]
    except KeyError as error:
        bad = next(record for record in block if field not in record)
        raise UserError(f"{folder / table}.json: record {bad.get('token', '?')} has no {field}") from error


def numbers(block: Sequence[Record], field: str, count: int, folder: Path, table: str) -> Floats:
    """Take (N, count) numbers: one field of every record.

    Raises:
        UserError: a record lacks it, or has something else there.
    """
    values = column(block, field, folder, table)
    try:
        # One conversion of a block; single records are looked at only where it fails, to name the first bad one.
        made = np.array(values, np.float64)
    except (TypeError, ValueError):
        made = np.zeros(0)
    if made.shape == (len(block), count) and np.isfinite(made).all():
        return made
    for record in block:
        value: Any = record[field]
        if (
            not isinstance(value, list)
            or len(cast("list[Any]", value)) != count
            or not all(isinstance(one, int | float) and math.isfinite(one) for one in cast("list[Any]", value))
        ):
            raise UserError(
                f"{folder / table}.json: {field} of record {record.get('token', '?')} is not {count} finite numbers"
            )
    return made


def whole_numbers(block: Sequence[Record], field: str, folder: Path, table: str) -> Ints:
    """Take (N,) whole numbers: one field of every record.

    Raises:
        UserError: a record lacks it, or has something else there.
    """
    values = column(block, field, folder, table)
    for record, value in zip(block, values, strict=True):
        # JSON integers may have any number of digits; a float would be rounded silently.
        if not isinstance(value, int) or abs(value) > _LARGEST:
            raise UserError(
                f"{folder / table}.json: {field} of record {record.get('token', '?')} is no whole number but {value!r}"
            )
    return np.array(values, np.int64)


def token_keys(tokens: Sequence[Any]) -> Keys:
    """Hash tokens to (N,) keys; 0 for the empty one, which points nowhere on purpose."""
    digests = b"".join(blake2b(str(token).encode(), digest_size=8).digest() if token else b"\0" * 8 for token in tokens)
    return np.frombuffer(digests, np.uint64)


class TokenTable:
    """Finds the position of a token in a table."""

    def __init__(self, keys: Keys, folder: Path, table: str) -> None:
        # 4-byte positions where they suffice: 2.6 million poses would take 21 MB instead of 10.
        self._order = np.argsort(keys).astype(np.int32 if len(keys) < 2**31 else np.int64)
        self._sorted = keys[self._order]
        self._folder, self._table = folder, table
        # Equal keys stand side by side after sorting.
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            token = _token_of(folder, table, "token", int(self._sorted[twice[0]]))[0]
            raise UserError(f"{folder / table}.json: the token {token} stands twice")

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, keys: Keys) -> Ints:
        """Find (N,) positions in the table; -1 where it has no such token."""
        # np.searchsorted of an empty table gives position 0, which no row has.
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1).astype(np.int64)

    def resolve(self, keys: Keys, source: str, field: str) -> Ints:
        """Find (N,) positions of the tokens that a field of another table holds.

        Raises:
            UserError: one of them points nowhere; the sentence names it and its record.
        """
        found = self.find(keys)
        lost = np.flatnonzero(found < 0)
        if len(lost):
            raise lost_token(self._folder, source, field, int(keys[lost[0]]), self._table)
        return found


def lost_token(folder: Path, source: str, field: str, key: int, target: str) -> UserError:
    """Make the error of a token that points nowhere; the table is read again, since only keys were kept."""
    value, record = _token_of(folder, source, field, key)
    shown = f"the {field} {value}" if value else f"an empty {field}"
    return UserError(f"{folder / source}.json: record {record} has {shown}, which is not in {target}.json")


def _token_of(folder: Path, table: str, field: str, key: int) -> tuple[str, str]:
    for record in read_table(folder, table):
        value: Any = record.get(field, "")
        for token in value if isinstance(value, list) else [value]:
            if int(token_keys([token])[0]) == key:
                return str(token), str(record.get("token", "?"))
    return "?", "?"


class GrowableArray:
    """Rows of one type, appended some at a time; a buffer that is enlarged in place."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._bytes = bytearray()

    def append(self, rows: Array) -> None:
        self._bytes += np.ascontiguousarray(rows, self.dtype).tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // self.dtype.itemsize

    def array(self) -> Array:
        """View all rows; nothing can be appended as long as the array lives."""
        # A view: no second copy, unlike a list of blocks that is concatenated at the end.
        return np.frombuffer(self._bytes, self.dtype)


class GrowableNames:
    """Names one after the other as bytes, with the place where each ends."""

    def __init__(self) -> None:
        self._text = GrowableArray(np.uint8)
        self._ends = GrowableArray(np.int64)

    def append(self, names: list[str]) -> None:
        # File names may hold bytes that are no UTF-8; they come back as they were.
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        start = len(self._text)
        self._text.append(np.frombuffer(b"".join(encoded), np.uint8))
        self._ends.append(start + np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def arrays(self) -> tuple[NDArray[np.uint8], Ints]:
        """Return the bytes and (N + 1,) offsets."""
        return self._text.array(), np.concatenate(([0], self._ends.array())).astype(np.int64)
