"""The one real key frame of nuScenes: its annotations, put into tables, come out as another toolbox wrote them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.nuscenes.geometry import boxes_in_camera, inverses
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import CAMERAS
from tests.golden import SHARED

KEYFRAME = SHARED / "data" / "nuscenes_keyframe"
CATEGORIES = {  # of each class of that toolbox, by its label
    0: "vehicle.car",
    1: "vehicle.truck",
    2: "vehicle.trailer",
    3: "vehicle.bus.rigid",
    4: "vehicle.construction",
    5: "vehicle.bicycle",
    6: "vehicle.motorcycle",
    7: "human.pedestrian.adult",
    8: "movable_object.trafficcone",
    9: "movable_object.barrier",
}  # -1: none of the ten
pytestmark = pytest.mark.skipif(not KEYFRAME.is_dir(), reason=f"no real key frame at {KEYFRAME}")


@pytest.fixture(name="frame", scope="module")
def _frame() -> dict[str, Any]:
    return json.loads((KEYFRAME / "keyframe.json").read_text())["data_list"][0]


@pytest.fixture(name="annotated", scope="module")
def _annotated(frame: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> NuscenesSplit:
    """The key frame with tables of annotations, made from the objects that are stored in the lidar frame."""
    root = tmp_path_factory.mktemp("keyframe")
    tables = root / "v1.0-trainval"
    tables.mkdir()
    for table in (KEYFRAME / "v1.0-test").iterdir():
        (tables / table.name).write_bytes(table.read_bytes())
    os.symlink(KEYFRAME / "samples", root / "samples")
    categories = {entry["name"]: entry["token"] for entry in json.loads((tables / "category.json").read_text())}
    global_from_lidar = _rigid(frame["ego2global"]) @ _rigid(frame["lidar_points"]["lidar2ego"])
    annotations: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for number, entry in enumerate(frame["instances"]):
        x, y, z, length, width, height, yaw = entry["bbox_3d"]
        heading = global_from_lidar[:3, :3] @ (math.cos(yaw), math.sin(yaw), 0.0)
        turn = math.atan2(heading[1], heading[0]) / 2  # boxes of nuScenes stand upright
        annotations.append(
            {
                "token": f"annotation-{number}",
                "sample_token": frame["token"],
                "instance_token": f"instance-{number}",
                "attribute_tokens": [],
                "translation": (global_from_lidar @ (x, y, z, 1.0))[:3].tolist(),
                "size": [width, length, height],
                "rotation": [math.cos(turn), 0.0, 0.0, math.sin(turn)],
                "prev": "",
                "next": "",
                "num_lidar_pts": entry["num_lidar_pts"],
                "num_radar_pts": entry["num_radar_pts"],
            }
        )
        category = categories[CATEGORIES.get(entry["bbox_label_3d"], "animal")]
        instances.append({"token": f"instance-{number}", "category_token": category})
    (tables / "sample_annotation.json").write_text(json.dumps(annotations))
    (tables / "instance.json").write_text(json.dumps(instances))
    index = open_nuscenes(root, "v1.0-trainval", cache_dir=root / "cache")
    return NuscenesSplit(index, "train", num_sweeps=3)


def _rigid(matrix: list[list[float]]) -> np.ndarray:
    return np.array(matrix)


def test_the_frame_is_read_without_annotations_and_radar(frame: dict[str, Any], tmp_path: Path) -> None:
    source = NuscenesSplit(open_nuscenes(KEYFRAME, "v1.0-test", cache_dir=tmp_path), "all", num_sweeps=3)
    assert source.sample_tokens == [frame["token"]]
    assert source.scene_names == ["scene-0061"]
    assert len(source) == 6
    assert len(source.ground_truth()) == 0
    for position, camera in enumerate(CAMERAS):
        record = source.record(position)
        assert record.path.name == frame["images"][camera]["img_path"]
        assert record.path.is_file()
        assert len(record.annotations) == 0
        assert source.radar(position).shape == (18, 0)
        np.testing.assert_allclose(record.calib[:, :3], frame["images"][camera]["cam2img"], atol=1e-3)
    np.testing.assert_allclose(source.ego_positions()[0], _rigid(frame["ego2global"])[:3, 3], atol=1e-3)


def test_objects_are_seen_where_they_are_stored(frame: dict[str, Any], annotated: NuscenesSplit) -> None:
    """Of each camera: centres project to the stored places, and so do annotations that come through the tables."""
    for camera in CAMERAS:
        entries = frame["cam_instances"][camera]
        centers = np.array([entry["bbox_3d"][:3] for entry in entries])
        seen = centers @ annotated.record(CAMERAS.index(camera)).calib[:, :3].T
        places, depths = [entry["center_2d"] for entry in entries], [entry["depth"] for entry in entries]
        np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], places, rtol=0, atol=0.01, err_msg=camera)
        np.testing.assert_allclose(seen[:, 2], depths, rtol=0, atol=1e-3, err_msg=camera)
        _check_annotations(camera, frame, annotated)


def _check_annotations(camera: str, frame: dict[str, Any], annotated: NuscenesSplit) -> None:
    number = CAMERAS.index(camera)
    arrays = annotated.index.arrays
    low, high = arrays["seen_offsets"][number : number + 2]
    seen = arrays["seen"][low:high]
    entries = frame["cam_instances"][camera]
    distance = np.abs(seen["amodel_center"][:, None] - np.array([entry["center_2d"] for entry in entries])[None]).max(
        -1
    )
    nearest = distance.argmin(0)  # of each stored object
    assert len(set(nearest.tolist())) == len(entries)
    assert distance.min(0).max() < 0.01
    np.testing.assert_allclose(seen["location"][nearest, 2], [entry["depth"] for entry in entries], rtol=0, atol=1e-3)
    rows = arrays["annotations"][seen["annotation"][nearest]]
    record = annotated.record(number)
    cam_from_global = np.repeat(inverses(record.global_from_cam)[None], len(rows), 0)
    corners = boxes_in_camera(rows, cam_from_global)[2]
    found = [_cut_hull(points[points[:, 2] > 0], record.calib, record.width, record.height) for points in corners]
    np.testing.assert_allclose(found, [entry["bbox"] for entry in entries], rtol=0, atol=1.0)


def _cut_hull(corners: np.ndarray, calib: np.ndarray, width: int, height: int) -> list[float]:
    """xyxy of the part of the corners' convex hull that lies in the image."""
    seen = corners @ calib[:, :3].T
    hull = cv2.convexHull((seen[:, :2] / seen[:, 2:]).astype(np.float32))
    image = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    part = cv2.intersectConvexConvex(hull, image)[1].reshape(-1, 2)
    return [*part.min(0), *part.max(0)]
