"""From the tables of annotations to the arrays of the index: boxes in the global frame with their velocities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.build_sensors import Samples
from boxwright.nuscenes.grow import Growing
from boxwright.nuscenes.layout import ANNOTATION, BIKE_RACK, BIKE_RACK_CATEGORY, CLASS_OF_CATEGORY
from boxwright.nuscenes.poses import check_rotations
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES
from boxwright.nuscenes.tables import Record, blocks, column, numbers, read_table, whole_numbers
from boxwright.nuscenes.tokens import Keys, TokenTable, token_keys

MAX_GAP = 1.5
"""Seconds to the annotation before or after, beyond which a velocity is unknown; twice that between both."""
_IGNORED = -1
_TABLE = "sample_annotation"


def read_annotations(folder: Path, samples: Samples) -> NDArray[Any]:
    """Annotations of the ten classes and of bicycle racks, by sample and then in the order of their table.

    A version for testing (a name that ends in `test`) may lack the tables of annotations and instances.

    Raises:
        UserError: a table is missing or damaged, a token points nowhere, a rotation is none, or an annotation has
            several attributes.
    """
    if folder.name.endswith("test") and not (folder / f"{_TABLE}.json").exists():
        return np.zeros(0, ANNOTATION)
    labels, instances = _instances(folder)
    attributes, attribute_table = _attributes(folder)
    rows = Growing(ANNOTATION)
    tokens, before, after = Growing(np.uint64), Growing(np.uint64), Growing(np.uint64)
    for block in blocks(folder, _TABLE):
        instance = instances.resolve(
            token_keys(column(block, "instance_token", folder, _TABLE)), _TABLE, "instance_token"
        )
        pick = np.flatnonzero(labels[instance] != _IGNORED)
        some = [block[i] for i in pick]
        made = np.zeros(len(some), ANNOTATION)
        made["instance"], made["label"] = instance[pick], labels[instance[pick]]
        sample_keys = token_keys(column(some, "sample_token", folder, _TABLE))
        made["sample"] = samples.position[samples.table.resolve(sample_keys, _TABLE, "sample_token")]
        made["attribute"] = _attribute_of(some, made["label"], attributes, attribute_table, folder)
        _fill_boxes(made, some, folder)
        rows.append(made)
        tokens.append(token_keys(column(some, "token", folder, _TABLE)))
        before.append(token_keys([record.get("prev", "") for record in some]))
        after.append(token_keys([record.get("next", "") for record in some]))
    made = rows.array()
    table = TokenTable(tokens.array(), folder, _TABLE)
    made["velocity"] = _velocities(
        made, _neighbours(table, before.array(), "prev"), _neighbours(table, after.array(), "next"), samples
    )
    del table, tokens, before, after
    return made[np.argsort(made["sample"], kind="stable")]


def _instances(folder: Path) -> tuple[NDArray[np.int8], TokenTable]:
    """The label of each instance (class, BIKE_RACK or ignored) and the table of their tokens."""
    categories = list(read_table(folder, "category"))
    names = [str(name) for name in column(categories, "name", folder, "category")]
    codes = np.array(
        [BIKE_RACK if name == BIKE_RACK_CATEGORY else CLASS_OF_CATEGORY.get(name, _IGNORED) for name in names], np.int8
    )
    category_table = TokenTable(token_keys(column(categories, "token", folder, "category")), folder, "category")
    keys, labels = Growing(np.uint64), Growing(np.int8)
    for block in blocks(folder, "instance"):
        keys.append(token_keys(column(block, "token", folder, "instance")))
        category = token_keys(column(block, "category_token", folder, "instance"))
        labels.append(codes[category_table.resolve(category, "instance", "category_token")])
    return labels.array(), TokenTable(keys.array(), folder, "instance")


def _attributes(folder: Path) -> tuple[NDArray[np.int8], TokenTable]:
    records = list(read_table(folder, "attribute"))
    names = column(records, "name", folder, "attribute")
    codes = [ATTRIBUTE_NAMES.index(name) if name in ATTRIBUTE_NAMES else -1 for name in names]
    table = TokenTable(token_keys(column(records, "token", folder, "attribute")), folder, "attribute")
    return np.array(codes, np.int8), table


def _attribute_of(
    block: list[Record], labels: NDArray[Any], codes: NDArray[np.int8], table: TokenTable, folder: Path
) -> NDArray[np.int8]:
    """The attribute of each annotation, -1 if it has none."""
    given: list[Any] = column(block, "attribute_tokens", folder, _TABLE)
    for tokens, label, record in zip(given, labels, block, strict=True):
        if len(tokens) > 1 and label != BIKE_RACK:
            raise UserError(
                f"{folder / _TABLE}.json: record {record.get('token', '?')} has {len(tokens)} attributes, "
                f"an annotation has one at most"
            )
    keys = token_keys([tokens[0] if tokens else "" for tokens in given])
    made = np.full(len(block), -1, np.int8)
    some = np.flatnonzero(keys)
    made[some] = codes[table.resolve(keys[some], _TABLE, "attribute_tokens")]
    return made


def _fill_boxes(made: NDArray[Any], block: list[Record], folder: Path) -> None:
    if not block:
        return
    made["center"] = numbers(block, "translation", 3, folder, _TABLE)
    sizes = numbers(block, "size", 3, folder, _TABLE)
    flat = np.flatnonzero((sizes <= 0).any(axis=1))
    if len(flat):
        raise UserError(
            f"{folder / _TABLE}.json: size of record {block[flat[0]].get('token', '?')} is not three lengths above 0"
        )
    made["size"] = sizes
    rotation = numbers(block, "rotation", 4, folder, _TABLE)
    check_rotations(rotation, [str(record.get("token", "?")) for record in block], f"{folder / _TABLE}.json")
    made["rotation"] = rotation
    points = (whole_numbers(block, f"num_{sensor}_pts", folder, _TABLE) for sensor in ("lidar", "radar"))
    made["points"] = sum(points)


def _neighbours(table: TokenTable, keys: Keys, field: str) -> NDArray[np.int64]:
    """(A,) position of the annotation before or after, -1 where there is none."""
    made = np.full(len(keys), -1, np.int64)
    some = np.flatnonzero(keys)
    made[some] = table.resolve(keys[some], _TABLE, field)
    return made


def _velocities(
    rows: NDArray[Any], before: NDArray[np.int64], after: NDArray[np.int64], samples: Samples
) -> NDArray[np.float64]:
    """(A, 3) m/s in the global frame: from the annotation before to the one after, one-sided at the ends."""
    here = np.arange(len(rows))
    first, last = np.where(before < 0, here, before), np.where(after < 0, here, after)
    times = samples.rows["timestamp"][rows["sample"]]
    gap = 1e-6 * (times[last] - times[first])
    limit = np.where((before >= 0) & (after >= 0), 2 * MAX_GAP, MAX_GAP)
    known = (first != last) & (gap > 0) & (gap <= limit)
    made = np.full((len(rows), 3), np.nan)
    centers = rows["center"]
    made[known] = (centers[last[known]] - centers[first[known]]) / gap[known, None]
    return made
