"""The view from above: forward is up, left is left, annotations and predictions look different."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.centerfusion.pictures import boxes_of_global, points_of_radar
from boxwright.drawing.birds_eye import BACKGROUND, TRUTH, draw_birds_eye
from boxwright.drawing.boxes3d import SolidBoxes, SolidPoints
from boxwright.drawing.canvas import depth_colors, solid_color
from tests.unit.drawing.scenes3d import EGO_FROM_FORWARD, changed, global_boxes, radar

# 501 pixels for 50 m to each side: 5.01 pixels a metre about (250, 250).
SIZE = 501
BARE = draw_birds_eye(size=SIZE, legend=False)


def boxes(*rows: tuple[float, float, float], velocity: tuple[float, float, float] = (0, 0, 0)) -> SolidBoxes:
    found = boxes_of_global(global_boxes(*rows, score=0.8))
    found.velocities[:] = velocity
    return found


def painted(**given: object) -> np.ndarray:
    return changed(draw_birds_eye(size=SIZE, legend=False, **given), BARE)  # pyright: ignore[reportArgumentType]


def middle(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


@pytest.mark.parametrize(
    ("place", "pixel"),
    [((20, 0), (250, 150)), ((-20, 0), (250, 350)), ((3, 15), (175, 235)), ((3, -15), (325, 235))],
)
@pytest.mark.parametrize("kind", ["truth", "predictions"])
def test_forward_is_up_and_left_is_left(place: tuple[float, float], pixel: tuple[float, float], kind: str) -> None:
    mask = painted(**{kind: boxes((*place, 0.0))})
    assert middle(mask) == pytest.approx(pixel, abs=1.5)
    columns, rows = np.ptp(np.nonzero(mask)[1]), np.ptp(np.nonzero(mask)[0])
    assert (columns, rows) == pytest.approx((10, 20), abs=3), "2 m wide, 4 m long"


def test_annotations_are_filled_and_white_predictions_are_outlines_in_the_colour_of_the_class() -> None:
    place = boxes((20, 8, 0.0))  # its middle is at column 210, row 150; the tick leads up from there
    truth = draw_birds_eye(truth=place, size=SIZE, legend=False)
    predicted = draw_birds_eye(predictions=place, size=SIZE, legend=False)
    inside = (slice(153, 157), slice(207, 213))
    assert changed(truth, BARE)[inside].all()
    assert not changed(predicted, BARE)[inside].any()
    np.testing.assert_allclose(truth[145, 210], TRUTH, atol=60)  # the tick
    np.testing.assert_allclose(predicted[145, 210], solid_color(0), atol=60)


def test_tick_points_where_the_box_heads() -> None:
    up, left = painted(predictions=boxes((20, 8, 0.0))), painted(predictions=boxes((20, 8, np.pi / 2)))
    assert up[145, 210]
    assert not up[155, 210]
    assert left[150, 205]
    assert not left[150, 215]


def test_velocity_arrow_is_half_a_second_long() -> None:
    still, moving = painted(truth=boxes((20, 8, 0.0))), painted(truth=boxes((20, 8, 0.0), velocity=(0, -20, 0)))
    assert np.nonzero(still)[1].max() < 218
    assert np.nonzero(moving)[1].max() == pytest.approx(210 + 50, abs=2)


def test_unknown_velocity_has_no_arrow() -> None:
    unknown = painted(truth=boxes((20, 8, 0.0), velocity=(np.nan, np.nan, 0)))
    assert np.array_equal(unknown, painted(truth=boxes((20, 8, 0.0))))


def test_best_prediction_lies_on_top() -> None:
    pair = boxes((20, 8, 0.0), (20, 8, 0.0))
    pair.labels[:] = (1, 2)
    pair.scores[:] = (0.9, 0.4)
    image = draw_birds_eye(predictions=pair, size=SIZE, legend=False)
    distances = [np.abs(image[145, 210].astype(int) - solid_color(label)).sum() for label in (1, 2)]
    assert distances[0] < distances[1] / 3


def test_radar_of_a_camera_lands_in_the_ego_frame() -> None:
    points = points_of_radar(radar((-8, 0, 28.5, 0, 0))).transform(EGO_FROM_FORWARD)  # 30 m ahead, 8 m to the left
    image = draw_birds_eye(radar=SolidPoints.join([points]), size=SIZE, legend=False)
    assert middle(changed(image, BARE)) == pytest.approx((210, 100), abs=1.5)
    assert (image == depth_colors(np.array([28.5]))[0]).all(2).any()
    moving = points_of_radar(radar((-8, 0, 28.5, 0, 20))).transform(EGO_FROM_FORWARD)
    rows = np.nonzero(painted(radar=moving))[0]
    assert rows.min() == pytest.approx(50, abs=2), "10 m forward in half a second"


def test_rings_are_ten_metres_apart() -> None:
    column = (BARE[:, 290] != BACKGROUND).any(axis=1)
    heights = [250 - np.sqrt((r * 5.01) ** 2 - 40**2) for r in (10, 20, 30, 40)]
    assert all(column[round(h) - 1 : round(h) + 2].any() for h in heights)
    assert not column[175:205].any()


def test_what_is_outside_leaves_no_mark() -> None:
    far = boxes((500, 0, 0.0), (0, -90, 1.0))
    points = points_of_radar(radar((0, 0, 400, 0, 0), (np.nan, 0, 3, 0, 0)))
    assert not painted(truth=far, predictions=far, radar=points.transform(EGO_FROM_FORWARD)).any()


def test_nothing_to_show() -> None:
    none = boxes()
    assert not painted(truth=none, predictions=none, radar=points_of_radar(radar())).any()


def test_legend_names_what_is_shown() -> None:
    alone = changed(draw_birds_eye(size=SIZE), BARE)
    both = changed(draw_birds_eye(boxes(), boxes(), size=SIZE), BARE)
    assert alone[400:, :200].any()
    assert np.nonzero(both)[0].min() < np.nonzero(alone)[0].min(), "two more lines"
    assert np.nonzero(both)[0].min() > 350
    assert np.nonzero(both)[1].max() < 250


@pytest.mark.parametrize("size", [1, 3, 401, 260, 64])
def test_odd_sizes(size: int) -> None:
    image = draw_birds_eye(boxes((5, 3, 1.0)), boxes((5, 3, 1.1)), size=size, radius=17.0)
    assert image.shape == (size, size, 3)


def test_larger_radius_shows_the_same_box_smaller() -> None:
    near, far = (
        changed(
            draw_birds_eye(boxes((15, 8, 0.0)), size=SIZE, legend=False, radius=r),
            draw_birds_eye(size=SIZE, legend=False, radius=r),
        ).sum()
        for r in (30.0, 90.0)
    )
    assert near > 5 * far
