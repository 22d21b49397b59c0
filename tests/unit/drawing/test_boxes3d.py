"""3-D boxes and radar points in a camera image: where they land, what is cut, what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.centerfusion.pictures import boxes_of_global, points_of_radar
from boxwright.drawing.boxes3d import EDGES, draw_boxes_3d, draw_points, project_lines
from boxwright.drawing.canvas import clip_to_rectangle, depth_colors, solid_color
from boxwright.nuscenes.structures import CLASS_NAMES, Detections3d
from boxwright.ops.arrays import Color
from tests.unit.drawing.scenes3d import (
    CALIB,
    EGO_FROM_FORWARD,
    GREY,
    boxes_of_detections,
    changed,
    detections,
    global_boxes,
    radar,
)

PLAIN = solid_color(0)  # outlines only
AHEAD = (0.0, 1.0, 12.0, -np.pi / 2)  # drives away: its rear is seen: x -1..1, y -0.5..1, z 10..14 m


def draw_detections(
    image: np.ndarray, found: Detections3d, calib: np.ndarray, outline: Color | None = None
) -> np.ndarray:
    return draw_boxes_3d(image, boxes_of_detections(found), calib, CLASS_NAMES, outline=outline)


def draw_radar(image: np.ndarray, points: np.ndarray, calib: np.ndarray) -> np.ndarray:
    return draw_points(image, points_of_radar(points), calib)


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def test_box_ahead_is_drawn_where_its_corners_project() -> None:
    image = draw_detections(GREY, detections(AHEAD), CALIB, PLAIN)
    # At 10 m: 40 pixels a metre about (200, 112).
    assert extent(changed(image)) == pytest.approx([160, 92, 240, 152], abs=1)
    for place in ((120, 160), (120, 240), (92, 200), (152, 200)):
        np.testing.assert_allclose(image[place], solid_color(0), atol=40, err_msg=str(place))
    assert (image[130, 200] == 90).all(), "the face itself is not painted"


def test_given_image_is_kept() -> None:
    before = GREY.copy()
    draw_detections(GREY, detections(AHEAD), CALIB)
    assert np.array_equal(GREY, before)


@pytest.mark.parametrize(("angle", "front_is_near"), [(-np.pi / 2, False), (np.pi / 2, True)])
def test_front_face_is_filled(angle: float, front_is_near: bool) -> None:
    image = draw_detections(GREY, detections((*AHEAD[:3], angle)), CALIB)
    # Inside the near face (10 m), and outside the far one (14 m: 28.6 pixels a metre, so x 171..229, y 98..141).
    between = image[146, 200]
    assert (between != 90).any() == front_is_near
    assert (image[130, 200] != 90).any(), "either face covers the middle"


def test_a_box_of_the_global_frame_equals_the_detection_of_the_same_object() -> None:
    found = boxes_of_detections(detections(AHEAD))
    forward_from_ego = np.linalg.inv(EGO_FROM_FORWARD)
    # The camera stands 1.5 m ahead and 1.5 m up; the road is 1.5 m below it, the detection stands at 1 m.
    same = boxes_of_global(global_boxes((13.5, 0.0, 0.0))).transform(forward_from_ego)
    np.testing.assert_allclose(same.positions - (0, 0.5, 0), found.positions, atol=1e-6)


def test_box_behind_is_not_drawn() -> None:
    assert not changed(draw_detections(GREY, detections((0, 1, -12, 0), (0, 1, -2.5, 0.3)), CALIB)).any()


def test_box_beside_the_image_is_not_drawn() -> None:
    assert not changed(draw_detections(GREY, detections((40, 1, 12, 0)), CALIB)).any()


def test_box_through_the_near_plane_is_cut_there() -> None:
    boxes = boxes_of_detections(detections((3.0, 1.0, 0.5, np.pi / 2)))  # z -1.5..2.5, x 2..4
    ends, seen = project_lines(boxes.positions[:, EDGES], CALIB)
    assert seen[0].sum() == 8, "one face is behind: its four edges are gone, the four to it are cut"
    assert np.isfinite(ends[seen]).all()
    assert (ends[seen][..., 0] >= 200).all(), "what is right of the camera stays right of it"
    mask = changed(draw_boxes_3d(GREY, boxes, CALIB, CLASS_NAMES, outline=PLAIN))
    assert not mask[:, :200].any(), "no line runs through the rest of the image"


def test_box_around_the_camera_leaves_lines_of_its_visible_part_only() -> None:
    mask = changed(draw_detections(GREY, detections((0.0, 1.0, 1.0, np.pi / 2)), CALIB, PLAIN))  # z -1..3
    # The face at 3 m: 133 pixels a metre: x 67..333, y from 45 on, its bottom below the image.
    assert mask[45, 70:330].all()
    assert not mask[60:200, 80:320].any()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_near_boxes_lie_over_far_ones(order: list[int]) -> None:
    boxes = boxes_of_detections(detections((0.0, 1.0, 30.0, np.pi / 2), (0.0, 1.0, 12.0, np.pi / 2)))
    boxes.labels[:] = (1, 2)
    image = draw_boxes_3d(GREY, boxes.take(np.array(order)), CALIB, CLASS_NAMES)
    far = draw_boxes_3d(GREY, boxes.take(np.array([0])), CALIB, CLASS_NAMES)
    inside = (118, 200)  # of both front faces
    np.testing.assert_allclose(far[inside], 0.3 * np.array(solid_color(1)) + 0.7 * 90, atol=1)
    np.testing.assert_allclose(image[inside], 0.3 * np.array(solid_color(2)) + 0.7 * far[inside], atol=1)


@pytest.mark.parametrize("outline", [PLAIN, None])
def test_no_boxes_and_no_radar(outline: Color | None) -> None:
    assert np.array_equal(draw_detections(GREY, detections(), CALIB, outline), GREY)
    assert np.array_equal(draw_radar(GREY, np.zeros((18, 0)), CALIB), GREY)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    wrong = detections((np.nan, 1, 12, 0), (0, 1, np.inf, 0))
    assert not changed(draw_detections(GREY, wrong, CALIB)).any()
    huge = draw_detections(GREY, detections((0, 1, 1e20, 0), (1e9, 0, 5, 0)), CALIB)
    assert huge.shape == GREY.shape


def test_caption_stands_above_its_box_and_two_do_not_overlap() -> None:
    alone = draw_detections(GREY, detections(AHEAD), CALIB)
    plate = (alone[80:92] == solid_color(0)).all(axis=2)
    assert plate.sum() > 200
    pair = detections(AHEAD, (0.05, 1.0, 12.0, np.pi / 2))
    both = draw_detections(GREY, pair, CALIB)
    below = (both[154:166] == solid_color(0)).all(axis=2)
    assert below.sum() > 200, "the second caption finds its place below"


@pytest.mark.parametrize(("width", "line"), [(400, 1), (1600, 2), (3200, 4)])
def test_lines_grow_with_the_image(width: int, line: int) -> None:
    factor = width / 400
    image = np.full((round(225 * factor), width, 3), 90, np.uint8)
    calib = np.diag((factor, factor, 1.0)) @ CALIB
    # The lower edge of the near face, away from any other line.
    column = changed(draw_detections(image, detections(AHEAD), calib), image)[round(145 * factor) :, width // 2]
    assert line <= column.sum() <= line + 3


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 701, 3), (333, 7, 3), (97, 101, 3)])
def test_odd_sizes(shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    assert draw_detections(image, detections(AHEAD), CALIB).shape == shape
    assert draw_radar(image, radar((0, 0, 10, 3, 3)), CALIB).shape == shape


def test_three_columns_of_intrinsics_do_as_well() -> None:
    boxes = detections(AHEAD)
    assert np.array_equal(draw_detections(GREY, boxes, CALIB[:, :3]), draw_detections(GREY, boxes, CALIB))


def test_radar_point_has_the_colour_of_its_depth_and_near_ones_lie_on_top() -> None:
    near, far = depth_colors(np.array([5.0, 50.0]))
    assert (near != far).any()
    image = draw_radar(GREY, radar((0, 0, 5, 0, 0), (0, 0, 50, 0, 0), (2, 0, 10, 0, 0)), CALIB)
    assert (image[112, 200] == near).all()
    assert (image[112, 280] == depth_colors(np.array([10.0]))[0]).all()
    assert changed(image).sum() < 120, "three small dots"


def test_radar_behind_the_camera_or_outside_the_image_is_not_drawn() -> None:
    points = radar((0, 0, -5, 0, 1), (0, 0, 0.01, 0, 1), (20, 0, 5, -1, 0), (np.nan, 0, 5, 0, 0))
    assert not changed(draw_radar(GREY, points, CALIB)).any()


def test_velocity_arrow_leads_to_where_the_point_will_be() -> None:
    still = changed(draw_radar(GREY, radar((0, 0, 10, 0.2, 0)), CALIB))
    moving = changed(draw_radar(GREY, radar((0, 0, 10, 4.0, 0)), CALIB))
    assert extent(still)[2] < 206
    assert extent(moving)[2] == pytest.approx(280, abs=2)  # 2 m to the right at 40 pixels a metre
    assert extent(moving)[0] > 193
    # Towards the camera and through it: cut at the near plane, along the line from the point outward.
    towards = changed(draw_radar(GREY, radar((1, 0, 10, 0, -40)), CALIB))
    assert extent(towards)[2] == 399
    assert not towards[:, :230].any()


def test_lines_are_cut_at_a_rectangle() -> None:
    lines = np.array([[(-10, 5), (20, 5)], [(-5, -5), (-5, 20)], [(3, 3), (4, 4)], [(5, -1e12), (5, 1e12)]], np.float64)
    ends, inside = clip_to_rectangle(lines, (0, 0, 10, 10))
    assert inside.tolist() == [True, False, True, True]
    assert ends[0].tolist() == [[0, 5], [10, 5]]
    assert ends[2].tolist() == [[3, 3], [4, 4]]
    np.testing.assert_allclose(ends[3], [(5, 0), (5, 10)], atol=1e-3)
