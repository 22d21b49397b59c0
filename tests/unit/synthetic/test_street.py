"""The synthetic street: determinism, geometry of labels, and files that the readers accept without a complaint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.dataset import open_dataset
from boxwright.synthetic.camera import clip_near, cuboid_corners, mounted_camera, transform
from boxwright.synthetic.catalog import KINDS, NAMES
from boxwright.synthetic.render import Limits, render
from boxwright.synthetic.shapes import shape_of
from boxwright.synthetic.world import make_scene
from boxwright.synthetic.write import StreetSettings, front_camera, write_street

CAMERA = front_camera(160, 96)


def test_a_frame_is_a_function_of_seed_scene_and_time() -> None:
    first = render(make_scene(3, 7), CAMERA, 2.5)
    render(make_scene(3, 8), CAMERA, 0.0)  # what is drawn in between must not matter
    again = render(make_scene(3, 7), CAMERA, 2.5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    for other in (render(make_scene(4, 7), CAMERA, 2.5), render(make_scene(3, 9), CAMERA, 2.5)):
        assert not np.array_equal(first.image, other.image)


def test_boxes_are_the_extent_of_the_projected_corners_cut_by_the_image() -> None:
    checked = 0
    for index in range(12):
        scene = make_scene(0, index)
        frame = render(scene, CAMERA, 4.0)
        objects = scene.at(4.0)
        camera_from_global = CAMERA.camera_from_global(scene.global_from_ego(4.0))
        for box, label, instance in zip(frame.boxes, frame.labels, frame.instance_ids, strict=True):
            row = objects.take(np.flatnonzero(objects.instance_ids == instance))
            assert row.class_ids[0] == label
            corners = transform(camera_from_global, cuboid_corners(row.centers, row.sizes, row.yaws)[0])
            if corners[:, 2].min() < 1:
                continue
            pixels = np.array([CAMERA.intrinsics @ (corner / corner[2]) for corner in corners])[:, :2]
            expected = np.concatenate([pixels.min(0), pixels.max(0)]).clip(0, [160, 96, 160, 96])
            assert box == pytest.approx(expected, abs=1e-9)
            checked += 1
    assert checked > 30


def test_labels_keep_the_limits() -> None:
    limits = Limits(min_side=12, min_visible=0.6)
    loose = Limits(min_side=3, min_visible=0.1)
    for index in range(8):
        scene = make_scene(1, index)
        strict = render(scene, CAMERA, 0.0, limits=limits)
        assert (np.minimum(*(strict.boxes[:, 2:] - strict.boxes[:, :2]).T) >= 12).all() or not len(strict.boxes)
        assert (strict.visibility >= 0.6).all()
        more = render(scene, CAMERA, 0.0, limits=loose)
        assert set(strict.instance_ids) <= set(more.instance_ids)
        assert np.array_equal(strict.image, more.image)


def test_what_stands_behind_another_is_less_visible() -> None:
    """Of two objects whose boxes overlap, the nearer one has lost nothing to the other."""
    frame = render(make_scene(0, 0), CAMERA, 0.0, limits=Limits(min_side=1, min_visible=0.0))
    assert frame.visibility[0] == 1  # nearest first
    assert frame.visibility.min() < 0.9
    assert (frame.visibility <= 1).all()


def test_objects_move_with_their_velocity_and_keep_their_identity() -> None:
    scene = make_scene(0, 5)
    start, later = scene.at(0.0), scene.at(3.0)
    assert np.array_equal(start.instance_ids, later.instance_ids)
    assert later.centers - start.centers == pytest.approx(3 * start.velocities)
    assert (np.linalg.norm(start.velocities, axis=1) > 1).any()
    assert scene.global_from_ego(3.0)[0, 3] == pytest.approx(3 * scene.ego_speed)


def test_nothing_leaves_its_strip_or_runs_into_the_ego_vehicle() -> None:
    for index in range(20):
        scene = make_scene(0, index)
        assert np.abs(scene.objects.velocities[:, 1]).max() < 1e-9
        for time in (0.0, 10.0, 20.0):
            eye = scene.global_from_ego(time)[:2, 3] + (1.7, 0)
            objects = scene.at(time)
            apart = np.abs(objects.centers[:, :2] - eye) - objects.sizes[:, :2] / 2
            straight = np.abs(np.sin(objects.yaws)) < 0.1
            assert (apart[straight].max(1) > 0.3).all()


def test_objects_stand_on_the_ground_with_sizes_near_their_class() -> None:
    objects = make_scene(0, 2).objects
    mean = np.array([KINDS[i].size for i in objects.class_ids])
    assert objects.centers[:, 2] == pytest.approx(objects.sizes[:, 2] / 2)
    assert (np.abs(objects.sizes / mean - 1) <= 0.2501).all()


def test_each_class_is_in_the_world() -> None:
    seen = np.concatenate([make_scene(0, index).objects.class_ids for index in range(5)])
    assert set(seen.tolist()) == set(range(len(NAMES)))


@pytest.mark.parametrize("class_id", range(len(NAMES)))
def test_shapes_fill_their_cuboid_and_do_not_leave_it(class_id: int) -> None:
    for look in range(3):
        points = shape_of(class_id, look).vertices.reshape(-1, 3)
        assert points.min(0) == pytest.approx([-0.5, -0.5, 0.0], abs=0.03)
        assert points.max(0) == pytest.approx([0.5, 0.5, 1.0], abs=0.03)


def test_a_camera_that_looks_left_sees_what_is_on_the_left() -> None:
    camera = mounted_camera("CAM_LEFT", 160, 96, position_ego=(1.0, 0.5, 1.5), yaw=np.pi / 2)
    point = transform(camera.camera_from_global(np.eye(4)), np.array([[1.0, 10.5, 1.5]]))
    assert point[0] == pytest.approx([0, 0, 10], abs=1e-9)
    assert camera.project(point)[0] == pytest.approx([80, 48])


def test_pitch_looks_down() -> None:
    camera = mounted_camera("CAM", 160, 96, position_ego=(0.0, 0.0, 1.5), pitch=0.1)
    ahead = transform(camera.camera_from_global(np.eye(4)), np.array([[20.0, 0.0, 1.5]]))
    assert camera.project(ahead)[0, 1] < 48  # what is level lies above the middle


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([[-1.0, 1, -2], [1, 1, -2], [1, 1, 6], [-1, 1, 6]])
    assert clip_near(square)[:, 2].min() == pytest.approx(0.4)
    assert len(clip_near(square)) == 4
    assert clip_near(square - (0, 0, 10)).shape == (0, 3)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Straße mit Bäumen")
    settings = StreetSettings(scenes=(("train", 3), ("val", 2)), frames=2, width=160, height=96)
    return write_street(folder, settings)


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 4)])
def test_the_files_are_read_without_a_complaint(street: Path, split: str, count: int, tmp_path: Path) -> None:
    index = open_dataset(street, split, cache_dir=tmp_path)
    assert len(index) == count
    assert index.names == NAMES
    assert not index.problems
    assert len(index.boxes) > count
    coco = json.loads((street.parent / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    assert len(coco["annotations"]) == len(index.boxes)
    assert [image["file_name"] for image in coco["images"]] == [index.path(i).name for i in range(count)]
    boxes = np.array([entry["bbox"] for entry in coco["annotations"]]) / [160, 96, 160, 96]
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    assert np.concatenate([centers, boxes[:, 2:]], 1) == pytest.approx(index.boxes, abs=1e-4)


def test_splits_share_no_scene(street: Path) -> None:
    scenes = [{p.stem.split("_")[2] for p in (street.parent / "images" / s).iterdir()} for s in ("train", "val")]
    assert not scenes[0] & scenes[1]


def test_files_do_not_depend_on_the_number_of_processes(street: Path, tmp_path: Path) -> None:
    settings = StreetSettings(scenes=(("train", 3), ("val", 2)), frames=2, width=160, height=96)
    write_street(tmp_path, settings, processes=2)
    for path in sorted(street.parent.rglob("*")):
        if path.suffix in {".jpg", ".txt", ".json", ".yaml"}:
            assert path.read_bytes() == (tmp_path / path.relative_to(street.parent)).read_bytes(), path.name
