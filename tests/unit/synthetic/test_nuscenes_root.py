"""The synthetic nuScenes root: links of its tables, motion, radar, pictures, and what is refused."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.centerfusion.verbs.demo import FusionDemoSettings
from boxwright.errors import UserError
from boxwright.nuscenes.radar import RADAR_DTYPE
from boxwright.nuscenes.structures import CAMERAS, CLASS_NAMES, RADAR_FIELDS
from boxwright.nuscenes.write import TABLES, quaternion
from boxwright.synthetic.camera import cuboid_corners, transform
from boxwright.synthetic.catalog import CATEGORIES, KIND_OF, KINDS, make_rig
from boxwright.synthetic.nuscenes_root import write_nuscenes, yaw_quaternion
from boxwright.synthetic.radar import measure
from boxwright.synthetic.render import render_view
from boxwright.synthetic.world import KEY_FRAME_SECONDS, SEEN_RADIUS, STILL, WorldSettings, make_scene

SETTINGS = WorldSettings(scenes=2, key_frames=4, width=320, height=180, sweeps=2, objects=50, val_fraction=0.5)
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")

Records = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes(tmp_path_factory.mktemp("made") / "nuscenes ünïcødé", SETTINGS)


@pytest.fixture(scope="module")
def tables(root: Path) -> dict[str, Records]:
    """Each table by token, in the order of its file."""
    read = {name: json.loads((root / SETTINGS.version / f"{name}.json").read_text("utf-8")) for name in TABLES}
    for name, records in read.items():
        assert len({record["token"] for record in records}) == len(records), name
    return {name: {record["token"]: record for record in records} for name, records in read.items()}


def read_points(path: Path) -> NDArray[np.void]:
    data = path.read_bytes()
    start = data.index(b"DATA binary\n") + len(b"DATA binary\n")
    count = int(data[:start].split(b"POINTS ")[1].split()[0])
    assert len(data) == start + count * RADAR_DTYPE.itemsize + 1
    return np.frombuffer(data, RADAR_DTYPE, count, start)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [str(path.relative_to(folder)).encode() + path.read_bytes() for path in files]
    return hashlib.blake2b(b"".join(parts)).hexdigest()


def test_tokens_lead_somewhere(tables: dict[str, Records]) -> None:
    leads = {
        "calibrated_sensor": {"sensor_token": "sensor"},
        "instance": {
            "category_token": "category",
            "first_annotation_token": "sample_annotation",
            "last_annotation_token": "sample_annotation",
        },
        "sample": {"scene_token": "scene"},
        "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
        "sample_annotation": {
            "sample_token": "sample",
            "instance_token": "instance",
            "visibility_token": "visibility",
        },
        "sample_data": {
            "sample_token": "sample",
            "ego_pose_token": "ego_pose",
            "calibrated_sensor_token": "calibrated_sensor",
        },
    }
    for table, fields in leads.items():
        assert tables[table]
        for record in tables[table].values():
            for field, target in fields.items():
                assert record[field] in tables[target], f"{table}.{field}"
    for record in tables["sample_annotation"].values():
        assert set(record["attribute_tokens"]) <= set(tables["attribute"])
    assert {token for record in tables["map"].values() for token in record["log_tokens"]} == set(tables["log"])
    assert [record["name"] for record in tables["category"].values()] == list(CATEGORIES)
    assert len(tables["attribute"]) == 8


@pytest.mark.parametrize(("table", "owner"), [("sample", "scene_token"), ("sample_annotation", "instance_token")])
def test_chains_are_whole(tables: dict[str, Records], table: str, owner: str) -> None:
    records = tables[table]
    heads = [record for record in records.values() if not record["prev"]]
    assert len(heads) == len({record[owner] for record in records.values()})
    seen = 0
    for record in heads:
        seen += 1
        while record["next"]:
            later = records[record["next"]]
            assert later["prev"] == record["token"]
            assert later[owner] == record[owner]
            record, seen = later, seen + 1
    assert seen == len(records)


def test_each_key_frame_has_all_sensors_and_radars_have_sweeps(root: Path, tables: dict[str, Records]) -> None:
    channels = {
        token: tables["sensor"][record["sensor_token"]]["channel"]
        for token, record in tables["calibrated_sensor"].items()
    }
    keys: dict[str, list[str]] = {}
    for record in tables["sample_data"].values():
        channel = channels[record["calibrated_sensor_token"]]
        assert (root / record["filename"]).is_file()
        folder = "samples" if record["is_key_frame"] else "sweeps"
        assert record["filename"].startswith(f"{folder}/{channel}/")
        assert record["timestamp"] == tables["ego_pose"][record["ego_pose_token"]]["timestamp"]
        if record["is_key_frame"]:
            keys.setdefault(record["sample_token"], []).append(channel)
        else:
            assert channel in RADARS
        if record["next"]:
            later = tables["sample_data"][record["next"]]
            assert later["prev"] == record["token"]
            assert later["timestamp"] > record["timestamp"]
            assert later["calibrated_sensor_token"] == record["calibrated_sensor_token"]
    assert len(keys) == SETTINGS.scenes * SETTINGS.key_frames
    for found in keys.values():
        assert sorted(found) == sorted((*CAMERAS, *RADARS, "LIDAR_TOP"))
    sweeps = [record for record in tables["sample_data"].values() if not record["is_key_frame"]]
    assert len(sweeps) == len(keys) * len(RADARS) * SETTINGS.sweeps
    image = cv2.imread(str(root / next(iter(tables["sample_data"].values()))["filename"]))
    assert image is not None
    assert image.shape == (SETTINGS.height, SETTINGS.width, 3)


def test_splits_share_no_scene(root: Path, tables: dict[str, Records]) -> None:
    splits = json.loads((root / SETTINGS.version / "splits.json").read_text("utf-8"))
    assert splits["train"] == splits["synthetic_train"] == ["scene-9001"]
    # The devkit reads from this file only names that are none of its own.
    assert splits["val"] == splits["synthetic_val"] == ["scene-9002"]
    assert [record["name"] for record in tables["scene"].values()] == ["scene-9001", "scene-9002"]


def test_velocities_of_neighbour_annotations_are_those_of_the_world(tables: dict[str, Records]) -> None:
    """Two-sided differences over a second, against the true velocity between: curves and brakes make a difference."""
    scenes = {name: make_scene(SETTINGS, index) for index, name in enumerate(("scene-9001", "scene-9002"))}
    annotations, samples = tables["sample_annotation"], tables["sample"]
    fast = 0
    for record in annotations.values():
        if not (record["prev"] and record["next"]):
            continue
        sample = samples[record["sample_token"]]
        around = [annotations[record[side]] for side in ("prev", "next")]
        stamps = [samples[other["sample_token"]]["timestamp"] for other in around]
        if stamps[1] - stamps[0] > 1.1e6:
            continue
        scene_record = tables["scene"][sample["scene_token"]]
        start = samples[scene_record["first_sample_token"]]["timestamp"]
        objects = scenes[scene_record["name"]].at((sample["timestamp"] - start) / 1e6)
        row = int(np.linalg.norm(objects.centers - record["translation"], axis=1).argmin())
        assert np.allclose(objects.centers[row], record["translation"], atol=1e-9)
        difference = np.subtract(around[1]["translation"], around[0]["translation"]) / (stamps[1] - stamps[0]) * 1e6
        assert np.linalg.norm(difference - objects.velocities[row]) < 0.35 + 0.06 * np.linalg.norm(difference)
        fast += bool(np.linalg.norm(difference) > 3)
    assert fast > 10


def test_attributes_say_how_objects_move(tables: dict[str, Records]) -> None:
    names = {token: record["name"] for token, record in tables["attribute"].items()}
    found = Counter(
        names[token] for record in tables["sample_annotation"].values() for token in record["attribute_tokens"]
    )
    assert {"vehicle.moving", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"} <= set(found)
    for index in range(4):
        scene = make_scene(SETTINGS, index)
        for time in (0.0, 1.5):
            objects = scene.at(time)
            speed = np.linalg.norm(objects.velocities, axis=1)
            for row, name in enumerate(scene.attribute_names(objects)):
                kind = KINDS[objects.kinds[row]].name
                assert bool(name) == (kind in CLASS_NAMES[:8])
                if name.endswith("moving"):
                    assert speed[row] > STILL
                    heading = np.array([np.cos(objects.yaws[row]), np.sin(objects.yaws[row])])
                    assert heading @ objects.velocities[row, :2] > 0.8 * speed[row]
                elif name.startswith(("vehicle", "pedestrian")):
                    assert speed[row] <= STILL


def test_objects_do_not_touch() -> None:
    for index in range(3):
        scene = make_scene(SETTINGS, index)
        rack = scene.placement.kinds == KIND_OF["bicycle_rack"]
        for time in np.arange(0, SETTINGS.duration, 0.25):
            objects = scene.at(float(time)).take(np.flatnonzero(~rack))
            short = objects.sizes[:, :2].min(1) / 2
            apart = np.linalg.norm(objects.centers[:, None, :2] - objects.centers[None, :, :2], axis=-1)
            np.fill_diagonal(apart, np.inf)
            assert (apart > (short[:, None] + short)).all()
            ego = np.linalg.inv(scene.ego_at(float(time)).global_from_ego).astype(np.float64)
            local = transform(ego, objects.centers)
            assert (np.hypot(local[:, 0] - 1.3, local[:, 1]) > 1.9).all()


def test_ego_moves_and_turns_as_its_velocity_says() -> None:
    turned = 0.0
    for index in range(6):
        scene = make_scene(SETTINGS, index)
        for time in (0.2, 0.9):
            before, now, after = (scene.ego_at(time + step) for step in (-0.02, 0.0, 0.02))
            moved = (after.global_from_ego - before.global_from_ego)[:3, 3] / 0.04
            assert np.allclose(moved, now.velocity, atol=0.1)
            turned = max(turned, abs(now.yaw_rate))
    assert turned > 0.03


@pytest.mark.parametrize("index", [0, 1, 2])
def test_radar_returns_of_objects_show_their_radial_velocity(index: int) -> None:
    scene = make_scene(SETTINGS, index)
    rig = make_rig(np.random.default_rng(0), 320, 180)
    rng = np.random.default_rng(1)
    time = 0.7
    objects, ego = scene.at(time), scene.ego_at(time)
    errors: list[NDArray[np.float64]] = []
    for mount in rig.radars:
        points, owners = measure(scene, mount, time, np.ones(len(objects)), rng)
        points, owners = points[owners >= 0], owners[owners >= 0]
        pose = ego.global_from_ego @ mount.ego_from_sensor
        where = np.stack([points["x"], points["y"]], 1).astype(np.float64)
        rays = where / np.linalg.norm(where, axis=1, keepdims=True)
        velocities = (objects.velocities[owners] @ pose[:3, :3])[:, :2]
        radial = (velocities * rays).sum(1, keepdims=True) * rays
        errors.append(np.stack([points["vx_comp"], points["vy_comp"]], 1) - radial)
        # Relative to the sensor: its own motion, measured by two poses, is taken off.
        step = 0.01
        ends = [scene.ego_at(time + t).global_from_ego @ mount.ego_from_sensor for t in (-step, step)]
        own = ((ends[1] - ends[0])[:3, 3] / (2 * step)) @ pose[:3, :3]
        relative = points["vx"] * rays[:, 0] + points["vy"] * rays[:, 1]
        compensated = points["vx_comp"] * rays[:, 0] + points["vy_comp"] * rays[:, 1]
        assert np.allclose(relative + rays @ own[:2], compensated, atol=0.1)
        on_ground = transform(pose, np.column_stack([where, np.zeros(len(where))]))
        sizes = objects.sizes[owners]
        distance = np.linalg.norm((on_ground - objects.centers[owners])[:, :2], axis=1)
        assert (distance < np.hypot(sizes[:, 0], sizes[:, 1]) / 2 + 1.0).all()
    assert sum(map(len, errors)) > 60
    assert np.linalg.norm(np.concatenate(errors), axis=1).max() < 0.5


def test_radar_files_have_the_published_layout(root: Path) -> None:
    assert RADAR_DTYPE.names == RADAR_FIELDS
    assert RADAR_DTYPE.itemsize == 43
    files = sorted((root / "samples" / "RADAR_FRONT").iterdir())
    assert len(files) == SETTINGS.scenes * SETTINGS.key_frames
    points = np.concatenate([read_points(path) for path in files])
    assert (points["z"] == 0).all()
    assert (points["x"] > 0).all()  # the field of view
    trusted = (points["invalid_state"] == 0) & (points["ambig_state"] == 3)
    assert 0.8 < trusted.mean() < 1
    assert set(points["dyn_prop"].tolist()) >= {0, 1}


def test_objects_are_painted_where_their_boxes_are() -> None:
    """With an object and without it: the pixels that change lie in its box, and fill a good part of it."""
    settings = WorldSettings(width=320, height=180, objects=50)
    camera = make_rig(np.random.default_rng(0), 320, 180).cameras[0]
    scene = make_scene(settings, 1)
    with_all = render_view(scene, camera, 0.0)
    camera_from_global = camera.camera_from_global(scene.ego_at(0.0).global_from_ego)
    objects = scene.at(0.0)
    checked = 0
    for number, free in zip(with_all.numbers, with_all.free, strict=True):
        corners = transform(
            camera_from_global,
            cuboid_corners(*(column[[number]] for column in (objects.centers, objects.sizes, objects.yaws)))[0],
        )
        if free < 0.002 or corners[:, 2].min() < 1 or objects.kinds[number] == KIND_OF["bicycle_rack"]:
            continue
        pixels = camera.project(corners)
        low = np.clip(np.floor(pixels.min(0)) - 1, 0, (320, 180)).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 2, 0, (320, 180)).astype(int)
        scene.placement.sizes[number] *= 1e-3  # as good as gone
        without = render_view(scene, camera, 0.0).image
        scene.placement.sizes[number] *= 1e3
        changed = np.abs(with_all.image.astype(int) - without).max(-1) > 12
        inside = changed[low[1] : high[1], low[0] : high[0]]
        assert inside.sum() > 0.35 * free * 320 * 180
        assert inside.sum() > 0.75 * changed.sum()  # the rest is its shadow
        checked += 1
    assert checked > 4


def test_annotations_are_near_and_counted(tables: dict[str, Records]) -> None:
    poses = {
        record["sample_token"]: tables["ego_pose"][record["ego_pose_token"]]["translation"]
        for record in tables["sample_data"].values()
        if "LIDAR_TOP" in record["filename"]
    }
    known = {name for kind in KINDS for name in kind.categories}
    kinds: Counter[str] = Counter()
    for record in tables["sample_annotation"].values():
        away = np.subtract(record["translation"], poses[record["sample_token"]])[:2]
        assert np.linalg.norm(away) < SEEN_RADIUS + 1e-6
        assert min(record["size"]) > 0.2
        assert record["num_lidar_pts"] >= 0
        kinds[tables["category"][tables["instance"][record["instance_token"]]["category_token"]]["name"]] += 1
    assert set(kinds) <= known
    assert len(kinds) >= 9
    vehicles = [r for r in tables["sample_annotation"].values() if r["size"][1] > 3 and r["visibility_token"] == "4"]
    assert np.mean([r["num_radar_pts"] >= 3 for r in vehicles]) > 0.8


def test_the_same_seed_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    small = WorldSettings(scenes=1, key_frames=2, width=64, height=36, sweeps=1, seed=5)
    first = write_nuscenes(tmp_path / "first", small)
    again = write_nuscenes(tmp_path / "again", small)
    assert digest(first) == digest(again)
    other = write_nuscenes(tmp_path / "other", replace(small, seed=6))
    assert digest(first) != digest(other)
    assert digest(root) != digest(first)


@pytest.mark.parametrize("objects", [0, 1, 30])
def test_smallest_roots(tmp_path: Path, objects: int) -> None:
    settings = WorldSettings(scenes=1, key_frames=1, width=16, height=9, sweeps=0, objects=objects)
    (tmp_path / "empty").mkdir()
    made = write_nuscenes(tmp_path / "empty", settings)
    folder = made / "v1.0-mini"
    assert len(json.loads((folder / "sample.json").read_text("utf-8"))) == 1
    assert len(json.loads((folder / "sample_annotation.json").read_text("utf-8"))) <= objects
    splits = json.loads((folder / "splits.json").read_text("utf-8"))
    assert (splits["train"], splits["val"]) == (["scene-9001"], [])
    assert not (made / "sweeps").exists()


def test_mistakes_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match="there already"):
        write_nuscenes(full, SETTINGS)
    assert (full / "mine.txt").read_text(encoding="utf-8") == "kept"

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("boxwright.synthetic.nuscenes_root.write_radar", broken)
    with pytest.raises(UserError, match="No space left"):
        write_nuscenes(tmp_path / "new", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(
    "wrong",
    [{"scenes": 0}, {"key_frames": 0}, {"width": -3}, {"sweeps": 7}, {"objects": -1}, {"version": "../x"}],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        WorldSettings(**wrong)


def test_quaternions_turn_as_their_matrix() -> None:
    rig = make_rig(np.random.default_rng(3), 64, 36)
    for camera in rig.cameras:
        w, x, y, z = quaternion(camera.ego_from_camera[:3, :3])
        axis = np.array([x, y, z])
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        matrix = np.eye(3) + 2 * w * skew + 2 * skew @ skew
        assert np.isclose(w * w + axis @ axis, 1)
        assert np.allclose(matrix, camera.ego_from_camera[:3, :3], atol=1e-12)
    assert np.allclose(np.abs(yaw_quaternion(np.pi)), (0, 0, 0, 1))


def test_demo_scenes_show_all_classes_at_useful_distances() -> None:
    settings = FusionDemoSettings().world
    assert (settings.scenes - settings.num_val, settings.num_val) == (24, 4)
    counts, distances = np.zeros(len(KINDS), int), []
    for index in range(settings.scenes):
        scene = make_scene(settings, index)
        time = settings.key_frames // 2 * KEY_FRAME_SECONDS
        objects = scene.seen(time)
        counts += np.bincount(objects.kinds, minlength=len(counts))
        here = scene.ego_at(time).global_from_ego[:2, 3]
        distances.append(np.linalg.norm(objects.centers[:, :2] - here, axis=1))
    assert counts[:10].min() > 12
    assert (np.concatenate(distances) < 35).mean() > 0.7
