"""A nuScenes root of plain arrays: what comes out of the index is what was put in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.errors import UserError
from boxwright.nuscenes import OwnBoxes, OwnCamera, OwnFrame, OwnRadar, write_root
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.radar import RADAR_DTYPE, read_radar, write_radar
from boxwright.nuscenes.split import EVERYTHING, NuscenesSplit
from boxwright.nuscenes.structures import RADAR_FIELDS

EGO_FROM_CAM = np.array([(0.0, 0, 1, 1.5), (-1, 0, 0, 0.25), (0, -1, 0, 1.25), (0, 0, 0, 1)])
EGO_FROM_RADAR = np.array([(1.0, 0, 0, 3.5), (0, 1, 0, 0), (0, 0, 1, 0.5), (0, 0, 0, 1)])
INTRINSICS = np.array([(80.0, 0, 64), (0, 80, 36), (0, 0, 1)])
PIXELS = np.full((72, 128, 3), (250, 128, 3), np.uint8)
CENTERS = np.array([(20.0, 1, 0.75), (12, -2, 1)])
POINTS = np.array([(16.5, 1.0, 0, 4, 0.5), (8.5, -2, 0, 0, 0)])


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pose(second: float) -> np.ndarray:
    """A car that turned by a quarter to the left and drives 4 m/s."""
    return np.array([(0.0, -1, 0, 100), (1, 0, 0, 50 + 4 * second), (0, 0, 1, 0), (0, 0, 0, 1)])


def drive(**changes: Any) -> Iterator[OwnFrame]:
    for number in range(3):
        second = number / 2
        time = round(1e6 * second) + 10**15
        earlier = OwnRadar(POINTS, EGO_FROM_RADAR, time - 75_000, pose(second - 0.075))
        boxes = OwnBoxes(
            ["car", "human.pedestrian.child"],
            CENTERS,
            np.array([(1.9, 4.5, 1.5), (0.5, 0.6, 2)]),
            np.array([0.0, 1.0]),
            tracks=["a", "b"],
            attributes=["vehicle.moving", ""],
        )
        yield replace(
            OwnFrame(
                time,
                pose(second),
                {"CAM_FRONT": OwnCamera(PIXELS, INTRINSICS, EGO_FROM_CAM)},
                {"RADAR_FRONT": [earlier, OwnRadar(POINTS, EGO_FROM_RADAR)]},
                boxes,
            ),
            **changes,
        )


def test_arrays_come_back(tmp_path: Path) -> None:
    root = write_root(tmp_path / "own", {f"drive-{number}": drive() for number in range(2)})
    index = open_nuscenes(root, "v1.0-own")
    split = NuscenesSplit(index, "val", 2)
    assert split.scene_names == ["drive-1"] == NuscenesSplit(index, "own_val").scene_names
    assert len(split) == 3
    record = split.record(1)
    assert (record.width, record.height) == (128, 72)
    np.testing.assert_allclose(record.calib[:, :3], INTRINSICS)
    np.testing.assert_allclose(record.global_from_cam, pose(0.5) @ EGO_FROM_CAM, atol=1e-12)
    assert np.abs(cv2.imread(str(record.path)).astype(int) - PIXELS[..., ::-1]).max() < 4
    seen = record.annotations
    assert seen.labels.tolist() == [0, 5]
    # The centre of the bottom face, in the camera: right, down, forward.
    np.testing.assert_allclose(seen.locations, [(-0.75, 1.25, 18.5), (2.25, 1.25, 10.5)], atol=1e-9)
    np.testing.assert_allclose(seen.rotation_y, [-np.pi / 2, -np.pi / 2 - 1], atol=1e-9)
    np.testing.assert_allclose(seen.velocity_cam[0], (0, 0, 4), atol=1e-6)  # it keeps its place before the car
    assert seen.attributes.tolist()[1] == -1
    points = split.radar(1)  # the older sweep was measured 0.3 m further back
    assert points.shape == (len(RADAR_FIELDS), 4)
    np.testing.assert_allclose(np.sort(points[2]), [10.2, 10.5, 18.2, 18.5], atol=1e-5)
    np.testing.assert_allclose(points[[8, 9], 0], (-0.5, 4), atol=1e-6)


def test_no_tracks_no_velocities_and_a_file_is_copied(tmp_path: Path) -> None:
    image = tmp_path / "front.png"
    cv2.imwrite(str(image), PIXELS)
    boxes = OwnBoxes(["barrier"], CENTERS[:1], np.ones((1, 3)), np.zeros(1))
    camera = OwnCamera(image, INTRINSICS, EGO_FROM_CAM)
    scenes = {"only": drive(boxes=boxes, cameras={"CAM_FRONT": camera}, radars={})}
    root = write_root(tmp_path / "own", scenes)
    split = NuscenesSplit(open_nuscenes(root, "v1.0-own"), EVERYTHING, 3)
    assert split.record(0).path.read_bytes() == image.read_bytes()
    assert np.isnan(split.record(1).annotations.velocity_cam).all()
    assert split.radar(0).shape == (len(RADAR_FIELDS), 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cameras": {"CAM_TOP": None}}, "key frame 1: there is no channel CAM_TOP; cameras are CAM_FRONT, "),
        ({"cameras": {}}, "no camera is given"),
        ({"global_from_ego": np.eye(4) * 2}, "the pose of car should be a .4, 4. matrix of a rotation"),
        ({"timestamp": 5, "radars": {}}, "key frame 2: its time 5 is not after that of the key frame before"),
        ({"radars": {"RADAR_FRONT": [OwnRadar(POINTS[:, :4], np.eye(4))]}}, r"points of RADAR_FRONT .* not \(2, 4\)"),
        ({"radars": {"RADAR_FRONT": [OwnRadar(POINTS * np.nan, np.eye(4))]}}, "a number that is not finite"),
        ({"boxes": OwnBoxes(["cat"], CENTERS[:1], np.ones((1, 3)), np.zeros(1))}, "there is no class cat; there are"),
        ({"boxes": OwnBoxes(["car"], CENTERS, np.ones((2, 3)), np.zeros(2))}, r"centers of boxes should be \(1, 3\)"),
        ({"boxes": OwnBoxes(["car"], CENTERS[:1], np.zeros((1, 3)), np.zeros(1))}, "size of a box should be above 0"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        write_root(tmp_path / "own", {"drive": drive(**changes)})
    assert list(tmp_path.iterdir()) == []


def test_splits_name_their_scenes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="splits name the scene b, which is not among the scenes"):
        write_root(tmp_path / "own", {"a": drive()}, splits={"train": ["a", "b"]})
    root = write_root(tmp_path / "own", {"a": drive()}, splits={"night": ["a"]}, version="v2")
    assert json.loads((root / "v2/splits.json").read_text()) == {"night": ["a"], "own_night": ["a"]}
    with pytest.raises(UserError, match="is there already"):
        write_root(root, {"a": drive()})


def test_a_sweep_reads_back_the_same(tmp_path: Path) -> None:
    points = np.zeros(3, RADAR_DTYPE)
    for number, name in enumerate(RADAR_FIELDS):
        points[name] = np.arange(3) + number
    write_radar(tmp_path / "a.pcd", points)
    read = read_radar(tmp_path / "a.pcd", None)
    assert np.array_equal(read, [points[name].astype(np.float32) for name in RADAR_FIELDS])
