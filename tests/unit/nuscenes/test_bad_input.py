"""Every mistake in a nuScenes root is one sentence that names the file and the token."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import UserError
from boxwright.nuscenes.index import NuscenesIndex, open_nuscenes
from boxwright.nuscenes.radar import read_radar
from boxwright.nuscenes.settings import RadarReading
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import RADAR_FIELDS
from boxwright.nuscenes.tables import read_table, version_of
from tests.unit.nuscenes.small_root import VERSION, pcd, point, tables, write_root


def open_root(root: Path, *, allow_missing: bool = False) -> NuscenesIndex:
    return open_nuscenes(root, VERSION, allow_missing=allow_missing, cache_dir=root / "cache")


def test_a_version_need_not_be_named_where_there_is_one(tmp_path: Path) -> None:
    """Of several, the usual one; without such a one they are listed."""

    def add(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "sample.json").write_text("[]")

    assert version_of(tmp_path, "") == ""  # what is wrong with it is said where it is opened
    add("v1.0-mini")
    assert version_of(tmp_path, "", "v1.0-trainval") == "v1.0-mini"
    assert version_of(tmp_path, "v2", "v1.0-trainval") == "v2"
    add("v1.0-trainval")
    assert version_of(tmp_path, "", "v1.0-trainval") == "v1.0-trainval"
    with pytest.raises(UserError, match=r"several versions: name one with --version \(v1\.0-mini, v1\.0-trainval"):
        version_of(tmp_path, "", "v1.0-test")


def test_a_version_that_is_not_there(tmp_path: Path) -> None:
    write_root(tmp_path, tables(), blobs=False)
    with pytest.raises(UserError, match=r"has no version v1\.0-trainval; there are v1\.0-mini"):
        open_nuscenes(tmp_path, "v1.0-trainval")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is no nuScenes root: no folder in it has a sample\.json"):
        open_nuscenes(tmp_path / "empty", "v1.0-mini")
    with pytest.raises(UserError, match=rf"v1\.0-mini is one version of a nuScenes root: name the root, {tmp_path}"):
        open_nuscenes(tmp_path / VERSION, "")
    with pytest.raises(UserError, match="is not a folder"):
        open_nuscenes(tmp_path / "nowhere", "v1.0-mini")


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"])
def test_a_table_that_is_missing(table: str, tmp_path: Path) -> None:
    write_root(tmp_path, tables(), blobs=False)
    (tmp_path / VERSION / f"{table}.json").unlink()
    with pytest.raises(UserError, match=rf"the table .*{VERSION}/{table}\.json is missing"):
        open_root(tmp_path)


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("sample", "timestamp", "noon", "is no whole number but 'noon'"),
        ("sample_data", "timestamp", None, "is no whole number but None"),
        ("sample_data", "width", "wide", "is no whole number but 'wide'"),
        ("sample_annotation", "num_lidar_pts", "many", "is no whole number but 'many'"),
        ("sample_annotation", "size", [1.0, 0.0, 1.0], "is not three lengths above 0"),
        ("sample_annotation", "translation", [float("nan"), 0.0, 0.0], "is not 3 finite numbers"),
        ("ego_pose", "translation", [0.0, float("inf"), 0.0], "is not 3 finite numbers"),
    ],
)
def test_a_number_that_is_none(table: str, field: str, value: object, message: str, tmp_path: Path) -> None:
    made = tables()
    made[table][0][field] = value
    write_root(tmp_path, made, blobs=False)
    token = re.escape(made[table][0]["token"])
    with pytest.raises(UserError, match=rf"{table}\.json: {field} of record {token} {re.escape(message)}"):
        open_root(tmp_path)


def test_annotations_may_be_missing_in_test_versions_only(tmp_path: Path) -> None:
    write_root(tmp_path, tables(), blobs=False)
    (tmp_path / VERSION / "sample_annotation.json").unlink()
    with pytest.raises(UserError, match=r"sample_annotation\.json is missing"):
        open_root(tmp_path)


@pytest.mark.parametrize("table", ["scene", "sample_data", "ego_pose", "sample_annotation"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_table_that_is_cut_off(table: str, share: float, tmp_path: Path) -> None:
    write_root(tmp_path, tables(), blobs=False)
    file = tmp_path / VERSION / f"{table}.json"
    text = file.read_text()
    file.write_text(text[: int(len(text) * share)])
    with pytest.raises(UserError, match=rf"the table .*{table}\.json is cut off after record \d+"):
        open_root(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not start with a list of records"),
        ('{"token": "a"}', "does not start with a list of records"),
        ('[{"token": "a"}, 3]', "after record 1 there is no record but '3'"),
        ("[", "is cut off after record 0"),
        ('[{"token": "a"}', "is cut off after record 1"),
    ],
)
def test_a_file_that_is_no_table(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scene.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        list(read_table(tmp_path, "scene"))


def test_tables_longer_than_the_window_and_of_any_layout(tmp_path: Path) -> None:
    records = [{"token": str(n), "text": "x" * (n % 4000), "more": [1, [2, 3], {"a": None}]} for n in range(1500)]
    for indent in (None, 0, 4):
        (tmp_path / "log.json").write_text(json.dumps(records, indent=indent))
        assert list(read_table(tmp_path, "log")) == records
    (tmp_path / "log.json").write_text(" [ ] ")
    assert list(read_table(tmp_path, "log")) == []


@pytest.mark.parametrize(
    ("table", "field", "target"),
    [
        ("sample", "scene_token", "scene"),
        ("sample_data", "sample_token", "sample"),
        ("sample_data", "ego_pose_token", "ego_pose"),
        ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
        ("calibrated_sensor", "sensor_token", "sensor"),
        ("sample_annotation", "sample_token", "sample"),
        ("sample_annotation", "instance_token", "instance"),
        ("sample_annotation", "prev", "sample_annotation"),
        ("instance", "category_token", "category"),
    ],
)
def test_a_token_that_points_nowhere(table: str, field: str, target: str, tmp_path: Path) -> None:
    made = tables()
    made[table][1][field] = "nowhere"
    write_root(tmp_path, made, blobs=False)
    token = re.escape(made[table][1]["token"])
    with pytest.raises(
        UserError, match=rf"{table}\.json: record {token} has the {field} nowhere, which is not in {target}"
    ):
        open_root(tmp_path)


def test_other_tokens_that_point_nowhere(tmp_path: Path) -> None:
    made = tables()
    made["sample_annotation"][0]["attribute_tokens"] = ["nowhere"]
    write_root(tmp_path / "a", made, blobs=False)
    with pytest.raises(UserError, match=r"record scene-0061-0-car has the attribute_tokens nowhere"):
        open_root(tmp_path / "a")
    made = tables()
    sweep = next(record for record in made["sample_data"] if record["token"] == "scene-0061-1-RADAR_FRONT")
    sweep["prev"] = "nowhere"
    write_root(tmp_path / "b", made, blobs=False)
    with pytest.raises(UserError, match=r"record scene-0061-1-RADAR_FRONT has the prev nowhere"):
        open_root(tmp_path / "b")
    made = tables()
    made["sample"].append(made["sample"][0])
    write_root(tmp_path / "c", made, blobs=False)
    with pytest.raises(UserError, match=r"sample\.json: the token scene-0061-0 stands twice"):
        open_root(tmp_path / "c")


@pytest.mark.parametrize(
    ("table", "rotation", "message"),
    [
        (
            "calibrated_sensor",
            [2.0, 0.0, 0.0, 0.0],
            r"the rotation \(2, 0, 0, 0\) of record c-CAM_FRONT is no rotation",
        ),
        ("calibrated_sensor", [0.0, 0.0, 0.0, 0.0], "is no rotation"),
        ("calibrated_sensor", [float("nan"), 0.0, 0.0, 0.0], "is not 4 finite numbers"),
        ("calibrated_sensor", [1.0, 0.0, 0.0], "rotation of record c-CAM_FRONT is not 4 finite numbers"),
        ("calibrated_sensor", ["a", 0.0, 0.0, 0.0], "rotation of record c-CAM_FRONT is not 4 finite numbers"),
        ("ego_pose", [0.5, 0.0, 0.0, 0.0], "of record scene-0061-0-CAM_FRONT is no rotation"),
        ("sample_annotation", [0.5, 0.0, 0.0, 0.0], "of record scene-0061-0-car is no rotation"),
    ],
)
def test_a_rotation_that_is_none(table: str, rotation: list[object], message: str, tmp_path: Path) -> None:
    made = tables()
    made[table][0]["rotation"] = rotation
    write_root(tmp_path, made, blobs=False)
    with pytest.raises(UserError, match=message):
        open_root(tmp_path)


def test_a_camera_without_a_matrix(tmp_path: Path) -> None:
    made = tables()
    made["calibrated_sensor"][2]["camera_intrinsic"] = []
    write_root(tmp_path, made, blobs=False)
    with pytest.raises(UserError, match="camera_intrinsic of record c-CAM_BACK_RIGHT is no camera matrix"):
        open_root(tmp_path)


def test_a_record_without_a_field(tmp_path: Path) -> None:
    made = tables()
    del made["sample_data"][3]["timestamp"]
    write_root(tmp_path, made, blobs=False)
    with pytest.raises(UserError, match=r"sample_data\.json: record scene-0061-0-CAM_BACK has no timestamp"):
        open_root(tmp_path)


def test_two_attributes(tmp_path: Path) -> None:
    made = tables()
    made["sample_annotation"][0]["attribute_tokens"] = ["moving", "still"]
    write_root(tmp_path, made, blobs=False)
    with pytest.raises(UserError, match="record scene-0061-0-car has 2 attributes, an annotation has one at most"):
        open_root(tmp_path)


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    write_root(tmp_path, tables())
    (tmp_path / "samples/CAM_BACK/scene-0061-1-CAM_BACK.jpg").unlink()
    with pytest.raises(UserError, match=r"scene-0061-1-CAM_BACK\.jpg is missing; .*--allow-missing"):
        NuscenesSplit(open_root(tmp_path), "mini_train")
    assert len(NuscenesSplit(open_root(tmp_path), "mini_val")) == 18  # another scene
    split = NuscenesSplit(open_root(tmp_path, allow_missing=True), "mini_train")
    assert len(split) == 17
    assert [split.record(position).sensor for position in split.images_of_sample(1)] == [1, 2, 3, 5, 6]
    assert len(split.sample_tokens) == 3


def test_radar_sweeps_that_are_missing(tmp_path: Path) -> None:
    write_root(tmp_path, tables())
    for name in (
        "sweeps/RADAR_FRONT/scene-0061-1-RADAR_FRONT-sweep",
        "samples/RADAR_FRONT_LEFT/scene-0061-1-RADAR_FRONT_LEFT",
    ):
        (tmp_path / f"{name}.pcd").unlink()
    with pytest.raises(UserError, match=r"\.pcd is missing, as are other radar sweeps of mini_train, 2 in all; allow"):
        NuscenesSplit(open_root(tmp_path), "mini_train", 3)
    NuscenesSplit(open_root(tmp_path), "mini_train", 0)  # reads no radar
    split = NuscenesSplit(open_root(tmp_path, allow_missing=True), "mini_train", 3)
    assert split.radar(6).shape[1] == 2 * (9 - 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no .pcd file, or it is cut off: its header has no DATA line"),
        (pcd([point(5, 5)])[:100], "is no .pcd file, or it is cut off"),
        (pcd([point(5, 5), point(6, 6)])[:-10], "is cut off: it should have 2 points and has 1"),
        (pcd([point(5, 5)], (*RADAR_FIELDS[:5], "snr", *RADAR_FIELDS[6:])), "its fields are x y z dyn_prop id snr"),
        (pcd([]).replace(b"DATA binary", b"DATA ascii"), "its data are not `binary`"),
        (pcd([]).replace(b"SIZE 4", b"SIZE 3"), "has a size, a type or a width that cannot be read"),
        (pcd([]).replace(b"WIDTH 0", b"WIDTH -1"), "a negative width"),
        (pcd([]).replace(b"COUNT 1", b"COUNT 2"), "does not give one size, type and count to every field"),
    ],
)
def test_a_radar_sweep_that_cannot_be_read(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.pcd"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"sweep\.pcd.*{re.escape(message)}"):
        read_radar(file)


def test_radar_sweeps_and_their_filters(tmp_path: Path) -> None:
    file = tmp_path / "sweep.pcd"
    kept = [point(5, 5), point(6, 6, dyn_prop=6)]
    dropped = [point(7, 7, invalid_state=4), point(8, 8, dyn_prop=7), point(9, 9, ambig_state=2)]
    for tail in (b"", b"\0", b"more than is asked for"):
        file.write_bytes(pcd([*kept, *dropped], tail=tail))
        np.testing.assert_array_equal(read_radar(file)[0], (5, 6))
        np.testing.assert_array_equal(read_radar(file, None)[1], (5, 6, 7, 8, 9))
    for states, more in (
        ({"dyn_prop": (6, 7)}, (6, 8)),
        ({"ambig_state": ()}, (5, 6, 9)),
        ({"invalid_state": (0, 4)}, (5, 6, 7)),
    ):
        np.testing.assert_array_equal(read_radar(file, RadarReading(**states))[0], more)
    file.write_bytes(pcd([point(float("nan"), 5), point(6, 6)]))
    assert read_radar(file).shape == (18, 0)
    file.write_bytes(pcd([]))
    assert read_radar(file).shape == (18, 0)
    with pytest.raises(UserError, match=r"cannot read .*none\.pcd: no such file"):
        read_radar(tmp_path / "none.pcd")


def test_a_pipe_or_a_device_is_no_table(tmp_path: Path) -> None:
    write_root(tmp_path, tables(), blobs=False)
    for table, says in (("sample", "a pipe"), ("scene", "a device")):
        file = tmp_path / VERSION / f"{table}.json"
        file.unlink()
        os.mkfifo(file) if table == "sample" else file.symlink_to("/dev/zero")
        with pytest.raises(UserError, match=rf"cannot read .*{table}\.json: it is {says}"):
            list(read_table(tmp_path / VERSION, table))
    with pytest.raises(UserError, match="it is a"):
        open_root(tmp_path)
