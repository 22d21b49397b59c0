"""Build the arrays of the index from the tables: what was recorded, when and from where, and boxes with velocities.

Only what is used later is kept: camera and lidar records of key frames, all radar sweeps, and annotations of the ten
classes and of bicycle racks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.geometry import check_rotations, transforms
from boxwright.nuscenes.structures import (
    ANNOTATION,
    ATTRIBUTE_NAMES,
    BIKE_RACK,
    BIKE_RACK_CATEGORY,
    CALIBRATION,
    CHANNELS,
    CLASS_OF_CATEGORY,
    FIRST_RADAR,
    IMAGE,
    LIDAR_CODE,
    POSE,
    RADAR,
    SAMPLE,
)
from boxwright.nuscenes.tables import (
    GrowableArray,
    GrowableNames,
    Keys,
    Record,
    TokenTable,
    blocks,
    column,
    lost_token,
    numbers,
    read_table,
    token_keys,
    whole_numbers,
)
from boxwright.ops.arrays import Array, Floats, Ints

_MEASURED = np.dtype(
    [
        ("channel", "i1"),
        ("key_frame", "?"),
        ("sample", "i4"),
        ("calibration", "i4"),
        ("width", "i4"),
        ("height", "i4"),
        ("timestamp", "i8"),
        ("token", "u8"),
        ("prev", "u8"),
        ("pose", "u8"),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Key frames of a version, scene by scene and in order of time."""

    scenes: list[str]
    tokens: NDArray[np.bytes_]
    rows: Array
    table: TokenTable
    position: Ints  # from a row of the table to a position in `rows`


@dataclass(frozen=True, slots=True, eq=False)
class Sensors:
    """What the sensors of a version recorded; the rows of `layout`."""

    samples: Array
    images: Array
    image_names: tuple[NDArray[np.uint8], Ints]
    radars: Array
    radar_names: tuple[NDArray[np.uint8], Ints]
    poses: Array
    calibrations: Array


def read_samples(folder: Path) -> Samples:
    """Read scenes and samples. Scenes stand in the order of their first sample in the table."""
    scene_records = list(read_table(folder, "scene"))
    # Scenes are a thousand at most: their records may stay in memory.
    scene_table = TokenTable(token_keys(column(scene_records, "token", folder, "scene")), folder, "scene")
    tokens: list[bytes] = []
    keys, timestamps, scenes = GrowableArray(np.uint64), GrowableArray(np.int64), GrowableArray(np.uint64)
    for block in blocks(folder, "sample"):
        names = column(block, "token", folder, "sample")
        tokens += [str(name).encode() for name in names]
        keys.append(token_keys(names))
        timestamps.append(whole_numbers(block, "timestamp", folder, "sample"))
        scenes.append(token_keys(column(block, "scene_token", folder, "sample")))
    scene = scene_table.resolve(scenes.array(), "sample", "scene_token")
    # Order of the published conversion: scenes by their first sample in the table, samples of a scene by time,
    # and where times are equal by their place in the table.
    used, first, which = np.unique(scene, return_index=True, return_inverse=True)
    rank = np.empty(len(used), np.int64)
    rank[np.argsort(first)] = np.arange(len(used))
    order = np.lexsort((np.arange(len(scene)), timestamps.array(), rank[which]))
    rows = np.zeros(len(order), SAMPLE)
    rows["scene"] = rank[which][order]
    rows["timestamp"] = timestamps.array()[order]
    for field in ("pose", "cameras", "radars"):
        rows[field] = -1
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    names = column(scene_records, "name", folder, "scene")
    return Samples(
        [str(names[i]) for i in used[np.argsort(rank)]],
        np.array(tokens, np.bytes_)[order],
        rows,
        TokenTable(keys.array(), folder, "sample"),
        position,
    )


def read_sensors(folder: Path, samples: Samples) -> Sensors:
    """Read what was recorded, its calibrations and poses.

    Raises:
        UserError: a table is missing or damaged, a token points nowhere, or a rotation is none.
    """
    calibrations, channels, calibration_table = _calibrations(folder)
    kept, image_names, radar_names = _measured(folder, samples, channels, calibration_table)
    poses, pose_of = _poses(folder, kept)
    radar_at = np.flatnonzero((kept["channel"] >= FIRST_RADAR) & (kept["channel"] < LIDAR_CODE))
    radars = np.zeros(len(radar_at), RADAR)
    for field in ("calibration", "timestamp"):
        radars[field] = kept[field][radar_at]
    radars["pose"] = pose_of[radar_at]
    sweeps = TokenTable(kept["token"][radar_at], folder, "sample_data")
    before = kept["prev"][radar_at]
    # A radar sweep names the one before it or none; a name that is in no table is refused, not taken for the first.
    sweeps.resolve(before[before != 0], "sample_data", "prev")
    radars["prev"] = sweeps.find(before)
    images = np.zeros(int((kept["channel"] < FIRST_RADAR).sum()), IMAGE)
    pick = np.flatnonzero(kept["channel"] < FIRST_RADAR)
    for field in ("sample", "calibration", "timestamp", "width", "height"):
        images[field] = kept[field][pick]
    images["sensor"] = kept["channel"][pick] + 1
    images["pose"] = pose_of[pick]
    # The published ids of images count in this order, so it is kept beside the sorted one.
    images["row"] = np.arange(len(pick))
    # The pose of a key frame is that of its lidar, else of any sensor, as the published evaluation takes it.
    key = np.flatnonzero(kept["key_frame"])
    lidar = key[kept["channel"][key] == LIDAR_CODE]
    for some in (key, lidar):
        samples.rows["pose"][kept["sample"][some]] = pose_of[some]
    sweep = np.flatnonzero(kept["key_frame"][radar_at])
    found = radar_at[sweep]
    samples.rows["radars"][kept["sample"][found], kept["channel"][found] - FIRST_RADAR] = sweep
    # Images of a sample stand together, so that a split and a worker read neighbours.
    order = np.lexsort((images["sensor"], images["sample"]))
    images = images[order]
    samples.rows["cameras"][images["sample"], images["sensor"] - 1] = np.arange(len(images))
    calibration = calibrations[images["calibration"]]
    ego = poses[images["pose"]]
    images["global_from_cam"] = transforms(ego["translation"], ego["rotation"]) @ transforms(
        calibration["translation"], calibration["rotation"]
    )
    intrinsics = calibration["intrinsic"]
    bad = np.flatnonzero(~np.isfinite(intrinsics).all((1, 2)) | (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0))
    if len(bad):
        record = list(read_table(folder, "calibrated_sensor"))[images["calibration"][bad[0]]]
        raise UserError(
            f"{folder / 'calibrated_sensor'}.json: camera_intrinsic of record {record.get('token', '?')} is no camera "
            f"matrix: 3 x 3 numbers with positive focal lengths are needed"
        )
    return Sensors(
        samples.rows, images, _reordered(image_names.arrays(), order), radars, radar_names.arrays(), poses, calibrations
    )


def _calibrations(folder: Path) -> tuple[Array, NDArray[np.int8], TokenTable]:
    """Read the calibrations, the channel code of each (-1: none that is used), and their tokens."""
    sensors = list(read_table(folder, "sensor"))
    sensor_table = TokenTable(token_keys(column(sensors, "token", folder, "sensor")), folder, "sensor")
    codes = np.array(
        [CHANNELS.index(name) if name in CHANNELS else -1 for name in column(sensors, "channel", folder, "sensor")],
        np.int8,
    )
    rows, keys, channels = GrowableArray(CALIBRATION), GrowableArray(np.uint64), GrowableArray(np.int8)
    for block in blocks(folder, "calibrated_sensor"):
        made = np.zeros(len(block), CALIBRATION)
        _fill_pose(made, block, folder, "calibrated_sensor")
        made["intrinsic"] = [_intrinsic(record) for record in block]
        rows.append(made)
        keys.append(token_keys(column(block, "token", folder, "calibrated_sensor")))
        sensor_keys = token_keys(column(block, "sensor_token", folder, "calibrated_sensor"))
        channels.append(codes[sensor_table.resolve(sensor_keys, "calibrated_sensor", "sensor_token")])
    return rows.array(), channels.array(), TokenTable(keys.array(), folder, "calibrated_sensor")


def _fill_pose(made: Array, block: list[Record], folder: Path, table: str) -> None:
    made["translation"] = numbers(block, "translation", 3, folder, table)
    rotation = numbers(block, "rotation", 4, folder, table)
    check_rotations(rotation, [str(record.get("token", "?")) for record in block], f"{folder / table}.json")
    made["rotation"] = rotation


def _intrinsic(record: Record) -> Floats:
    """Read (3, 3); NaN where there is none, as radars and lidars have none."""
    try:
        made = np.array(record.get("camera_intrinsic", ()), np.float64)
    except (TypeError, ValueError):
        made = np.zeros(0)
    return made if made.shape == (3, 3) else np.full((3, 3), np.nan)


def _measured(
    folder: Path, samples: Samples, channels: NDArray[np.int8], calibration_table: TokenTable
) -> tuple[Array, GrowableNames, GrowableNames]:
    """Read the records of sample_data that are used, and the file names of images and radar sweeps, in table order."""
    table = "sample_data"
    rows, image_names, radar_names = GrowableArray(_MEASURED), GrowableNames(), GrowableNames()
    for block in blocks(folder, table):
        calibration = calibration_table.resolve(
            token_keys(column(block, "calibrated_sensor_token", folder, table)), table, "calibrated_sensor_token"
        )
        channel = channels[calibration]
        key_frame = np.array(column(block, "is_key_frame", folder, table), bool)
        # About half of the 2.6 million records of the full data set: camera and lidar sweeps are not kept.
        pick = np.flatnonzero((channel >= 0) & (key_frame | ((channel >= FIRST_RADAR) & (channel < LIDAR_CODE))))
        some = [block[i] for i in pick]
        made = np.zeros(len(some), _MEASURED)
        made["channel"], made["key_frame"], made["calibration"] = channel[pick], key_frame[pick], calibration[pick]
        sample_keys = token_keys(column(some, "sample_token", folder, table))
        made["sample"] = samples.position[samples.table.resolve(sample_keys, table, "sample_token")]
        # Width and height of a radar are absent, null or 0, as the writer of the tables liked.
        for field in ("width", "height"):  # radars have none
            whole_numbers([record for record in some if record.get(field)], field, folder, table)
            made[field] = [record.get(field) or 0 for record in some]
        made["timestamp"] = whole_numbers(some, "timestamp", folder, table)
        made["token"] = token_keys(column(some, "token", folder, table))
        # Links are resolved when all records are there, since a sweep may stand before the one it names.
        made["prev"] = token_keys([record.get("prev", "") for record in some])
        made["pose"] = token_keys(column(some, "ego_pose_token", folder, table))
        rows.append(made)
        files = [str(name) for name in column(some, "filename", folder, table)]
        image_names.append([name for name, code in zip(files, made["channel"], strict=True) if code < FIRST_RADAR])
        radar_names.append(
            [name for name, code in zip(files, made["channel"], strict=True) if FIRST_RADAR <= code < LIDAR_CODE]
        )
    return rows.array(), image_names, radar_names


def _poses(folder: Path, kept: Array) -> tuple[Array, NDArray[np.int32]]:
    """Read the poses that the kept records name, in the order of their table, and find that of each record."""
    # Poses are as many as records; only those that a kept record names are turned into rows.
    wanted = np.unique(kept["pose"])
    rows, found = GrowableArray(POSE), GrowableArray(np.uint64)
    for block in blocks(folder, "ego_pose"):
        keys = token_keys(column(block, "token", folder, "ego_pose"))
        # searchsorted points behind the end for keys above the last; the comparison below refuses those.
        at = np.minimum(np.searchsorted(wanted, keys), max(len(wanted) - 1, 0))
        pick = np.flatnonzero(wanted[at] == keys) if len(wanted) else np.zeros(0, np.int64)
        made = np.zeros(len(pick), POSE)
        _fill_pose(made, [block[i] for i in pick], folder, "ego_pose") if len(pick) else None
        rows.append(made)
        found.append(keys[pick])
    del wanted
    table = TokenTable(found.array(), folder, "ego_pose")
    position = table.find(kept["pose"]).astype(np.int32)
    lost = np.flatnonzero(position < 0)
    if len(lost):
        raise lost_token(folder, "sample_data", "ego_pose_token", int(kept["pose"][lost[0]]), "ego_pose")
    return rows.array(), position


def _reordered(names: tuple[NDArray[np.uint8], Ints], order: Array) -> tuple[NDArray[np.uint8], Ints]:
    text, offsets = names
    lengths = np.diff(offsets)[order]
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    # The place of every byte: where its name starts, and how far into the name it is.
    inside = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    return text[np.repeat(offsets[:-1][order], lengths) + inside], ends


MAX_GAP = 1.5
"""Seconds to the annotation before or after, beyond which a velocity is unknown; twice that between both."""
_IGNORED = -1
_TABLE = "sample_annotation"


def read_annotations(folder: Path, samples: Samples) -> Array:
    """Read annotations of the ten classes and of bicycle racks, by sample and then in the order of their table.

    A version for testing (a name that ends in `test`) may lack the tables of annotations and instances.

    Raises:
        UserError: a table is missing or damaged, a token points nowhere, a rotation is none, or an annotation has
            several attributes.
    """
    # Published test versions have no annotations; elsewhere a missing table is a damaged download.
    if folder.name.endswith("test") and not (folder / f"{_TABLE}.json").exists():
        return np.zeros(0, ANNOTATION)
    labels, instances = _instances(folder)
    attribute_records = list(read_table(folder, "attribute"))
    names = column(attribute_records, "name", folder, "attribute")
    attributes = np.array([ATTRIBUTE_NAMES.index(name) if name in ATTRIBUTE_NAMES else -1 for name in names], np.int8)
    attribute_table = TokenTable(
        token_keys(column(attribute_records, "token", folder, "attribute")), folder, "attribute"
    )
    rows = GrowableArray(ANNOTATION)
    tokens, before, after = GrowableArray(np.uint64), GrowableArray(np.uint64), GrowableArray(np.uint64)
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
    prev = _neighbours(table, before.array(), "prev")
    next_ = _neighbours(table, after.array(), "next")
    del table, tokens, before, after
    # From the annotation before to the one after, one-sided at the ends, as the devkit does; unknown over a long gap.
    here = np.arange(len(made))
    first, last = np.where(prev < 0, here, prev), np.where(next_ < 0, here, next_)
    times = samples.rows["timestamp"][made["sample"]]
    gap = 1e-6 * (times[last] - times[first])
    limit = np.where((prev >= 0) & (next_ >= 0), 2 * MAX_GAP, MAX_GAP)
    known = (first != last) & (gap > 0) & (gap <= limit)
    made["velocity"] = np.nan
    centers = made["center"]
    made["velocity"][known] = (centers[last[known]] - centers[first[known]]) / gap[known, None]
    # Stable: within a sample the order of the table decides equal cases of the published conversion.
    return made[np.argsort(made["sample"], kind="stable")]


def _instances(folder: Path) -> tuple[NDArray[np.int8], TokenTable]:
    """Read the label of each instance (class, BIKE_RACK or ignored) and the table of their tokens."""
    categories = list(read_table(folder, "category"))
    names = [str(name) for name in column(categories, "name", folder, "category")]
    codes = np.array(
        [BIKE_RACK if name == BIKE_RACK_CATEGORY else CLASS_OF_CATEGORY.get(name, _IGNORED) for name in names], np.int8
    )
    category_table = TokenTable(token_keys(column(categories, "token", folder, "category")), folder, "category")
    keys, labels = GrowableArray(np.uint64), GrowableArray(np.int8)
    for block in blocks(folder, "instance"):
        keys.append(token_keys(column(block, "token", folder, "instance")))
        category = token_keys(column(block, "category_token", folder, "instance"))
        labels.append(codes[category_table.resolve(category, "instance", "category_token")])
    return labels.array(), TokenTable(keys.array(), folder, "instance")


def _attribute_of(
    block: list[Record], labels: Array, codes: NDArray[np.int8], table: TokenTable, folder: Path
) -> NDArray[np.int8]:
    """Find the attribute of each annotation, -1 if it has none."""
    given: list[Any] = column(block, "attribute_tokens", folder, _TABLE)
    for tokens, label, record in zip(given, labels, block, strict=True):
        # Bicycle racks may hold several attributes, which the metric does not use.
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


def _fill_boxes(made: Array, block: list[Record], folder: Path) -> None:
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


def _neighbours(table: TokenTable, keys: Keys, field: str) -> Ints:
    """Find (A,) the position of the annotation before or after, -1 where there is none."""
    made = np.full(len(keys), -1, np.int64)
    some = np.flatnonzero(keys)
    made[some] = table.resolve(keys[some], _TABLE, field)
    return made
