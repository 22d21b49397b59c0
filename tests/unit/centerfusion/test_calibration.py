"""The json of a camera: its matrix, its place, and the radars that look where it looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.centerfusion.calibration import read_calibration
from boxwright.errors import UserError
from boxwright.nuscenes.radar import RADAR_DTYPE, write_radar
from boxwright.nuscenes.settings import RadarReading

# A camera that looks to the left of the car, 1 m over a radar that looks there, too.
LEFT = [0.5**0.5, -(0.5**0.5), 0, 0]  # x right: forward of the car; y down; z forward: left of the car
PLACE = {"translation": [2, 0, 1.5], "rotation": LEFT}
RADAR = {"translation": [2, 0, 0.5], "rotation": [0.5**0.5, 0, 0, 0.5**0.5]}
GOOD: dict[str, Any] = {
    "intrinsics": [[400, 0, 320], [0, 410, 180], [0, 0, 1]],
    "image_size": [640, 360],
    "extrinsics": PLACE,
    "radar": [{"extrinsics": RADAR, "files": "radar/{name}.pcd"}],
}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "calib.json"
    file.write_text(json.dumps({name: value for name, value in (GOOD | changes).items() if value is not None}))
    return file


def test_a_matrix_is_scaled_with_its_image(tmp_path: Path) -> None:
    camera = read_calibration(write(tmp_path))
    half, doubt = camera.camera(320, 180)
    assert half.tolist() == [[200, 0, 160, 0], [0, 205, 90, 0], [0, 0, 1, 0]]
    assert not doubt
    with pytest.raises(UserError, match=r"of images of 640 x 360 pixels \(image_size\); one of 640 x 480 has another"):
        camera.camera(640, 480)
    unknown = read_calibration(write(tmp_path, image_size=None, extrinsics=None, radar=None))
    assert unknown.ego_from_cam is None
    assert "principal point" in unknown.camera(1920, 1080)[1]


def test_radar_comes_to_the_frame_of_the_camera(tmp_path: Path) -> None:
    points = np.zeros(1, RADAR_DTYPE)
    points["x"], points["y"], points["vx_comp"], points["ambig_state"] = 20, 3, -5, 3
    (tmp_path / "radar").mkdir()
    write_radar(tmp_path / "radar/a.pcd", points)
    camera = read_calibration(write(tmp_path))
    found, missing = camera.read_radar("a", RadarReading())
    np.testing.assert_allclose(found[:3, 0], (-3, 1, 20), atol=1e-6)  # to the left of it, below, ahead
    np.testing.assert_allclose(found[[8, 9], 0], (0, -5), atol=1e-6)  # it comes nearer
    assert missing == []
    found, missing = camera.read_radar("b", RadarReading())
    assert found.shape == (18, 0)
    assert missing == [tmp_path / "radar/b.pcd"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intrinsics": None}, "intrinsics: should be"),
        ({"intrinsics": [[400, 0, 320], [0, 410, 180]]}, r"intrinsics: should be \[\[fx, 0, cx\]"),
        ({"intrinsics": [[0, 0, 320], [0, 410, 180], [0, 0, 1]]}, r"should be \[\[fx, 0, cx\], .* fx and fy above 0"),
        ({"intrinsics": [[400, 2, 320], [0, 410, 180], [0, 0, 1]]}, "a skew of 2 is not known here"),
        (
            {"intrinsics": [[400, 0, float("nan")], [0, 410, 180], [0, 0, 1]]},
            "intrinsics.0.2: input should be a finite",
        ),
        ({"image_size": [640]}, "image_size.1 is missing"),
        ({"extrinsics": None}, "radar needs the place of the camera, too: extrinsics"),
        ({"extrinsics": PLACE | {"rotation": [1, 1, 0, 0]}}, "extrinsics.rotation: a quaternion .* this one 1.41"),
        ({"radar": [{"files": "a"}]}, "radar.0.extrinsics is missing"),
        ({"focal": 3}, "there is no entry focal; docs/fusion.md lists them"),
        ({"intrinsics": None, "intrinsic": 3}, "there is no entry intrinsic;"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        read_calibration(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_what_is_no_json(tmp_path: Path) -> None:
    file = tmp_path / "calib.json"
    file.write_text("{\n intrinsics: 3}")
    with pytest.raises(UserError, match=f"{file}:2: not a valid json of a calibration"):
        read_calibration(file)
    with pytest.raises(UserError, match="no such file"):
        read_calibration(tmp_path / "none.json")


def test_radar_of_others_cannot_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.ones(6, RADAR_DTYPE)
    points["x"], points["dyn_prop"], points["ambig_state"], points["invalid_state"] = 9, 0, 3, 0
    write_radar(tmp_path / "r.pcd", points)
    radar = {"extrinsics": PLACE, "files": "r.pcd"}
    calibration = read_calibration(write(tmp_path, extrinsics=PLACE, radar=[radar] * 4))
    assert calibration.read_radar("i", RadarReading())[0].shape == (18, 24)
    monkeypatch.setattr("boxwright.centerfusion.calibration._MOST_POINTS", 23)
    with pytest.raises(UserError, match="more than 23 points"):
        calibration.read_radar("i", RadarReading())
    with (tmp_path / "r.pcd").open("r+b") as file:
        file.truncate(5 << 20)
    with pytest.raises(UserError, match="such a file at most"):
        calibration.read_radar("i", RadarReading())
    with pytest.raises(UserError, match=r"radar: .*at most 32"):
        read_calibration(write(tmp_path, extrinsics=PLACE, radar=[radar] * 33))
