"""A key frame on one sheet, and a scene as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.centerfusion.pictures import GAP, KeyFrame, draw_sheet, write_scene
from boxwright.drawing.canvas import solid_color
from boxwright.errors import UserError
from boxwright.ops.arrays import Image
from tests.unit.drawing.scenes3d import camera, changed, global_boxes, key_frame, radar

WIDTH = 320  # of a camera's panel
TOP, STEP_X, STEP_Y = 23, 320 + GAP, 180 + GAP  # of the panels
PLACES = {6: (0, 0), 1: (0, 1), 2: (0, 2), 5: (1, 0), 4: (1, 1), 3: (1, 2)}  # row, column by sensor


def panel(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    return sheet[TOP + row * STEP_Y :][:180, GAP + column * STEP_X :][:, :320]


def above(sheet: np.ndarray) -> np.ndarray:
    return sheet[TOP : TOP + 366, GAP + 3 * STEP_X :][:, :366]


def sheet(**given: object) -> np.ndarray:
    return draw_sheet(key_frame(**given), camera_width=WIDTH)


EMPTY = sheet()


def test_cameras_lie_around_the_vehicle() -> None:
    views = [camera(i, np.full((225, 400, 3), 30 * i, np.uint8)) for i in range(1, 7)]
    whole = sheet(cameras=views[::-1])
    assert {i: int(panel(whole, *PLACES[i])[100, 200, 0]) for i in PLACES} == {i: 30 * i for i in PLACES}


@pytest.mark.parametrize("sensor", range(1, 7))
def test_an_object_is_drawn_in_the_camera_that_sees_it_and_from_above(sensor: int) -> None:
    yaw = np.deg2rad((0, -55, -110, 180, 110, 55))[sensor - 1]
    x, y = 15 * np.cos(yaw), 15 * np.sin(yaw)
    whole, empty = sheet(truth=global_boxes((x, y, yaw))), sheet(truth=global_boxes())
    for other, place in PLACES.items():
        marked = changed(panel(whole, *place), panel(empty, *place))
        assert marked[60:130, 140:180].any() == (other == sensor)
    rows, columns = np.nonzero(changed(above(whole)[:300], above(empty)[:300]))
    scale = 366 / 100
    assert columns.mean() == pytest.approx(183 - y * scale, abs=4)
    assert rows.mean() == pytest.approx(183 - x * scale, abs=4)


def test_pose_of_the_vehicle_is_taken_off() -> None:
    pose = np.array([(0, -1, 0, 1000), (1, 0, 0, 500), (0, 0, 1, 3), (0, 0, 0, 1)], np.float64)
    here = [camera(i, points=radar((1, 0, 20, 0, 8))) for i in range(1, 7)]
    there = [(replace(record, global_from_cam=pose @ record.global_from_cam), points) for record, points in here]
    boxes = {"truth": global_boxes((15, 2, 0.3)), "predictions": global_boxes((25, -3, 0.4), score=0.9)}
    moved = {
        "truth": global_boxes((1000 - 2, 500 + 15, 0.3 + np.pi / 2)),
        "predictions": global_boxes((1000 + 3, 500 + 25, 0.4 + np.pi / 2), score=0.9),
    }
    for there_boxes in moved.values():
        there_boxes.centers[:, 2] += 3
    expected = sheet(cameras=here, **boxes)
    assert changed(expected, sheet(cameras=here)).any()
    np.testing.assert_allclose(sheet(cameras=there, global_from_ego=pose, **moved), expected, atol=1)


def test_predictions_below_the_threshold_are_not_shown() -> None:
    weak, strong = (sheet(predictions=global_boxes((15, 0, 0), score=s)) for s in (0.29, 0.31))
    assert not changed(panel(weak, 0, 1), panel(EMPTY, 0, 1)).any()
    assert changed(panel(strong, 0, 1), panel(EMPTY, 0, 1)).any()


def test_annotations_are_white_and_predictions_in_the_colour_of_the_class() -> None:
    truth, predicted = (
        panel(sheet(**given), 0, 1)
        for given in ({"truth": global_boxes((15, 0, 0))}, {"predictions": global_boxes((15, 0, 0), score=0.9)})
    )
    assert (predicted == solid_color(0)).all(2).sum() > 50
    assert not (truth == solid_color(0)).all(2).any()
    assert (truth.min(2) > 200).sum() > (EMPTY[TOP:][:180, GAP + STEP_X :][:, :320].min(2) > 200).sum() + 50


def test_radar_is_drawn_in_its_camera_and_explained() -> None:
    views = [camera(i, points=radar((0, 0, 20, 0, 0)) if i == 1 else radar()) for i in range(1, 7)]
    whole = sheet(cameras=views)
    assert changed(panel(whole, 0, 1), panel(EMPTY, 0, 1))[85:95, 155:165].any()
    assert changed(above(whole)[:250], above(EMPTY)[:250]).any()
    assert np.ptp(whole[TOP + 366 :, 1000:], axis=0).max() > 200, "the scale of colours"


def test_a_missing_camera_and_an_image_of_another_shape() -> None:
    views = [camera(1, np.full((300, 300, 3), 90, np.uint8))]
    whole = sheet(cameras=views)
    assert whole.shape == EMPTY.shape
    assert (panel(whole, 0, 1)[100, 160] == 90).all()
    assert (panel(whole, 1, 1)[100, 250] != 90).any()


@pytest.mark.parametrize("width", [101, 320, 641])
def test_sides_are_even_as_videos_want_them(width: int) -> None:
    shape = draw_sheet(key_frame(), camera_width=width).shape
    assert shape[0] % 2 == shape[1] % 2 == 0


def test_unreadable_image_is_named() -> None:
    with pytest.raises(UserError, match=r"gone\.jpg"):
        sheet(cameras=[camera(1, None)])


def frames(n: int) -> list[KeyFrame]:
    return [key_frame(i, truth=global_boxes((10 + 3 * i, 0, 0))) for i in range(1, n + 1)]


def sheets(frames: list[KeyFrame]) -> Iterator[tuple[int, Image]]:
    return ((frame.number, draw_sheet(frame, camera_width=WIDTH)) for frame in frames)


def test_scene_becomes_pictures_and_a_video(tmp_path: Path) -> None:
    written = write_scene(sheets(frames(3)), tmp_path, "scene-0001", 2.0)
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "scene-0001/0001.png", "scene-0001/0002.png", "scene-0001/0003.png", "scene-0001.mp4"]  # fmt: skip
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(written), "and nothing else"
    second = draw_sheet(frames(2)[1], camera_width=WIDTH)
    assert np.array_equal(cv2.imread(str(written[1])), second)
    video = cv2.VideoCapture(str(written[3]))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(2.0)
    shown = [video.read() for _ in range(4)]
    assert [ok for ok, _ in shown] == [True, True, True, False]
    assert np.abs(shown[1][1].astype(int) - second).mean() < 4


def test_a_failure_leaves_no_video_and_no_half_file(tmp_path: Path) -> None:
    broken = key_frame(2, cameras=[camera(1, None)])
    with pytest.raises(UserError, match="gone"):
        write_scene(sheets([*frames(1), broken]), tmp_path, "scene-0001", 2.0)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == ["scene-0001/0001.png"]


def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    written = write_scene(sheets(frames(1)), tmp_path / "run", "../../é/x", 2.0)
    assert all((tmp_path / "run") in p.resolve().parents for p in written)


def test_a_scene_without_key_frames_writes_nothing(tmp_path: Path) -> None:
    assert write_scene([], tmp_path / "run", "scene-0001", 2.0) == []
    assert not (tmp_path / "run").exists()
