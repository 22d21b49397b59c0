"""Write the world as a nuScenes root: images, radar and lidar files, maps and tables.

Layout: samples/CHANNEL/ (key frames), sweeps/CHANNEL/ (radar between them), maps/, VERSION/ (tables and `splits.json`,
which names the scenes of train and val: they are in no official list). Each file is a function of the settings. The
nuscenes-devkit takes `train` and `val` for its own scenes whatever `splits.json` says, so that both have a second name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boxwright.drawing.canvas import write_image
from boxwright.nuscenes.radar import write_radar
from boxwright.nuscenes.write import TABLES, Tables, new_root, quaternion, token, write_tables
from boxwright.ops.arrays import Floats, Ints
from boxwright.synthetic.catalog import ATTRIBUTES, CATEGORIES, KINDS, VISIBILITY, make_rig
from boxwright.synthetic.radar import UNAMBIGUOUS, measure
from boxwright.synthetic.render import render_view
from boxwright.synthetic.world import KEY_FRAME_SECONDS, SWEEP_SECONDS, WorldSettings, make_scene

_JPEG_QUALITY = 88
_EPOCH = 1_530_000_000_000_000  # microseconds
_SCENE_GAP = 100_000_000  # microseconds between the starts of two scenes
_LATE = 8_000  # microseconds by which a sensor is off the time of its key frame, at most
_LIDAR_POINTS = 4000.0  # returns of 1 m2 that is 1 m away
_UNSEEN = 0.02  # objects of which a smaller share is visible, and which return nothing, are not annotated
OWN_SPLITS = "synthetic_"  # before the names of splits that the nuscenes-devkit reads from `splits.json`
_FIRST_NAME = 9001  # of a scene; official ones end at scene-1110


def yaw_quaternion(yaw: float) -> list[float]:
    """Return the unit quaternion w, x, y, z of a rotation about z by `yaw` radians."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


@dataclass(frozen=True, slots=True)
class _Stream:
    """Where the records and files of one channel of a scene go."""

    channel: str
    suffix: str
    size: tuple[int, int]  # height and width
    late: int  # microseconds after the key frame


class SceneWriter:
    """Writes one scene: its records and files, key frame by key frame."""

    def __init__(self, root: Path, settings: WorldSettings, tables: Tables, index: int, name: str) -> None:
        self._root, self._settings, self._tables = root, settings, tables
        self._index, self._name = index, name
        self._log = f"synthetic-{settings.seed}-{index:04d}"
        self._scene = make_scene(settings, index)
        self._rng = np.random.default_rng([settings.seed, index, 77])
        self._rig = make_rig(self._rng, settings.width, settings.height)
        image, cloud = (settings.height, settings.width), (0, 0)
        late = [int(value) for value in self._rng.integers(-_LATE, _LATE, 11)]
        self._cameras = [_Stream(camera.name, "jpg", image, late[row]) for row, camera in enumerate(self._rig.cameras)]
        self._radars = [_Stream(mount.name, "pcd", cloud, late[6 + row]) for row, mount in enumerate(self._rig.radars)]
        self._lidar = _Stream(self._rig.lidar.name, "pcd.bin", cloud, 0)
        self._annotations: dict[int, list[dict[str, Any]]] = {}

    def _token(self, kind: str, *parts: str | int) -> str:
        return token(self._settings.seed, kind, self._index, *parts)

    def write(self) -> None:
        """Write everything."""
        self._write_scene()
        for frame in range(self._settings.key_frames):
            # How much of each object is visible, over all cameras, decides whether a radar sees it.
            areas = np.zeros(len(self._scene.placement.kinds))
            free = np.zeros_like(areas)
            last = self._settings.key_frames - 1
            for stream, camera in zip(self._cameras, self._rig.cameras, strict=True):
                stamp = self._stamp(frame, stream.late)
                path = self._record(stream, frame, stamp, frame, last)
                view = render_view(self._scene, camera, self._time(stamp))
                areas[view.numbers] += view.areas
                free[view.numbers] += view.free
                write_image(path, view.image[..., ::-1].copy(), _JPEG_QUALITY)
            visible = np.where(areas > 0, free / np.maximum(areas, 1e-12), 1.0)
            # The sweeps before a key frame come first; only returns of the key frame itself are counted.
            radar_points = np.zeros(len(visible), np.int64)
            each = self._settings.sweeps + 1
            for stream, mount in zip(self._radars, self._rig.radars, strict=True):
                for number in range(each):
                    before = (each - 1 - number) * SWEEP_SECONDS * 1e6
                    stamp = self._stamp(frame, stream.late - before)
                    path = self._record(stream, frame, stamp, frame * each + number, each * (last + 1) - 1)
                    points, owners = measure(self._scene, mount, self._time(stamp), visible, self._rng)
                    write_radar(path, points)
                    if number == each - 1:
                        sure = (points["ambig_state"] == UNAMBIGUOUS) & (points["invalid_state"] == 0)
                        radar_points += np.bincount(owners[sure & (owners >= 0)], minlength=len(visible))
            # A ring of ground points: readers ask for the record and its pose, nothing here for the points.
            path = self._record(self._lidar, frame, self._stamp(frame), frame, last)
            angles = np.arange(16) * np.pi / 8
            x, y, level = 10 * np.cos(angles), 10 * np.sin(angles), np.full(16, -1.84)
            path.write_bytes(np.stack([x, y, level, level * 0 + 10, level * 0], 1).astype("<f4").tobytes())
            self._annotate(frame, visible, radar_points)
        # The annotations of each object are linked to a chain once all key frames are known.
        for number, chain in sorted(self._annotations.items()):
            for earlier, later in pairwise(chain):
                earlier["next"], later["prev"] = later["token"], earlier["token"]
            names = KINDS[self._scene.placement.kinds[number]].categories
            look = int(self._scene.placement.looks[number])
            category = names[look // 7 % len(names)] if look % 3 == 0 else names[0]
            instance = {
                "token": self._token("instance", number),
                "category_token": token("category", category),
                "nbr_annotations": len(chain),
                "first_annotation_token": chain[0]["token"],
                "last_annotation_token": chain[-1]["token"],
            }
            self._tables["instance"].append(instance)
            self._tables["sample_annotation"] += chain

    def _write_scene(self) -> None:
        """Write the records of the log, the scene, its key frames and its calibrations."""
        count = self._settings.key_frames
        log = {
            "token": token(self._settings.seed, "log", self._index),
            "logfile": self._log,
            "vehicle": "synthetic",
            "date_captured": "2018-06-26",
            "location": "boston-seaport",
        }
        self._tables["log"].append(log)
        scene = {
            "token": self._token("scene"),
            "log_token": log["token"],
            "nbr_samples": count,
            "first_sample_token": self._token("sample", 0),
            "last_sample_token": self._token("sample", count - 1),
            "name": self._name,
            "description": "Synthetic: a curved road with traffic",
        }
        self._tables["scene"].append(scene)
        for frame in range(count):
            sample = {
                "token": self._token("sample", frame),
                "timestamp": self._stamp(frame),
                "prev": self._token("sample", frame - 1) if frame else "",
                "next": self._token("sample", frame + 1) if frame + 1 < count else "",
                "scene_token": scene["token"],
            }
            self._tables["sample"].append(sample)
        sensors = [(camera.name, camera.ego_from_camera, camera.intrinsics.tolist()) for camera in self._rig.cameras]
        sensors += [(mount.name, mount.ego_from_sensor, []) for mount in (*self._rig.radars, self._rig.lidar)]
        for channel, ego_from_sensor, intrinsics in sensors:
            record = {
                "token": self._token("calibrated_sensor", channel),
                "sensor_token": token("sensor", channel),
                "translation": ego_from_sensor[:3, 3].tolist(),
                "rotation": quaternion(ego_from_sensor[:3, :3]),
                "camera_intrinsic": intrinsics,
            }
            self._tables["calibrated_sensor"].append(record)

    def _stamp(self, frame: int, late: float = 0.0) -> int:
        """Return the time in microseconds of a moment `late` microseconds after a key frame."""
        seconds = frame * KEY_FRAME_SECONDS
        return _EPOCH + self._index * _SCENE_GAP + round(seconds * 1e6 + late)

    def _time(self, stamp: int) -> float:
        """Return seconds after the first key frame."""
        return (stamp - _EPOCH - self._index * _SCENE_GAP) / 1e6

    def _record(self, stream: _Stream, frame: int, stamp: int, number: int, last: int) -> Path:
        """Add the record and ego pose of measurement `number` of 0..last of a channel; return where its file goes."""
        key = stamp == self._stamp(frame, stream.late)
        folder = "samples" if key else "sweeps"
        filename = f"{folder}/{stream.channel}/{self._log}__{stream.channel}__{stamp}.{stream.suffix}"
        pose = self._scene.ego_at(self._time(stamp)).global_from_ego
        ego_pose = {
            "token": self._token("ego_pose", stream.channel, number),
            "timestamp": stamp,
            "rotation": yaw_quaternion(float(np.arctan2(pose[1, 0], pose[0, 0]))),
            "translation": pose[:3, 3].tolist(),
        }
        self._tables["ego_pose"].append(ego_pose)
        record = {
            "token": self._token("sample_data", stream.channel, number),
            "sample_token": self._token("sample", frame),
            "ego_pose_token": ego_pose["token"],
            "calibrated_sensor_token": self._token("calibrated_sensor", stream.channel),
            "timestamp": stamp,
            "fileformat": stream.suffix.partition(".")[0],
            "is_key_frame": key,
            "height": stream.size[0],
            "width": stream.size[1],
            "filename": filename,
            "prev": self._token("sample_data", stream.channel, number - 1) if number else "",
            "next": self._token("sample_data", stream.channel, number + 1) if number < last else "",
        }
        self._tables["sample_data"].append(record)
        path = self._root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _annotate(self, frame: int, visible: Floats, radar_points: Ints) -> None:
        """Keep the annotations of a key frame until their neighbours in time are known."""
        time = frame * KEY_FRAME_SECONDS
        scene = self._scene
        objects = scene.seen(time)
        attributes = scene.attribute_names(objects)
        ego = scene.ego_at(time).global_from_ego[:2, 3]
        distance = np.linalg.norm(objects.centers[:, :2] - ego, axis=1)
        length, width, height = objects.sizes.T
        shown = np.maximum(length, width) * height * visible[objects.numbers]
        lidar = self._rng.poisson(shown * _LIDAR_POINTS / np.maximum(distance, 2) ** 2)
        for row, number in enumerate(objects.numbers.tolist()):
            if visible[number] < _UNSEEN and radar_points[number] == 0:
                continue
            level = next(name for name, _, below in VISIBILITY if visible[number] < below)
            record: dict[str, Any] = {
                "token": self._token("sample_annotation", frame, number),
                "sample_token": self._token("sample", frame),
                "instance_token": self._token("instance", number),
                "visibility_token": level,
                "attribute_tokens": [token("attribute", attributes[row])] if attributes[row] else [],
                "translation": objects.centers[row].tolist(),
                "size": objects.sizes[row, [1, 0, 2]].tolist(),
                "rotation": yaw_quaternion(float(objects.yaws[row])),
                "prev": "",
                "next": "",
                "num_lidar_pts": int(lidar[row]),
                "num_radar_pts": int(radar_points[number]),
            }
            self._annotations.setdefault(number, []).append(record)


def write_nuscenes(
    root: Path, settings: WorldSettings | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a nuScenes root and return it: written to a temporary sibling folder, then renamed.

    Args:
        root: a folder that is not there yet, or is empty.
        settings: what to write.
        on_progress: called with scenes done and scenes in all.

    Raises:
        UserError: `root` is a file or holds something, or it cannot be written.
    """
    settings = settings or WorldSettings()
    tables: Tables = {name: [] for name in TABLES}
    for table, entries in (("category", CATEGORIES), ("attribute", ATTRIBUTES)):
        tables[table] = [{"token": token(table, e), "name": e, "description": f"Synthetic {e}"} for e in entries]
    for number, level, _ in VISIBILITY:
        record = {"token": number, "level": level, "description": f"visibility is {level} percent"}
        tables["visibility"].append(record)
    rig = make_rig(np.random.default_rng(0), settings.width, settings.height)
    sensors = [(camera.name, "camera") for camera in rig.cameras] + [(mount.name, "radar") for mount in rig.radars]
    for channel, modality in (*sensors, (rig.lidar.name, "lidar")):
        tables["sensor"].append({"token": token("sensor", channel), "channel": channel, "modality": modality})
    # An empty map that all drives share.
    filename, logs = f"maps/{token('map')}.png", [token(settings.seed, "log", i) for i in range(settings.scenes)]
    record = {"category": "semantic_prior", "token": token("map"), "filename": filename, "log_tokens": logs}
    tables["map"].append(record)
    names = [f"scene-{_FIRST_NAME + index}" for index in range(settings.scenes)]
    split = settings.scenes - settings.num_val
    shares = {"train": names[:split], "val": names[split:]}
    splits = shares | {f"{OWN_SPLITS}{name}": own for name, own in shares.items()}
    cv2.setNumThreads(1)  # polygons are small: more threads only wait for each other
    with new_root(root, "a synthetic nuScenes root") as beside:
        for index, name in enumerate(names):
            SceneWriter(beside, settings, tables, index, name).write()
            if on_progress:
                on_progress(index + 1, settings.scenes)
        (beside / "maps").mkdir()
        write_image(beside / filename, np.full((64, 64), 255, np.uint8))
        write_tables(beside / settings.version, tables, splits)
    return root
