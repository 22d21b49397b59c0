"""Read nuScenes tables: json files that hold one list of records each, read record by record.

A table of the full data set is gigabytes of text, so no table is ever held as a whole: a window of text moves over the
file and one record at a time is decoded from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError

Record = dict[str, Any]

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
_WINDOW = 1 << 18  # characters read at a time
_LONGEST = 1 << 24  # characters of one record; the longest published ones (a map's list of logs) have 10^4
_BLOCK = 4096  # records handed out together
_SPACE = " \t\r\n"
_LARGEST = 2**63 - 1  # that an index can hold


def version_folder(root: Path, version: str) -> Path:
    """The folder of a version's tables.

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
    """Folders of a root that hold tables; empty if it is no nuScenes root."""
    return sorted(file.parent.name for file in root.glob("*/sample.json")) if root.is_dir() else []


def read_table(folder: Path, table: str) -> Iterator[Record]:
    """The records of a table, one at a time.

    Raises:
        UserError: the table is missing, is cut off, or is not a list of records.
    """
    file = folder / f"{table}.json"
    try:
        stream = file.open(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"the table {file} is missing") from error
    except OSError as error:
        raise UserError(f"cannot read the table {file}: {error.strerror}") from error
    with stream:
        try:
            yield from _records(stream, file)
        except UnicodeDecodeError as error:
            raise UserError(f"the table {file} is no text: {error.reason}") from error
        except OSError as error:
            raise UserError(f"cannot read the table {file}: {error.strerror}") from error


def blocks(folder: Path, table: str) -> Iterator[list[Record]]:
    """The records of a table, some thousands at a time, so that arrays can be made of them."""
    block: list[Record] = []
    for record in read_table(folder, table):
        block.append(record)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _records(stream: TextIO, file: Path) -> Iterator[Record]:
    decoder = json.JSONDecoder()
    text, at, count = stream.read(_WINDOW).lstrip(_SPACE + "\ufeff"), 1, 0
    if not text.startswith("["):
        raise UserError(f"{file} is not a table: it does not start with a list of records")
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at < len(text) and text[at] == "]":
            return
        if at < len(text) and text[at] == "," and count:
            at += 1
            while at < len(text) and text[at] in _SPACE:
                at += 1
        try:
            if at >= len(text):
                raise json.JSONDecodeError("more text is needed", text, at)
            if text[at] != "{":
                raise UserError(f"{file} is not a table: after record {count} there is no record but {text[at]!r}")
            record, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            more = stream.read(_WINDOW)
            if not more:
                raise UserError(f"the table {file} is cut off after record {count}") from error
            if len(text) - at > _LONGEST:
                raise UserError(f"the table {file} is damaged after record {count}: {error.msg}") from error
            # A comma already passed stays passed: what is left starts at a record, a bracket or a comma.
            text, at = text[at:] + more, 0
            continue
        count += 1
        yield cast("Record", record)


def column(block: Sequence[Record], field: str, folder: Path, table: str) -> list[Any]:
    """One field of every record.

    Raises:
        UserError: a record lacks it.
    """
    try:
        return [record[field] for record in block]
    except KeyError as error:
        bad = next(record for record in block if field not in record)
        raise UserError(f"{folder / table}.json: record {bad.get('token', '?')} has no {field}") from error


def numbers(block: Sequence[Record], field: str, count: int, folder: Path, table: str) -> NDArray[np.float64]:
    """(N, count) numbers of one field of every record.

    Raises:
        UserError: a record lacks it, or has something else there.
    """
    values = column(block, field, folder, table)
    try:
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
            or not all(map(_is_number, cast("list[Any]", value)))
        ):
            raise UserError(
                f"{folder / table}.json: {field} of record {record.get('token', '?')} is not {count} finite numbers"
            )
    return made


def whole_numbers(block: Sequence[Record], field: str, folder: Path, table: str) -> NDArray[np.int64]:
    """(N,) whole numbers of one field of every record.

    Raises:
        UserError: a record lacks it, or has something else there.
    """
    values = column(block, field, folder, table)
    for record, value in zip(block, values, strict=True):
        if not isinstance(value, int) or abs(value) > _LARGEST:
            raise UserError(
                f"{folder / table}.json: {field} of record {record.get('token', '?')} is no whole number but {value!r}"
            )
    return np.array(values, np.int64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
