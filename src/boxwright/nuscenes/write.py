"""Write a nuScenes root: folders and tables, and `write_root`, which makes one of plain arrays of an own car.

Layout: samples/CHANNEL/ (key frames), sweeps/CHANNEL/ (radar between them), maps/, VERSION/ (tables and `splits.json`).
"""

import hashlib
import json
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from boxwright.data.files import Hidden, link_or_copy, remove_leftovers
from boxwright.data.images import IMAGE_SUFFIXES, image_size
from boxwright.drawing.canvas import write_image
from boxwright.errors import UserError
from boxwright.nuscenes.radar import RADAR_DTYPE, write_radar
from boxwright.nuscenes.structures import (
    ATTRIBUTE_NAMES,
    CAMERAS,
    CLASS_NAMES,
    CLASS_OF_CATEGORY,
    LIDAR,
    RADARS,
)
from boxwright.ops.arrays import Array, Floats, Image

TABLES = (
    *("attribute", "category", "map", "sensor", "visibility"),  # what all scenes share
    *("log", "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor"),  # the drives
    *("instance", "sample_annotation"),
)
Tables = dict[str, list[dict[str, Any]]]  # records by the name of their table
_RIGID = 1e-3  # by which the columns of a rotation may be off
_QUALITY = 95  # of JPEG files
_POINT = ("x", "y", "z", "vx_comp", "vy_comp")  # columns of plain radar points


def token(*parts: str | int) -> str:
    """Return the 32 hexadecimal digits that name a record; the same parts give the same ones."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def quaternion(rotation: Floats) -> list[float]:
    """Return the unit quaternion w, x, y, z, w >= 0, of a (3, 3) rotation."""
    return Rotation.from_matrix(rotation).as_quat(canonical=True, scalar_first=True).tolist()


@contextmanager
def new_root(root: Path, what: str) -> Generator[Path]:
    """Write a folder that is there whole or not at all: yield a temporary one beside it, which takes its name.

    Args:
        root: a folder that is not there yet, or is empty.
        what: it will be, for messages.

    Raises:
        UserError: `root` is a file or holds something, or it cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is there already; {what} is written into a new or an empty folder")
    try:
        root.absolute().parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root.absolute().parent)
        hidden = Hidden(root.absolute(), folder=True)
    except OSError as error:
        raise UserError(f"{root}: the folder cannot be made: {error.strerror}") from error
    try:
        yield hidden.path
        if root.exists():
            root.rmdir()
        hidden.become(root)
    except OSError as error:
        raise UserError(f"{root} cannot be written: {error.strerror}") from error
    finally:
        hidden.drop()


def write_tables(folder: Path, tables: Tables, splits: Mapping[str, Sequence[str]]) -> None:
    """Write the tables of a version, and which scenes each split has."""
    folder.mkdir()
    for table, records in tables.items():
        rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        text = f"[\n{rows}\n]\n" if rows else "[]\n"
        (folder / f"{table}.json").write_text(text, encoding="utf-8", newline="\n")
    (folder / "splits.json").write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class OwnCamera:
    """One image."""

    image: str | Path | Image  # file, which is copied, or (H, W, 3) uint8 RGB
    intrinsics: Array  # (3, 3) camera matrix in pixels of this image
    ego_from_sensor: Array  # (4, 4); camera: x right, y down, z forward; car: x forward, y left, z up; metres
    timestamp: int | None = None  # microseconds; None: that of the key frame
    global_from_ego: Array | None = None  # (4, 4) pose of the car at that time; None: that of the key frame


@dataclass(frozen=True, slots=True)
class OwnRadar:
    """One sweep of a radar."""

    # (P, 5) x forward, y left, z, velocity over ground along x and y, all in the frame of the radar, in metres and m/s;
    # or (P,) of `radar.RADAR_DTYPE`, all 18 fields of nuScenes.
    points: Array
    ego_from_sensor: Array  # (4, 4)
    timestamp: int | None = None
    global_from_ego: Array | None = None


@dataclass(frozen=True, slots=True)
class OwnBoxes:
    """The annotated objects of a key frame, in the frame of the car."""

    names: Sequence[str]  # classes as `structures.CLASS_NAMES`, or categories of nuScenes
    centers: Array  # (N, 3) metres
    sizes: Array  # (N, 3) width, length, height in metres
    yaws: Array  # (N,) rad to the left of the car's x axis
    # Which object each one is, equal in all key frames of a scene: velocities follow from where it is before and after.
    # None: no velocity is known.
    tracks: Sequence[Hashable] | None = None
    attributes: Sequence[str] | None = None  # as `structures.ATTRIBUTE_NAMES`; "" is none
    num_points: Sequence[int] | None = None  # lidar and radar points inside; the metric leaves out boxes with none


@dataclass(frozen=True, slots=True)
class OwnFrame:
    """A key frame; nuScenes has two a second."""

    timestamp: int  # microseconds
    global_from_ego: Array  # (4, 4) pose of the car; any fixed frame will do, z up
    cameras: Mapping[str, OwnCamera]  # by channel, such as CAM_FRONT
    radars: Mapping[str, Sequence[OwnRadar]] = field(default_factory=dict[str, Sequence[OwnRadar]])
    """Sweeps by channel, such as RADAR_FRONT, oldest first; the last one is that of the key frame."""
    boxes: OwnBoxes | None = None


def write_root(
    root: str | Path,
    scenes: Mapping[str, Iterable[OwnFrame]],
    *,
    version: str = "v1.0-own",
    splits: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a nuScenes root of plain arrays; `check`, `train`, `val` and `predict` take it as any other.

    Args:
        root: a folder that is not there yet, or is empty.
        scenes: key frames by the name of their drive, in order of time; they may be generators, each is asked for once.
        version: name of the folder of tables.
        splits: scenes of each split, such as `train` and `val`; None: the last fifth is val.

    Returns:
        the root.

    Raises:
        UserError: an array has another shape or a value that cannot be, a channel or a name is not known, an image
            cannot be read, or the root cannot be written. Nothing is left behind then.
    """
    root = Path(root)
    unknown = {name for names in (splits or {}).values() for name in names} - set(scenes)
    if unknown:
        raise UserError(f"write_root: splits name the scene {min(unknown)}, which is not among the scenes")
    tables: Tables = {name: [] for name in TABLES}
    for table, names in (("category", CLASS_OF_CATEGORY), ("attribute", ATTRIBUTE_NAMES)):
        tables[table] = [{"token": token(table, name), "name": name, "description": name} for name in names]
    tables["visibility"] = [{"token": "4", "level": "v80-100", "description": "not measured"}]
    for modality, channels in (("camera", CAMERAS), ("radar", RADARS), ("lidar", (LIDAR,))):
        for channel in channels:
            tables["sensor"].append({"token": token("sensor", channel), "channel": channel, "modality": modality})
    with new_root(root, "a nuScenes root") as beside:
        for name, frames in scenes.items():
            _Scene(beside, tables, name).write(frames)
        # The devkit wants a map of each log: an empty one, that all share.
        (beside / "maps").mkdir()
        write_image(beside / "maps/empty.png", np.full((64, 64), 255, np.uint8))
        logs = [log["token"] for log in tables["log"]]
        of_map = {"token": token("map"), "category": "semantic_prior", "filename": "maps/empty.png"}
        tables["map"].append(of_map | {"log_tokens": logs})
        num_val = max(len(scenes) // 5, 1) if len(scenes) > 1 else 0
        first = len(scenes) - num_val
        shares = splits or {"train": list(scenes)[:first], "val": list(scenes)[first:]}
        # The nuscenes-devkit takes train, val and the like for its own scenes: there they have a second name.
        write_tables(beside / version, tables, {**shares, **{f"own_{name}": own for name, own in shares.items()}})
    return root


class _Scene:
    """Writes the records and files of one scene."""

    def __init__(self, root: Path, tables: Tables, name: str) -> None:
        self._root, self._tables, self._name = root, tables, name
        self._where = name  # for messages
        self._chains: dict[Hashable, list[dict[str, Any]]] = {}  # annotations of an object, in order of time
        self._streams: dict[str, list[dict[str, Any]]] = {}  # records of a channel, in order of time
        self._calibrations: set[str] = set()

    def _error(self, text: str) -> UserError:
        return UserError(f"write_root, scene {self._where}: {text}")

    def write(self, frames: Iterable[OwnFrame]) -> None:
        log = token("log", self._name)
        samples: list[dict[str, Any]] = []
        for number, frame in enumerate(frames):
            self._where = f"{self._name}, key frame {number + 1}"
            if samples and frame.timestamp <= samples[-1]["timestamp"]:
                raise self._error(f"its time {frame.timestamp} is not after that of the key frame before")
            name = token(self._name, "sample", number)
            scene = token("scene", self._name)
            samples.append({"token": name, "timestamp": int(frame.timestamp), "scene_token": scene})
            self._write_frame(frame, name)
        if not samples:
            raise UserError(f"write_root: scene {self._name} has no key frame")
        _link(samples)
        self._tables["sample"] += samples
        for records in self._streams.values():
            _link(records)
            self._tables["sample_data"] += records
        for track, chain in self._chains.items():
            _link(chain)
            category = chain[0].pop("category")
            if any(other.pop("category", category) != category for other in chain[1:]):
                raise UserError(f"write_root, scene {self._name}: the track {track!r} has two classes")
            instance = {"token": chain[0]["instance_token"], "category_token": token("category", category)}
            ends = {"first_annotation_token": chain[0]["token"], "last_annotation_token": chain[-1]["token"]}
            self._tables["instance"].append(instance | ends | {"nbr_annotations": len(chain)})
            self._tables["sample_annotation"] += chain
        of_log = {"token": log, "logfile": self._name, "vehicle": "own", "date_captured": "", "location": ""}
        self._tables["log"].append(of_log)
        ends = {"first_sample_token": samples[0]["token"], "last_sample_token": samples[-1]["token"]}
        scene = {"token": token("scene", self._name), "log_token": log, "name": self._name, "description": ""}
        self._tables["scene"].append(scene | ends | {"nbr_samples": len(samples)})

    def _write_frame(self, frame: OwnFrame, sample: str) -> None:
        wrong = [name for name in frame.cameras if name not in CAMERAS] + [n for n in frame.radars if n not in RADARS]
        if wrong or not frame.cameras:
            known = f"cameras are {', '.join(CAMERAS)}; radars {', '.join(RADARS)}"
            raise self._error(f"there is no channel {wrong[0]}; {known}" if wrong else f"no camera is given; {known}")
        for channel, camera in frame.cameras.items():
            path, size = self._image_of(camera, channel)
            matrix = self._array(camera.intrinsics, (3, 3), f"intrinsics of {channel}")
            self._record(frame, sample, channel, camera, path, True, size, matrix.tolist())
        for channel, sweeps in frame.radars.items():
            for number, sweep in enumerate(sweeps):
                points = self._points(sweep.points, channel)
                key = number == len(sweeps) - 1
                path = self._place(channel, "pcd", key=key)
                write_radar(path, points)
                self._record(frame, sample, channel, sweep, path, key)
        # The devkit takes the pose of a key frame from its lidar: a record with that pose, and a file without points.
        path = self._place(LIDAR, "pcd.bin", key=True)
        path.write_bytes(b"")
        self._record(frame, sample, LIDAR, OwnRadar(np.zeros((0, 5)), np.eye(4)), path, True)
        if frame.boxes is not None:
            self._annotate(frame, frame.boxes, sample)

    def _place(self, channel: str, suffix: str, *, key: bool) -> Path:
        """Return where the next file of a channel goes."""
        folder = self._root / ("samples" if key else "sweeps") / channel
        folder.mkdir(parents=True, exist_ok=True)
        number = len(self._streams.get(channel, ()))
        return folder / f"{token('scene', self._name)[:8]}__{channel}__{number:06d}.{suffix}"

    def _image_of(self, camera: OwnCamera, channel: str) -> tuple[Path, tuple[int, int]]:
        """Write an image, and return its file and its height and width."""
        if isinstance(camera.image, str | Path):
            source = Path(camera.image)
            if source.suffix.lower() not in IMAGE_SUFFIXES:
                raise self._error(f"{source} is no image, by its suffix")
            path = self._place(channel, source.suffix.lower().lstrip("."), key=True)
            size = image_size(source)
            link_or_copy(source, path, copy=True)
            return path, size
        pixels = np.asarray(camera.image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise self._error(f"an image of {channel} should be (H, W, 3) uint8 RGB, not {pixels.shape} {pixels.dtype}")
        path = self._place(channel, "jpg", key=True)
        write_image(path, np.ascontiguousarray(pixels[..., ::-1]), _QUALITY)
        return path, (pixels.shape[0], pixels.shape[1])

    def _points(self, points: Array, channel: str) -> Array:
        if points.dtype == RADAR_DTYPE:
            return points
        given = self._array(points, (len(points), len(_POINT)), f"points of {channel} ({', '.join(_POINT)})")
        made = np.zeros(len(given), RADAR_DTYPE)
        for name, column in zip(_POINT, given.T, strict=True):
            made[name] = column
        made["vx"], made["vy"] = made["vx_comp"], made["vy_comp"]  # relative to the car in nuScenes; not read here
        made["id"] = np.arange(len(given))
        made["is_quality_valid"], made["ambig_state"], made["pdh0"] = 1, 3, 1  # valid and unambiguous
        return made

    def _record(
        self,
        frame: OwnFrame,
        sample: str,
        channel: str,
        shot: OwnCamera | OwnRadar,
        path: Path,
        key: bool,
        size: tuple[int, int] = (0, 0),
        intrinsic: Sequence[Sequence[float]] = (),
    ) -> None:
        """Add the records of one file: its data, the pose of the car at its time, and its calibration."""
        time = frame.timestamp if shot.timestamp is None else shot.timestamp
        stream = self._streams.setdefault(channel, [])
        if stream and time <= stream[-1]["timestamp"]:
            raise self._error(
                f"{channel}: the time {time} is not after {stream[-1]['timestamp']}, that of the one before"
            )
        pose = self._pose(frame.global_from_ego if shot.global_from_ego is None else shot.global_from_ego, "car")
        place = self._pose(shot.ego_from_sensor, channel)
        name = token(self._name, "data", channel, len(stream))
        ego = {"token": token("ego_pose", name), "timestamp": int(time)} | pose
        self._tables["ego_pose"].append(ego)
        calibration = token(self._name, channel, json.dumps(place), json.dumps(intrinsic))
        if calibration not in self._calibrations:  # one that does not change is one record
            self._calibrations.add(calibration)
            of_sensor = {"token": calibration, "sensor_token": token("sensor", channel), "camera_intrinsic": intrinsic}
            self._tables["calibrated_sensor"].append(of_sensor | place)
        tokens = {"sample_token": sample, "ego_pose_token": ego["token"], "calibrated_sensor_token": calibration}
        file = {"filename": str(path.relative_to(self._root).as_posix()), "fileformat": path.suffix.lstrip(".")}
        about = {"token": name, "timestamp": int(time), "is_key_frame": key, "height": size[0], "width": size[1]}
        stream.append(about | tokens | file)

    def _annotate(self, frame: OwnFrame, boxes: OwnBoxes, sample: str) -> None:
        count = len(boxes.names)
        centers = self._array(boxes.centers, (count, 3), "centers of boxes")
        sizes = self._array(boxes.sizes, (count, 3), "sizes of boxes (width, length, height)")
        yaws = self._array(boxes.yaws, (count,), "yaws of boxes")
        if (sizes <= 0).any():
            raise self._error("each size of a box should be above 0")
        pose = np.asarray(frame.global_from_ego, np.float64)
        turns = pose[:3, :3] @ Rotation.from_euler("z", yaws[:, None]).as_matrix() if count else np.zeros((0, 3, 3))
        centers = centers @ pose[:3, :3].T + pose[:3, 3]
        attributes, points = boxes.attributes or [""] * count, boxes.num_points
        tracks = boxes.tracks
        for name, given in (("attributes", attributes), ("tracks", tracks), ("num_points", points)):
            if given is not None and len(given) != count:
                raise self._error(f"there are {count} boxes, but {len(given)} {name}")
        if tracks is not None and len(set(tracks)) != count:
            raise self._error("two boxes have the same track")
        for row, (name, attribute) in enumerate(zip(boxes.names, attributes, strict=True)):
            category = _CATEGORIES.get(name, name)
            if category not in CLASS_OF_CATEGORY:
                raise self._error(f"there is no class {name}; there are {', '.join(CLASS_NAMES)}")
            if attribute and attribute not in ATTRIBUTE_NAMES:
                raise self._error(f"there is no attribute {attribute}; there are {', '.join(ATTRIBUTE_NAMES)}")
            track: Hashable = (sample, row) if tracks is None else ("track", tracks[row])
            chain = self._chains.setdefault(track, [])
            instance = chain[0]["instance_token"] if chain else token(self._name, "instance", len(self._chains))
            record = {
                "token": token(sample, "annotation", row),
                "sample_token": sample,
                "instance_token": instance,
                "visibility_token": "4",
                "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                "translation": centers[row].tolist(),
                "size": sizes[row].tolist(),
                "rotation": quaternion(turns[row]),
                "num_lidar_pts": 1 if points is None else int(points[row]),
                "num_radar_pts": 0,
                "category": category,  # taken out again
            }
            chain.append(record)

    def _array(self, values: Array, shape: tuple[int, ...], what: str) -> Floats:
        made = np.asarray(values, np.float64)
        if made.shape != shape and not (made.size == 0 and 0 in shape):
            raise self._error(f"{what} should be {shape}, not {made.shape}")
        if not np.isfinite(made).all():
            raise self._error(f"{what} hold a number that is not finite")
        return made.reshape(shape)

    def _pose(self, matrix: Array, of: str) -> dict[str, Any]:
        made = self._array(matrix, (4, 4), f"the pose of {of}")
        turn = made[:3, :3]
        if (
            np.abs(turn @ turn.T - np.eye(3)).max() > _RIGID
            or np.linalg.det(turn) < 0
            or made[3].tolist() != [0, 0, 0, 1]
        ):
            raise self._error(f"the pose of {of} should be a (4, 4) matrix of a rotation and a translation")
        return {"translation": made[:3, 3].tolist(), "rotation": quaternion(turn)}


def _link(records: Sequence[dict[str, Any]]) -> None:
    """Name the record before and after each."""
    for at, record in enumerate(records):
        record["prev"] = records[at - 1]["token"] if at else ""
        record["next"] = records[at + 1]["token"] if at + 1 < len(records) else ""


_CATEGORIES = {CLASS_NAMES[label]: category for category, label in reversed(CLASS_OF_CATEGORY.items())}
