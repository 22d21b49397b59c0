"""A split of a small root: order, annotations, velocities, radar, ground truth, splits of other scenes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import UserError
from boxwright.nuscenes.index import NuscenesIndex, open_nuscenes
from boxwright.nuscenes.settings import RadarReading
from boxwright.nuscenes.split import SPLITS, NuscenesSplit, official_scenes, usual_splits
from tests.unit.nuscenes.small_root import VERSION, Tables, tables, write_root


def opened(root: Path, made: Tables, version: str = VERSION, *, allow_missing: bool = False) -> NuscenesIndex:
    write_root(root, made, version=version)
    return open_nuscenes(root, version, allow_missing=allow_missing, cache_dir=root / "cache")


def test_images_stand_by_sample_and_sensor(tmp_path: Path) -> None:
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_val", 2)
    assert split.scene_names == ["scene-0103"]
    assert split.sample_tokens == ["scene-0103-0", "scene-0103-1", "scene-0103-2"]
    assert len(split) == 18
    records = [split.record(position) for position in range(18)]
    assert [record.sensor for record in records] == [1, 2, 3, 4, 5, 6] * 3
    assert [record.sample for record in records] == [0] * 6 + [1] * 6 + [2] * 6
    assert records[7].path.name == "scene-0103-1-CAM_FRONT_RIGHT.jpg"
    assert split.images_of_sample(1) == [6, 7, 8, 9, 10, 11]
    assert split.samples_of_scene("scene-0103") == [0, 1, 2]
    np.testing.assert_allclose(split.ego_positions(), [(0, 0, 0), (1, 0, 0), (2, 0, 0)])


def test_labels_of_all_images(tmp_path: Path) -> None:
    """Those that the records of the images hold: not that of an object which another one hides."""
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_val", 0)
    seen = np.array(split.index.arrays["seen"])
    seen["hidden"][-1] = True
    split.index.arrays["seen"] = seen
    labels, images = split.labels_of_images()
    held = [split.record(position).annotations.labels.tolist() for position in range(len(split))]
    assert len(labels) > 2
    assert [labels[images == position].tolist() for position in range(len(split))] == held


def test_tables_in_any_order_give_the_same_split(tmp_path: Path) -> None:
    made = tables()
    for table in ("sample", "sample_data", "ego_pose", "instance", "scene", "calibrated_sensor"):
        made[table].reverse()
    one, other = (NuscenesSplit(opened(tmp_path / n, t), "train") for n, t in (("a", tables()), ("b", made)))
    assert one.sample_tokens == other.sample_tokens
    for position in range(len(one)):
        assert one.record(position).path.name == other.record(position).path.name
        np.testing.assert_array_equal(one.record(position).global_from_cam, other.record(position).global_from_cam)
        np.testing.assert_array_equal(one.radar(position), other.radar(position))


def test_what_an_image_shows(tmp_path: Path) -> None:
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_train", 1)
    shown = split.record(6).annotations  # the front camera of the second key frame, 1 m along
    assert shown.labels.tolist() == [0, 5]
    assert shown.attributes.tolist() == [5, 3]
    np.testing.assert_allclose(shown.locations, [(0, 1.5, 21), (-3, 1.5, 14)], atol=1e-9)
    np.testing.assert_allclose(shown.dims, [(1.6, 1.8, 4.0), (1.8, 0.6, 0.6)])
    np.testing.assert_allclose(shown.rotation_y, -np.pi / 2)
    np.testing.assert_allclose(shown.velocity_cam, [(0, 0, 4), (0, 0, 0)], atol=1e-9)
    middle = (80 + 100 * shown.locations[:, 0] / shown.depths, 45 + 100 * np.array([0.7, 0.6]) / shown.depths)
    np.testing.assert_allclose(shown.amodel_centers, np.stack(middle, 1), atol=1e-9)


def test_velocities_are_unknown_where_the_gap_is_too_long(tmp_path: Path) -> None:
    made = tables()
    for record in made["sample"]:
        record["timestamp"] += 2_000_000 * int(record["token"][-1] == "2")  # 2.5 s after the one before
    for record in made["sample_annotation"]:
        if "man" in record["token"]:
            record["prev"] = record["next"] = ""
    truth = NuscenesSplit(opened(tmp_path, made), "mini_train").ground_truth()
    cars, men = truth.take(truth.labels == 0), truth.take(truth.labels == 5)
    np.testing.assert_allclose(cars.velocities, [(4, 0), (4 / 3, 0), (np.nan, np.nan)])
    assert np.isnan(men.velocities).all()


def test_velocities_between_neighbours_too_far_apart_are_unknown(tmp_path: Path) -> None:
    made = tables()
    for record in made["sample"]:
        record["timestamp"] += 1_200_000 * int(record["token"][-1])  # 1.7 s from one to the next, 3.4 s over two
    truth = NuscenesSplit(opened(tmp_path, made), "mini_train").ground_truth()
    assert np.isnan(truth.velocities).all()


def test_a_box_is_seen_only_if_a_corner_in_the_image_is_far_enough(tmp_path: Path) -> None:
    made = tables(samples=1)
    man, car = made["sample_annotation"][1], made["sample_annotation"][0]
    man |= {"translation": [0.6, 0.0, 1.5], "size": [0.2, 0.2, 0.2]}  # all corners in the image, at 0.5 to 0.7 m
    car |= {"translation": [1.2, 0.0, 1.5], "size": [0.2, 0.2, 0.2]}
    shown = NuscenesSplit(opened(tmp_path, made), "mini_train").record(0).annotations
    assert shown.labels.tolist() == [0]


def test_the_place_of_the_car_is_that_of_its_lidar(tmp_path: Path) -> None:
    made = tables()
    for record in made["ego_pose"]:
        record["translation"][1] = 7.0 if "LIDAR" in record["token"] else 0.0
    made["sample_data"].insert(0, made["sample_data"].pop(next(_lidar_rows(made))))
    split = NuscenesSplit(opened(tmp_path, made), "mini_train")
    np.testing.assert_allclose(split.ego_positions(), [(0, 7, 0), (1, 7, 0), (2, 7, 0)])


def _lidar_rows(made: Tables) -> Iterator[int]:
    return (row for row, record in enumerate(made["sample_data"]) if "LIDAR" in record["token"])


def test_ground_truth_and_bike_racks(tmp_path: Path) -> None:
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_val")
    truth = split.ground_truth()
    assert truth.labels.tolist() == [0, 5] * 3
    assert truth.samples.tolist() == [0, 0, 1, 1, 2, 2]
    assert truth.num_points.tolist() == [6] * 6
    assert truth.scores.tolist() == [-1] * 6
    np.testing.assert_allclose(truth.sizes[0], (1.8, 4.0, 1.6))
    racks = split.bike_racks()
    assert racks.samples.tolist() == [0, 1, 2]
    np.testing.assert_allclose(racks.centers, [(18, -5, 0.5)] * 3)


def test_radar_is_moved_with_the_car(tmp_path: Path) -> None:
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_train", 3)
    points = split.radar(6)  # front camera, second key frame: this one, the sweep before, the first key frame
    assert points.shape == (18, 3 * 3 * 2)
    of_one = points[:, :6]
    np.testing.assert_allclose(of_one[2], (10, 12, 9.5, 11.5, 9, 11), atol=1e-9)
    np.testing.assert_allclose(of_one[0], (-1, 1) * 3, atol=1e-9)
    np.testing.assert_allclose(of_one[1], 1.0, atol=1e-9)
    np.testing.assert_allclose(of_one[9], (2, -1) * 3, atol=1e-9)
    np.testing.assert_allclose(of_one[8], 0.0, atol=1e-9)
    assert split.radar(0).shape == (18, 6)  # the first key frame has none before it


def test_points_follow_their_velocity_if_asked_for(tmp_path: Path) -> None:
    index = opened(tmp_path, tables())
    points = NuscenesSplit(index, "mini_train", 3, reading=RadarReading(move_points=True)).radar(6)
    # What was seen 0.25 and 0.5 s before the image has gone on at 2 and -1 m/s.
    np.testing.assert_allclose(points[2, :6], (10, 12, 10, 11.25, 10, 10.5), atol=1e-9)
    there = NuscenesSplit(index, "mini_train", 3).radar(6)
    np.testing.assert_array_equal(np.delete(points, 2, axis=0), np.delete(there, 2, axis=0))


def test_no_radar_is_an_empty_map(tmp_path: Path) -> None:
    made = tables()
    made["sample_data"] = [record for record in made["sample_data"] if "RADAR" not in record["token"]]
    split = NuscenesSplit(opened(tmp_path, made), "mini_train", 3)
    assert split.radar(0).shape == (18, 0)
    (tmp_path / "b").mkdir()
    assert NuscenesSplit(opened(tmp_path / "b", tables()), "mini_train", 0).radar(0).shape == (18, 0)


def test_a_split_can_be_sent_to_another_process(tmp_path: Path) -> None:
    split = NuscenesSplit(opened(tmp_path, tables()), "mini_train", 3)
    sent = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 10_000  # no arrays
    np.testing.assert_array_equal(sent.radar(7), split.radar(7))
    assert sent.record(7).path == split.record(7).path


def test_a_test_version_needs_no_annotations(tmp_path: Path) -> None:
    made = tables(("scene-0077",))
    del made["sample_annotation"], made["instance"]
    split = NuscenesSplit(opened(tmp_path, made, "v1.0-test"), "test", 1)
    assert len(split) == 18
    assert len(split.record(0).annotations) == 0
    assert len(split.ground_truth()) == 0
    assert split.radar(0).shape[1] == 6


def test_official_splits_have_their_published_sizes() -> None:
    assert {split: len(official_scenes(split)) for split in SPLITS} == {
        "mini_train": 8,
        "mini_val": 2,
        "train": 700,
        "val": 150,
        "test": 150,
        "train_detect": 350,
        "train_track": 350,
    }
    assert official_scenes("train") == official_scenes("train_detect") | official_scenes("train_track")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test"), ("train_detect", "train_track")):
        assert not official_scenes(one) & official_scenes(other)
    assert official_scenes("mini_train") | official_scenes("mini_val") <= official_scenes("train") | official_scenes(
        "val"
    )


def test_scenes_in_no_official_list_are_shared_out(tmp_path: Path) -> None:
    index = opened(tmp_path, tables(tuple("abcdef"), samples=1))
    assert NuscenesSplit(index, "train").scene_names == list("abcde")
    assert NuscenesSplit(index, "mini_val").scene_names == ["f"]
    with pytest.raises(
        UserError, match="no scene of the split test; its scenes are in mini_train, mini_val, train, val"
    ):
        NuscenesSplit(index, "test")
    (tmp_path / VERSION / "splits.json").write_text(
        json.dumps({"train": ["b"], "held_out": ["a", "c"], "other_name": ["c", "a"]})
    )
    assert NuscenesSplit(index, "held_out").scene_names == ["a", "c"]
    assert usual_splits(index.scenes, index.folder) == ["train", "held_out"]
    with pytest.raises(UserError, match="no split val; there are train, held_out, other_name, all"):
        NuscenesSplit(index, "val")
