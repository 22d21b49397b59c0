"""The world as a YOLO data set: determinism, geometry of labels, files that readers accept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.dataset import Split, open_dataset
from boxwright.synthetic.camera import clip_near, cuboid_corners, drawing_camera, transform
from boxwright.synthetic.catalog import KINDS, NAMES, make_rig, shape_of
from boxwright.synthetic.render import render_view
from boxwright.synthetic.world import WorldSettings, make_scene
from boxwright.synthetic.yolo_set import YoloSetSettings, select_labels, write_yolo_set

WORLD = WorldSettings(width=160, height=96)
CAMERAS = make_rig(np.random.default_rng(0), 160, 96).cameras
SMALL = YoloSetSettings(scenes=(("train", 2), ("val", 1)), width=160, height=96)


def test_a_view_is_a_function_of_seed_scene_camera_and_time() -> None:
    first = render_view(make_scene(WORLD, 7), CAMERAS[0], 2.5)
    render_view(make_scene(WORLD, 8), CAMERAS[0], 0.0)  # what is drawn in between must not matter
    again = render_view(make_scene(WORLD, 7), CAMERAS[0], 2.5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    for seed, index, camera in ((1, 7, 0), (0, 9, 0), (0, 7, 3)):
        other = render_view(make_scene(replace(WORLD, seed=seed), index), CAMERAS[camera], 2.5)
        assert not np.array_equal(first.image, other.image)


def test_boxes_are_the_extent_of_the_projected_corners_cut_by_the_image() -> None:
    checked = 0
    for width in (160, 480):  # above 240 pixels visibility is measured on a smaller image
        for camera in make_rig(np.random.default_rng(0), width, 96).cameras:
            scene = make_scene(WORLD, 1)
            view = render_view(scene, camera, 1.0)
            objects = scene.at(1.0).take(view.numbers)
            camera_from_global = camera.camera_from_global(scene.ego_at(1.0).global_from_ego)
            all_corners = transform(camera_from_global, cuboid_corners(objects.centers, objects.sizes, objects.yaws))
            assert (view.boxes >= 0).all()
            assert (view.boxes <= [width, 96, width, 96]).all()
            for box, corners in zip(view.boxes, all_corners, strict=True):
                if corners[:, 2].min() < 1:
                    continue
                # The centre of the first pixel is 0, 0 for nuScenes, and .5, .5 for boxes.
                pixels = np.array([camera.intrinsics @ (corner / corner[2]) for corner in corners])[:, :2] + 0.5
                expected = np.concatenate([pixels.min(0), pixels.max(0)]).clip(0, [width, 96, width, 96])
                assert box == pytest.approx(expected, abs=1e-9)
                checked += 1
    assert checked > 30


def test_labels_keep_the_limits_and_leave_out_ignored_kinds() -> None:
    strict = replace(SMALL, min_side=24, min_visible=0.6)
    loose = replace(SMALL, min_side=6, min_visible=0.1)
    num_strict = num_loose = 0
    for index in range(4):
        scene = make_scene(WORLD, index)
        for camera in CAMERAS:
            view = render_view(scene, camera, 0.0)
            rows, more = (select_labels(view, scene.placement.kinds, limits) for limits in (strict, loose))
            boxes = view.boxes[rows]
            assert (boxes[:, 2:] - boxes[:, :2] >= 12).all()  # 24 at a width of 320
            assert (view.free[rows] >= 0.6 * view.areas[rows]).all()
            assert set(rows) <= set(more)
            assert (scene.placement.kinds[view.numbers[more]] < len(NAMES)).all()
            num_strict, num_loose = num_strict + len(rows), num_loose + len(more)
    assert 10 < num_strict < num_loose


def test_the_nearest_object_is_wholly_visible_and_others_less() -> None:
    view = render_view(make_scene(WORLD, 1), CAMERAS[0], 0.0)
    shares = view.free / view.areas
    assert shares[-1] == 1  # far to near
    assert shares.min() < 0.9
    assert (shares <= 1).all()


def test_objects_stand_on_the_ground_with_sizes_near_their_kind() -> None:
    scene = make_scene(WORLD, 2)
    objects = scene.at(0.0)
    mean = np.array([KINDS[i].size for i in objects.kinds])
    assert objects.centers[:, 2] == pytest.approx(objects.sizes[:, 2] / 2)
    ratios = objects.sizes / mean
    assert (np.abs(ratios[:, :2] - 1) <= 0.2501).all()
    assert np.array_equal(scene.at(3.0).numbers, objects.numbers)


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("ridden", [False, True])
def test_shapes_fill_their_cuboid_and_do_not_leave_it(kind: int, ridden: bool) -> None:
    points = shape_of(kind, ridden).vertices.reshape(-1, 3)
    assert points.min(0) == pytest.approx([-0.5, -0.5, 0.0], abs=0.03)
    assert points.max(0) == pytest.approx([0.5, 0.5, 1.0], abs=0.03)


def test_a_camera_sees_what_is_on_its_side() -> None:
    camera = drawing_camera(CAMERAS[-1])  # front left, 55 degrees to the left
    ahead = camera.ego_from_camera[:3, 3] + 10 * np.array([np.cos(np.deg2rad(55)), np.sin(np.deg2rad(55)), 0])
    point = transform(camera.camera_from_global(np.eye(4)), ahead)
    assert point == pytest.approx([0, 0, 10], abs=0.1)
    assert camera.project(point) == pytest.approx([80, 48], abs=5)


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([[-1.0, 1, -2], [1, 1, -2], [1, 1, 6], [-1, 1, 6]])
    assert clip_near(square)[:, 2].min() == pytest.approx(0.4)
    assert len(clip_near(square)) == 4
    assert clip_near(square - (0, 0, 10)).shape == (0, 3)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo_set(tmp_path_factory.mktemp("Straße mit Bäumen"), SMALL)


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("val", 6)])
def test_the_files_are_read_without_a_complaint(drives: Path, split: Split, count: int, tmp_path: Path) -> None:
    index = open_dataset(drives, split, cache_dir=tmp_path)
    assert len(index) == count
    assert index.names == NAMES
    assert not index.problems
    assert len(index.boxes) > count
    scene = make_scene(replace(WORLD, objects=WORLD.objects), 0 if split == "train" else 2)
    rig = make_rig(np.random.default_rng([0, scene.index, 77]), 160, 96)
    for image in range(count):
        name, _, number = index.path(image).stem.rpartition("_")
        if int(number) != scene.index:
            continue
        view = render_view(scene, next(c for c in rig.cameras if c.name == name), WORLD.duration / 2)
        rows = select_labels(view, scene.placement.kinds, SMALL)
        labels, boxes = index.labels(image)
        assert labels.tolist() == scene.placement.kinds[view.numbers[rows]].tolist()
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        assert corners * [160, 96, 160, 96] == pytest.approx(view.boxes[rows], abs=2e-3)


def test_splits_share_no_scene(drives: Path) -> None:
    scenes = [{p.stem.split("_")[-1] for p in (drives.parent / "images" / s).iterdir()} for s in ("train", "val")]
    assert not scenes[0] & scenes[1]


def test_files_do_not_depend_on_the_number_of_processes(drives: Path, tmp_path: Path) -> None:
    write_yolo_set(tmp_path, SMALL, processes=2)
    written = [path for path in sorted(drives.parent.rglob("*")) if path.suffix in {".jpg", ".txt", ".yaml"}]
    assert len(written) == 37
    for path in written:
        assert path.read_bytes() == (tmp_path / path.relative_to(drives.parent)).read_bytes(), path.name
