"""A curved road, and motion along it: positions, headings and velocities of many objects at a time.

`along` is the distance on the centre line, `across` the offset to its left, both in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LANE = 4.0  # metres
LANES = 2  # in each direction
ASPHALT = LANE * LANES + 3.0  # half of the asphalt's width: lanes and a strip to park on
PAVEMENT = ASPHALT + 5.0  # half of the width up to the outer edge of the pavement
EGO_ACROSS = -LANE / 2

_ROAD_STEP = 0.25  # metres between the stored points of a centre line
_TIME_STEP = 0.02  # seconds between the stored states of a motion


@dataclass(frozen=True, slots=True)
class Road:
    """A centre line: (K,) `along` in equal steps, x, y, heading and curvature (1/m, positive to the left) there."""

    along: Array
    x: Array
    y: Array
    heading: Array
    curvature: Array

    def place(self, along: Array, across: Array) -> tuple[Array, Array, Array]:
        """Return x, y and the road's heading at points beside the centre line; all of one shape."""
        heading = np.interp(along, self.along, self.heading)
        x = np.interp(along, self.along, self.x) - np.sin(heading) * across
        y = np.interp(along, self.along, self.y) + np.cos(heading) * across
        return x, y, heading


@dataclass(frozen=True, slots=True)
class Motion:
    """How N objects move beside a road.

    Args:
        start: time of the first stored state, seconds.
        progress: (T, N) seconds driven at full speed, at times `start` + k steps.
        origin: (N, 2) along and across where the progress is 0.
        pace: (N, 2) full speed along and across, m/s.
    """

    start: float
    progress: Array
    origin: Array
    pace: Array

    def _driven(self, time: float) -> tuple[Array, Array]:
        """Return the progress (N,) at a time, and how fast it grows, 0..1."""
        position = np.clip((time - self.start) / _TIME_STEP, 0, len(self.progress) - 1.001)
        row = int(position)
        grown = self.progress[row + 1] - self.progress[row]
        return self.progress[row] + grown * (position - row), grown / _TIME_STEP

    def along(self, time: float) -> Array:
        """Return the distance along the road, (N,)."""
        return self.origin[:, 0] + self.pace[:, 0] * self._driven(time)[0]

    def across(self, time: float) -> Array:
        """Return the offset to the left of the road, (N,)."""
        return self.origin[:, 1] + self.pace[:, 1] * self._driven(time)[0]

    def state(self, road: Road, time: float) -> tuple[Array, Array, Array]:
        """Return positions on the ground (N, 3), headings of the road there (N,) and velocities (N, 3), global."""
        driven, rate = self._driven(time)
        along, across = (self.origin + self.pace * driven[:, None]).T
        x, y, heading = road.place(along, across)
        curvature = np.interp(along, road.along, road.curvature)
        speed_along, speed_across = (self.pace * rate[:, None]).T
        speed_along = speed_along * (1 - curvature * across)  # the centre line is longer than its inner side
        c, s = np.cos(heading), np.sin(heading)
        velocities = np.stack(
            [speed_along * c - speed_across * s, speed_along * s + speed_across * c, np.zeros_like(c)], 1
        )
        return np.stack([x, y, np.zeros_like(x)], 1), heading, velocities


def draw_road(rng: np.random.Generator, first: float, last: float) -> Road:
    """Draw a road that bends to both sides, somewhere on a map, from `first` to `last` metres."""
    along = np.arange(first, last + _ROAD_STEP, _ROAD_STEP)
    tightest = float(rng.uniform(0.0, 1 / 60))  # curvature; a quarter of the roads are nearly straight
    length, phase = float(rng.uniform(120, 260)), float(rng.uniform(0, 2 * np.pi))
    curvature = tightest * np.sin(2 * np.pi * along / length + phase)
    heading = float(rng.uniform(-np.pi, np.pi)) + _integral(curvature, _ROAD_STEP)
    x = float(rng.uniform(300, 1500)) + _integral(np.cos(heading), _ROAD_STEP)
    y = float(rng.uniform(300, 1500)) + _integral(np.sin(heading), _ROAD_STEP)
    return Road(along, x, y, heading, curvature)


def profile_times(span: tuple[float, float]) -> Array:
    """Return the times (T,) at which the motions of a span of seconds are stored."""
    return np.arange(span[0], span[1] + 2 * _TIME_STEP, _TIME_STEP)


def draw_profile(rng: np.random.Generator, span: tuple[float, float], stops: float) -> Array:
    """Draw the progress (T,) of one object over a span of seconds; with probability `stops` it brakes and starts."""
    times = profile_times(span)
    if rng.random() >= stops:
        return times - span[0]
    period, phase = float(rng.uniform(8, 16)), float(rng.uniform(0, 2 * np.pi))
    rate = np.clip(0.55 + 0.9 * np.sin(2 * np.pi * times / period + phase), 0, 1)
    return _integral(rate * rate * (3 - 2 * rate), _TIME_STEP)


def draw_motion(
    rng: np.random.Generator, span: tuple[float, float], *, along: float, across: float, speed: float, stops: float
) -> Motion:
    """Draw the motion of one object that is `along` the road at the start of the span."""
    progress = draw_profile(rng, span, stops)
    return Motion(span[0], progress[:, None], np.array([[along, across]]), np.array([[speed, 0.0]]))


def _integral(values: Array, step: float) -> Array:
    """Return the running integral by the trapezoid rule, 0 at the first point."""
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2) * step])
