"""Read nuScenes tables: JSON read member by member, fields as arrays, tokens as 64-bit keys and positions of tables.

A table of the full data set is gigabytes of text, so no file is ever held as a whole: a window of text moves over it
and one value at a time is decoded. Submissions are read the same way. DuckDB and Polars were measured instead of this
and need five to ten times the memory (docs/decisions/0012-nuscenes-tables.md).

A token is 32 characters, of which the full data set has ten million. Their keys (BLAKE2b, 8 bytes) take an eighth of
the memory and are found by binary search. Two tokens of one table that share a key, which has a probability of 2e-7 at
2.6 million tokens, would be reported as a token that stands twice.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.ops.arrays import Array, Floats, Ints
from boxwright.reading import open_file, parsing, why

Record = dict[str, Any]
Keys = NDArray[np.uint64]

ROTATION_TOLERANCE = 1e-3  # how far the norm of a published quaternion may be from 1; real ones keep to 1e-6
_CHUNK = 1 << 20  # characters read at a time: a thousand records
_TAIL = 1 << 16  # an error nearer to the end of what is read may be the end itself
_BLOCK = 4096  # records handed out together
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_DECODER = json.JSONDecoder()
_LARGEST = 2**63 - 1  # that an index can hold


class CutOffError(ValueError):
    """The text ends before the value does."""


class JsonReader:
    """A window of text that moves forward over a JSON file and decodes one value at a time."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.read = 0  # characters
        self._text = ""
        self._at = 0

    def peek(self, *, optional: bool = False) -> str:
        """Return the next character that is not space; at the end of the file raise, or return "" if `optional`."""
        while not (found := _NO_SPACE.search(self._text, self._at)):
            self._at = len(self._text)
            if not self._more():
                if optional:
                    return ""
                raise CutOffError("it is cut off")
        self._at = found.start()
        return found[0]

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
        first = True
        while self.peek() != "}":
            if not first:
                self.skip(",")
            first = False
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is no key")
            self.skip(":")
            yield key
        self.skip("}")

    def _more(self) -> bool:
        # At least as much as is waiting, so that one long value is not scanned again and again.
        waiting = len(self._text) - self._at
        chunk = self._file.read(max(_CHUNK, waiting))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self.read += len(chunk)
        return bool(chunk)


def stream_members(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the object that the file's own object has under `name`; other entries are skipped.

    Raises:
        UserError: the file cannot be read, is not JSON, is cut off, or has no such object.
    """
    found = False
    try:
        with TextIOWrapper(open_file(path), encoding="utf-8") as file:
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
        raise UserError(f'{path} cannot be read: {why(error)}; it should be one JSON object with "{name}"') from error


def version_folder(root: Path, version: str) -> Path:
    """Find the folder of a version's tables.

    Raises:
        UserError: there is no such root or version; the sentence names the versions that there are.
    """
    folder = root / version
    if version and folder.is_dir():
        return folder
    if not root.is_dir():
        problem = "is not a folder; a nuScenes root holds samples, sweeps and a version such as v1.0-mini"
    elif there := versions_of(root):
        problem = f"has no version {version or '(none given)'}; there are {', '.join(there)}"
    elif (root / "sample.json").is_file():
        problem = f"is one version of a nuScenes root: name the root, {root.absolute().parent}"
    else:
        problem = "is no nuScenes root: no folder in it has a sample.json"
    raise UserError(f"{root} {problem}")


def version_of(root: Path, named: str, usual: str = "") -> str:
    """Choose the version of a root: the named one, else the only one, else the usual one.

    Raises:
        UserError: there are several, and no usual one.
    """
    there = versions_of(root)
    if named or len(there) < 2:
        return named or "".join(there)
    if usual not in there:
        raise UserError(f"{root} has several versions: name one with --version ({', '.join(there)})")
    return usual


def versions_of(root: Path) -> list[str]:
    """List the folders of a root that hold tables; empty if it is no nuScenes root."""
    return sorted(file.parent.name for file in root.glob("*/sample.json")) if root.is_dir() else []


def read_table(folder: Path, table: str) -> Iterator[Record]:
    """Yield the records of a table, one at a time, and show on the standard error how far a large one is read.

    Raises:
        UserError: the table is missing, is cut off, or is not a list of records.
    """
    from rich.console import Console

    from boxwright.engine.console import MovingLine  # which imports torch: what is missing is told before

    file, count = folder / f"{table}.json", 0
    try:
        with (
            TextIOWrapper(open_file(file), encoding="utf-8-sig") as stream,
            MovingLine(Console(stderr=True, soft_wrap=True)) as line,
        ):
            reader, size = JsonReader(stream), file.stat().st_size
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
                if not count % _BLOCK and line.is_due:
                    line.show(f"reading {table}.json", reader.read >> 20, size >> 20, ["MB"])
    except FileNotFoundError as error:
        raise UserError(f"the table {file} is missing") from error
    except CutOffError as error:
        raise UserError(f"the table {file} is cut off after record {count}") from error
    except (OSError, ValueError, RecursionError):
        with parsing(file, f"table after record {count}"):
            raise


class Block:
    """Some records of one table, whose fields are taken as arrays.

    Each method that takes a field raises a UserError that names the first record without it or with something else.
    """

    def __init__(self, folder: Path, table: str, records: list[Record]) -> None:
        self.folder, self.table, self.records = folder, table, records

    def __len__(self) -> int:
        return len(self.records)

    def take(self, rows: Ints) -> "Block":
        """Select records by position."""
        return Block(self.folder, self.table, [self.records[row] for row in rows])

    def error(self, row: int, problem: str, field: str = "") -> UserError:
        """Make the error of one record, or of one field of it."""
        record = f"{field and field + ' of '}record {self.records[row].get('token', '?')}"
        return UserError(f"{self.folder / self.table}.json: {record} {problem}")

    def column(self, field: str) -> list[Any]:
        """Take a field of any type."""
        try:
            return [record[field] for record in self.records]
        except KeyError as error:
            lacking = next(row for row, record in enumerate(self.records) if field not in record)
            raise self.error(lacking, f"has no {field}") from error

    def numbers(self, field: str, count: int) -> Floats:
        """Take (N, count) finite numbers."""
        values = self.column(field)
        try:
            # One conversion of a block; single records are looked at only where it fails, to name the first bad one.
            made = np.array(values or np.zeros((0, count)), np.float64)
        except (TypeError, ValueError):
            made = np.zeros(0)
        if made.shape != (len(values), count) or not np.isfinite(made).all():
            for row, value in enumerate(values):
                listed: list[Any] = value if isinstance(value, list) else []
                if len(listed) != count or not all(isinstance(n, int | float) and math.isfinite(n) for n in listed):
                    raise self.error(row, f"is not {count} finite numbers", field)
        return made

    def rotations(self, field: str) -> Floats:
        """Take (N, 4) quaternions w, x, y, z of norm 1."""
        made = self.numbers(field, 4)
        bad = np.flatnonzero(np.abs(np.linalg.norm(made, axis=-1) - 1) > ROTATION_TOLERANCE)
        if len(bad):
            shown = ", ".join(f"{number:g}" for number in made[bad[0]])
            problem = "is no rotation: a quaternion w, x, y, z of norm 1 is needed"
            raise self.error(int(bad[0]), problem, f"the {field} ({shown})")
        return made

    def integers(self, field: str, *, optional: bool = False) -> Ints:
        """Take (N,) whole numbers; 0 where an optional one is absent or null."""
        values: list[Any] = [r.get(field) or 0 for r in self.records] if optional else self.column(field)
        for row, value in enumerate(values):
            # JSON integers may have any number of digits; a float would be rounded silently.
            if not isinstance(value, int) or abs(value) > _LARGEST:
                raise self.error(row, f"is no whole number but {value!r}", field)
        return np.array(values, np.int64)

    def keys(self, field: str, *, optional: bool = False) -> Keys:
        """Take (N,) keys of tokens; 0 where an optional one is absent."""
        return token_keys([r.get(field) for r in self.records] if optional else self.column(field))

    def tokens(self) -> "TokenTable":
        """Find records by their tokens, where the block is the whole table."""
        return TokenTable(self.keys("token"), self.folder, self.table)


def whole_table(folder: Path, table: str) -> Block:
    """Read a table that is small enough to be held as records."""
    return Block(folder, table, list(read_table(folder, table)))


def read_rows(folder: Path, table: str, dtype: np.dtype[Any], fields: Callable[[Block], Mapping[str, Any]]) -> Array:
    """Read a table as rows of a type; `fields` gives the columns of a block, of all its records or of some."""
    # Rows as bytes are enlarged in place and then viewed: no second copy, unlike a list of blocks that are joined.
    rows = bytearray()
    records = read_table(folder, table)
    while some := list(islice(records, _BLOCK)):
        columns = fields(Block(folder, table, some))
        made = np.empty(len(next(iter(columns.values()))), dtype)
        for name, column in columns.items():
            made[name] = column
        rows += made.tobytes()
    return np.frombuffer(rows, dtype)


def token_keys(tokens: Sequence[Any]) -> Keys:
    """Hash tokens to (N,) keys; 0 for the empty one, which points nowhere on purpose."""
    digests = b"".join(
        blake2b(str(token).encode("utf-8", "surrogatepass"), digest_size=8).digest() if token else b"\0" * 8
        for token in tokens
    )
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

    def find(self, keys: Keys) -> Ints:
        """Find (N,) positions in the table; -1 where it has no such token."""
        # np.searchsorted of an empty table gives position 0, which no row has.
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1).astype(np.int64)

    def resolve(self, keys: Keys, source: str, field: str, *, optional: bool = False) -> Ints:
        """Find (N,) positions of the tokens that a field of another table holds; -1 for an optional one that is empty.

        Raises:
            UserError: one of them points nowhere; the sentence names it and its record.
        """
        found = self.find(keys)
        lost = np.flatnonzero((found < 0) & (keys != 0) if optional else found < 0)
        if len(lost):
            # Only keys were kept: the table is read again for the token.
            value, record = _token_of(self._folder, source, field, int(keys[lost[0]]))
            shown = f"the {field} {value}" if value else f"an empty {field}"
            raise UserError(
                f"{self._folder / source}.json: record {record} has {shown}, which is not in {self._table}.json"
            )
        return found

    def named_by(self, block: Block, field: str) -> Ints:
        """Find (N,) positions of the tokens that a field of a block holds."""
        return self.resolve(block.keys(field), block.table, field)


def _token_of(folder: Path, table: str, field: str, key: int) -> tuple[str, str]:
    """Read a table again for the token that has a key: it, and the token of its record."""
    for record in read_table(folder, table):
        value: Any = record.get(field, "")
        for token in value if isinstance(value, list) else [value]:
            if int(token_keys([token])[0]) == key:
                return str(token), str(record.get("token", "?"))
    return "?", "?"
