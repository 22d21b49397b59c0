"""Build the arrays of the index from the tables: what was recorded, when and from where, and boxes with velocities.

Only what is used later is kept: camera and lidar records of key frames, all radar sweeps, and annotations of the ten
classes and of bicycle racks.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.geometry import transforms
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
    Block,
    TokenTable,
    read_rows,
    token_keys,
    whole_table,
)
from boxwright.ops.arrays import Array, Ints

MAX_GAP = 1.5
"""Seconds to the annotation before or after, beyond which a velocity is unknown; twice that between both."""
_IGNORED = -1  # label or channel of what is not used
# Rows while tables are read, with keys of tokens that are resolved when all records are there.
_SAMPLE = np.dtype([("token", "u8"), ("scene", "i4"), ("timestamp", "i8")])
_INSTANCE = np.dtype([("token", "u8"), ("label", "i1")])
_LINKS = np.dtype([("token", "u8"), ("prev", "u8"), ("next", "u8")])
_MEASURED = np.dtype(
    [(name, "u8") for name in ("token", "prev", "pose")]
    + [(name, "i4") for name in ("sample", "calibration", "width", "height", "name_length")]
    + [("timestamp", "i8"), ("channel", "i1"), ("key_frame", "?")]
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Key frames of a version, scene by scene and in order of time."""

    scenes: list[str]  # names, in the order of their first sample in the table
    tokens: NDArray[np.bytes_]
    rows: Array  # of `structures.SAMPLE`
    table: TokenTable
    position: Ints  # from a row of the table to a position in `rows`

    def named_by(self, block: Block) -> Ints:
        """Find (N,) positions in `rows` of the samples that the records of another table belong to."""
        return self.position[self.table.named_by(block, "sample_token")]


def read_samples(folder: Path) -> Samples:
    """Read scenes and samples."""
    scenes = whole_table(folder, "scene")  # a thousand at most
    scene_table, names = scenes.tokens(), scenes.column("name")
    tokens: list[bytes] = []

    def fields(block: Block) -> Mapping[str, Any]:
        tokens.extend(str(token).encode() for token in block.column("token"))
        return {
            "token": block.keys("token"),
            "timestamp": block.integers("timestamp"),
            "scene": scene_table.named_by(block, "scene_token"),
        }

    read = read_rows(folder, "sample", _SAMPLE, fields)
    # Order of the published conversion: scenes by their first sample in the table, samples of a scene by time,
    # and where times are equal by their place in the table.
    used, first, which = np.unique(read["scene"], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    order = np.lexsort((read["timestamp"], rank[which]))
    rows = np.full(len(order), -1, SAMPLE)
    rows["scene"], rows["timestamp"] = rank[which][order], read["timestamp"][order]
    return Samples(
        [str(names[scene]) for scene in used[np.argsort(first)]],
        np.array(tokens, np.bytes_)[order],
        rows,
        TokenTable(read["token"], folder, "sample"),
        np.argsort(order),  # the inverse of a permutation
    )


def read_sensors(folder: Path, samples: Samples) -> dict[str, Array]:
    """Read what was recorded, its calibrations and poses, and set the links of the samples to it.

    Returns:
        arrays of the index by name: images, radars, their file names, calibrations and poses.

    Raises:
        UserError: a table is missing or damaged, a token points nowhere, or a rotation is none.
    """
    names, pose_keys = bytearray(), bytearray()
    calibrations, kept = _measured(folder, samples, names)
    # Poses are as many as records; only those that a kept record names are turned into rows.
    wanted = TokenTable(np.unique(kept["pose"]), folder, "ego_pose")

    def fields(block: Block) -> Mapping[str, Any]:
        keys = block.keys("token")
        pick = np.flatnonzero(wanted.find(keys) >= 0)
        pose_keys.extend(keys[pick].tobytes())
        block = block.take(pick)
        return {"translation": block.numbers("translation", 3), "rotation": block.rotations("rotation")}

    poses = read_rows(folder, "ego_pose", POSE, fields)
    pose_table = TokenTable(np.frombuffer(pose_keys, np.uint64), folder, "ego_pose")
    pose_of = pose_table.resolve(kept["pose"], "sample_data", "ego_pose_token")
    is_image, is_lidar = kept["channel"] < FIRST_RADAR, kept["channel"] == LIDAR_CODE
    radar_at = np.flatnonzero(~is_image & ~is_lidar)
    radars = np.empty(len(radar_at), RADAR)
    # Images of a sample stand together, so that a split and a worker read neighbours.
    image_at = np.flatnonzero(is_image)
    image_at = image_at[np.lexsort((kept["channel"][image_at], kept["sample"][image_at]))]
    images = np.empty(len(image_at), IMAGE)
    for rows, at in ((radars, radar_at), (images, image_at)):
        rows["row"], rows["pose"] = at, pose_of[at]
        for field in ("calibration", "timestamp"):
            rows[field] = kept[field][at]
    # A radar sweep names the one before it or none; a name that is in no table is refused, not taken for the first.
    sweeps = TokenTable(kept["token"][radar_at], folder, "sample_data")
    radars["prev"] = sweeps.resolve(kept["prev"][radar_at], "sample_data", "prev", optional=True)
    for field in ("sample", "width", "height"):
        images[field] = kept[field][image_at]
    images["sensor"] = kept["channel"][image_at] + 1
    # The pose of a key frame is that of its lidar, else of any sensor, as the published evaluation takes it.
    for some in (kept["key_frame"], kept["key_frame"] & is_lidar):
        samples.rows["pose"][kept["sample"][some]] = pose_of[some]
    sweep = np.flatnonzero(kept["key_frame"][radar_at])
    found = kept[radar_at[sweep]]
    samples.rows["radars"][found["sample"], found["channel"] - FIRST_RADAR] = sweep
    samples.rows["cameras"][images["sample"], images["sensor"] - 1] = np.arange(len(images))
    of_image, ego = calibrations[images["calibration"]], poses[images["pose"]]
    ego_from_cam = transforms(of_image["translation"], of_image["rotation"])
    images["global_from_cam"] = transforms(ego["translation"], ego["rotation"]) @ ego_from_cam
    intrinsics = of_image["intrinsic"]
    bad = np.flatnonzero(~np.isfinite(intrinsics).all((1, 2)) | (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0))
    if len(bad):
        problem = "is no camera matrix: 3 x 3 numbers with positive focal lengths are needed"
        record = int(images["calibration"][bad[0]])
        raise whole_table(folder, "calibrated_sensor").error(record, problem, "camera_intrinsic")
    offsets = np.concatenate(([0], kept["name_length"].cumsum(dtype=np.int64)))
    return {
        "images": images,
        "radars": radars,
        "names": np.frombuffer(names, np.uint8),
        "name_offsets": offsets,
        "poses": poses,
        "calibrations": calibrations,
    }


def _measured(folder: Path, samples: Samples, names: bytearray) -> tuple[Array, Array]:
    """Read calibrations and the records of sample_data that are used; append their file names, one after the other."""
    sensors = whole_table(folder, "sensor")
    sensor_table = sensors.tokens()
    codes = np.array(
        [CHANNELS.index(name) if name in CHANNELS else _IGNORED for name in sensors.column("channel")], np.int8
    )
    keys, channels = bytearray(), bytearray()

    def calibration_fields(block: Block) -> Mapping[str, Any]:
        intrinsics = np.full((len(block), 3, 3), np.nan)
        for row, record in enumerate(block.records):
            with contextlib.suppress(TypeError, ValueError):
                matrix = np.array(record.get("camera_intrinsic", ()), np.float64)
                if matrix.shape == (3, 3):  # radars and lidars have none
                    intrinsics[row] = matrix
        keys.extend(block.keys("token").tobytes())
        channels.extend(codes[sensor_table.named_by(block, "sensor_token")].tobytes())
        translations = block.numbers("translation", 3)
        return {"translation": translations, "rotation": block.rotations("rotation"), "intrinsic": intrinsics}

    calibrations = read_rows(folder, "calibrated_sensor", CALIBRATION, calibration_fields)
    channel_of = np.frombuffer(channels, np.int8)
    table = TokenTable(np.frombuffer(keys, np.uint64), folder, "calibrated_sensor")

    def fields(block: Block) -> Mapping[str, Any]:
        calibration = table.named_by(block, "calibrated_sensor_token")
        channel = channel_of[calibration]
        key_frame = np.array(block.column("is_key_frame"), bool)
        # About half of the 2.6 million records of the full data set: camera and lidar sweeps are not kept.
        pick = np.flatnonzero((channel >= 0) & (key_frame | ((channel >= FIRST_RADAR) & (channel < LIDAR_CODE))))
        block = block.take(pick)
        # File names may hold bytes that are no UTF-8; they come back as they were.
        files = [str(name).encode("utf-8", "surrogateescape") for name in block.column("filename")]
        names.extend(b"".join(files))
        return {
            "token": block.keys("token"),
            # Links are resolved when all records are there, since a sweep may stand before the one it names.
            "prev": block.keys("prev", optional=True),
            "pose": block.keys("ego_pose_token"),
            "timestamp": block.integers("timestamp"),
            "sample": samples.named_by(block),
            "calibration": calibration[pick],
            # Width and height of a radar are absent, null or 0, as the writer of the tables liked.
            "width": block.integers("width", optional=True),
            "height": block.integers("height", optional=True),
            "name_length": [len(file) for file in files],
            "channel": channel[pick],
            "key_frame": key_frame[pick],
        }

    return calibrations, read_rows(folder, "sample_data", _MEASURED, fields)


def read_annotations(folder: Path, samples: Samples) -> Array:
    """Read annotations of the ten classes and of bicycle racks, by sample and then in the order of their table.

    A version for testing (a name that ends in `test`) may lack the tables of annotations and instances.

    Raises:
        UserError: a table is missing or damaged, a token points nowhere, a rotation is none, or an annotation has
            several attributes.
    """
    # Published test versions have no annotations; elsewhere a missing table is a damaged download.
    if folder.name.endswith("test") and not (folder / "sample_annotation.json").exists():
        return np.zeros(0, ANNOTATION)
    categories, attributes = whole_table(folder, "category"), whole_table(folder, "attribute")
    labels = CLASS_OF_CATEGORY | {BIKE_RACK_CATEGORY: BIKE_RACK}
    label_of = np.array([labels.get(name, _IGNORED) for name in map(str, categories.column("name"))], np.int8)
    codes = {name: code for code, name in enumerate(ATTRIBUTE_NAMES)}
    code_of = np.array([*(codes.get(name, -1) for name in attributes.column("name")), -1], np.int8)  # the last: of none
    category_table, attribute_table = categories.tokens(), attributes.tokens()

    def instance_fields(block: Block) -> Mapping[str, Any]:
        return {"token": block.keys("token"), "label": label_of[category_table.named_by(block, "category_token")]}

    instances = read_rows(folder, "instance", _INSTANCE, instance_fields)
    instance_table, links_read = TokenTable(instances["token"], folder, "instance"), bytearray()

    def fields(block: Block) -> Mapping[str, Any]:
        instance = instance_table.named_by(block, "instance_token")
        pick = np.flatnonzero(instances["label"][instance] != _IGNORED)
        block, label = block.take(pick), instances["label"][instance[pick]]
        given: list[Any] = block.column("attribute_tokens")
        sizes = block.numbers("size", 3)
        for row, tokens in enumerate(given):
            # Bicycle racks may hold several attributes, which the metric does not use.
            if len(tokens) > 1 and label[row] != BIKE_RACK:
                raise block.error(row, f"has {len(tokens)} attributes, an annotation has one at most")
            if sizes[row].min() <= 0:
                raise block.error(row, "is not three lengths above 0", "size")
        first_tokens = token_keys([tokens[0] if tokens else "" for tokens in given])
        attribute = attribute_table.resolve(first_tokens, block.table, "attribute_tokens", optional=True)
        own = np.empty(len(block), _LINKS)
        own["token"] = block.keys("token")
        for name in ("prev", "next"):
            own[name] = block.keys(name, optional=True)
        links_read.extend(own.tobytes())
        return {
            "sample": samples.named_by(block),
            "label": label,
            "attribute": code_of[attribute],
            "instance": instance[pick],
            "points": block.integers("num_lidar_pts") + block.integers("num_radar_pts"),
            "center": block.numbers("translation", 3),
            "size": sizes,
            "rotation": block.rotations("rotation"),
            "velocity": np.nan,
        }

    made = read_rows(folder, "sample_annotation", ANNOTATION, fields)
    links, here = np.frombuffer(links_read, _LINKS), np.arange(len(made))
    table = TokenTable(links["token"], folder, "sample_annotation")
    prev, next_ = (table.resolve(links[name], "sample_annotation", name, optional=True) for name in ("prev", "next"))
    # A velocity leads from the annotation before to the one after, one-sided at the ends, as in the devkit.
    first, last = np.where(prev < 0, here, prev), np.where(next_ < 0, here, next_)
    times = samples.rows["timestamp"][made["sample"]]
    gap = 1e-6 * (times[last] - times[first])
    # Over a long gap an object may have turned or stopped: its velocity is unknown.
    limit = np.where((prev >= 0) & (next_ >= 0), 2 * MAX_GAP, MAX_GAP)
    known = (first != last) & (gap > 0) & (gap <= limit)
    moved = made["center"][last[known]] - made["center"][first[known]]
    made["velocity"][known] = moved / gap[known, None]
    # Stable: within a sample the order of the table decides equal cases of the published conversion.
    return made[np.argsort(made["sample"], kind="stable")]
