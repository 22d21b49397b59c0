"""A curved road, and what stands and moves on it: rows beside the road, kinds in them, and no two at one place.

`along` is the distance on the road's centre line, `across` the offset to its left, both in metres. Traffic keeps to the
right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.catalog import BARE_HEIGHT, KIND_OF, KINDS

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Span = tuple[float, float]  # first and last second

LANE = 4.0  # metres
LANES = 2  # in each direction
ASPHALT = LANE * LANES + 3.0  # half of the asphalt's width: lanes and a strip to park on
PAVEMENT = ASPHALT + 5.0  # half of the width up to the outer edge of the pavement
EGO_ACROSS = -LANE / 2

_ROAD_STEP = 0.25  # metres between the stored points of a centre line
_TIME_STEP = 0.02  # seconds between the stored states of a motion
_NEAR = 36.0  # metres along the road from the ego vehicle, at the time an object is drawn for
_TRIES = 12  # candidates per object, at most
_CHECK_STEP = 0.25  # seconds between the times at which objects must not touch
_GAP = (0.7, 0.35)  # metres between two objects, along and across
_EGO_SIZE = (4.6, 1.9)  # length and width
_EGO_MIDDLE = 1.3  # metres from the rear axle to the middle of the ego vehicle
_EGO_GAP = (3.0, 2.0)  # wide enough that no bus fills the side cameras


@dataclass(frozen=True, slots=True)
class Road:
    """A centre line, stored at K points."""

    along: Array  # (K,) in equal steps
    x: Array  # (K,) global
    y: Array  # (K,) global
    heading: Array  # (K,) rad
    curvature: Array  # (K,) 1/m, positive to the left

    def locate(self, along: Array, across: Array) -> tuple[Array, Array, Array]:
        """Return x, y and the road's heading at points beside the centre line; all of one shape."""
        heading = np.interp(along, self.along, self.heading)
        x = np.interp(along, self.along, self.x) - np.sin(heading) * across
        y = np.interp(along, self.along, self.y) + np.cos(heading) * across
        return x, y, heading


@dataclass(frozen=True, slots=True)
class Motion:
    """How N objects move beside a road."""

    start: float  # time of the first stored state, seconds
    progress: Array  # (T, N) seconds driven at full speed, at times `start` + k steps
    origin: Array  # (N, 2) along and across where the progress is 0
    pace: Array  # (N, 2) full speed along and across, m/s

    def along(self, time: float) -> Array:
        """Return the distance along the road, (N,)."""
        return self.origin[:, 0] + self.pace[:, 0] * self._driven(time)[0]

    def state(self, road: Road, time: float) -> tuple[Array, Array, Array]:
        """Return positions on the ground (N, 3), headings of the road there (N,) and velocities (N, 3), global."""
        driven, rate = self._driven(time)
        along, across = (self.origin + self.pace * driven[:, None]).T
        x, y, heading = road.locate(along, across)
        curvature = np.interp(along, road.along, road.curvature)
        speed_along, speed_across = (self.pace * rate[:, None]).T
        speed_along = speed_along * (1 - curvature * across)  # the centre line is longer than its inner side
        c, s = np.cos(heading), np.sin(heading)
        velocities = np.stack(
            [speed_along * c - speed_across * s, speed_along * s + speed_across * c, np.zeros_like(c)], 1
        )
        return np.stack([x, y, np.zeros_like(x)], 1), heading, velocities

    def _driven(self, time: float) -> tuple[Array, Array]:
        """Return the progress (N,) at a time, and how fast it grows, 0..1."""
        position = np.clip((time - self.start) / _TIME_STEP, 0, len(self.progress) - 1.001)
        row = int(position)
        grown = self.progress[row + 1] - self.progress[row]
        return self.progress[row] + grown * (position - row), grown / _TIME_STEP


@dataclass(frozen=True, slots=True)
class Placement:
    """N objects of a scene."""

    kinds: Ints  # (N,) positions in `KINDS`
    sizes: Array  # (N, 3) length, width, height in metres
    motion: Motion  # beside the road
    facing: Array  # (N,) heading against the road's, rad
    driven: Bools  # (N,) in a lane: a vehicle that is not parked, a cycle with a rider
    looks: Ints  # (N,) seeds of the appearance


@dataclass(frozen=True, slots=True)
class _Row:
    """A strip along the road."""

    share: float  # of all objects
    across: tuple[float, float]  # range in metres, on both sides of the road where `both`
    kinds: dict[str, float]  # weights
    direction: int = 0  # +1 along the road, -1 against it, 0 where nothing drives
    both: bool = False
    crossing: bool = False  # who walks here crosses the road


_VEHICLES: tuple[str, ...] = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle")
_LANE = dict(zip(_VEHICLES, (2.6, 1.7, 1.8, 1.5, 0.8, 1.4, 1.1), strict=True))
_PARKED = dict(zip(_VEHICLES, (1.3, 0.6, 0.8, 0.7, 1.1, 0.9, 0.6), strict=True)) | {"traffic_cone": 1.8, "barrier": 1.6}
_PAVEMENT = {"pedestrian": 4.0, "bicycle": 0.5, "motorcycle": 0.4, "traffic_cone": 2.0, "barrier": 1.8} | {
    "animal": 0.12,
    "debris": 0.2,
}
_OUTER = LANE * (LANES - 0.5)
_ROWS = (
    _Row(0.10, (-LANE / 2, -LANE / 2), _LANE, 1),
    _Row(0.13, (-_OUTER, -_OUTER), _LANE, 1),
    _Row(0.12, (LANE / 2, LANE / 2), _LANE, -1),
    _Row(0.12, (_OUTER, _OUTER), _LANE, -1),
    _Row(0.22, (ASPHALT - 1.7, ASPHALT - 1.4), _PARKED, both=True),
    _Row(0.25, (ASPHALT + 0.8, ASPHALT + 4.2), _PAVEMENT, both=True),
    _Row(0.06, (-ASPHALT, ASPHALT), {"pedestrian": 1.0}, crossing=True),
)
_RACK_ACROSS = ASPHALT + 2.6
_SPEEDS = {"pedestrian": (0.7, 1.8), "bicycle": (2.0, 5.5), "construction_vehicle": (1.5, 6.0), "animal": (0.5, 1.2)}
_DRIVING = (2.0, 11.0)  # m/s, of all other kinds
_STANDING = {"pedestrian": 0.35, "animal": 0.5}  # share that does not walk


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: int
    size: tuple[float, float, float]
    across: float
    facing: float
    pace: tuple[float, float] = (0.0, 0.0)
    driven: bool = False


class _Traffic:
    """Objects accepted so far, and where they are at the times of the checks."""

    def __init__(self, span: Span, ego: Motion, count: int) -> None:
        self._stored = _profile_times(span)
        self._times = np.arange(span[0], span[1] + _CHECK_STEP, _CHECK_STEP)
        self._half = np.zeros((count + 1, 2))  # extent along and across, and half of the gap to keep
        self._where = np.zeros((count + 1, len(self._times), 2))
        # The ego vehicle is the first: nothing may touch it either.
        self._half[0] = np.array(_EGO_SIZE) / 2 + np.array(_EGO_GAP)
        self._where[0, :, 0] = [ego.along(float(time))[0] + _EGO_MIDDLE for time in self._times]
        self._where[0, :, 1] = ego.origin[0, 1]
        self.taken: list[_Candidate] = []
        self.progress: list[Array] = []
        self.origins: list[tuple[float, float]] = []

    def offer(self, candidate: _Candidate, progress: Array, along: float, time: float, *, anyway: bool = False) -> None:
        """Accept a candidate that is `along` the road at a time, if it never touches another one, or `anyway`."""
        then = float(np.interp(time, self._stored, progress))
        origin = (along - candidate.pace[0] * then, candidate.across - candidate.pace[1] * then)
        driven = np.interp(self._times, self._stored, progress)
        where = np.array(origin) + driven[:, None] * np.array(candidate.pace)
        # Objects are compared as rectangles along the road: in its coordinates a bend is straight.
        sideways = abs(np.sin(candidate.facing)) > 0.7
        length, width = candidate.size[1::-1] if sideways else candidate.size[:2]
        half = np.array([length, width]) / 2 + np.array(_GAP) / 2
        count = len(self.taken) + 1
        apart = np.abs(self._where[:count] - where) > (self._half[:count] + half)[:, None]
        if anyway or apart.any(-1).all():
            self._half[count], self._where[count] = half, where
            self.taken.append(candidate)
            self.progress.append(progress)
            self.origins.append(origin)


def place_traffic(rng: np.random.Generator, ego: Motion, span: Span, count: int) -> Placement:
    """Put objects around the ego vehicle.

    Args:
        rng: draws them.
        ego: motion of the ego vehicle.
        span: seconds over which nothing may touch.
        count: objects wanted; fewer where they do not fit.
    """
    traffic = _Traffic(span, ego, count)
    if count >= 12 and rng.random() < 0.5:
        _place_rack(rng, traffic, ego, span)
    shares = np.cumsum([row.share for row in _ROWS])
    for _ in range(count * _TRIES):
        if len(traffic.taken) >= count:
            break
        row = _ROWS[int(np.searchsorted(shares, rng.random() * shares[-1]))]
        candidate = _candidate(rng, row)
        time = float(rng.uniform(*span))
        along = float(ego.along(time)[0] + rng.uniform(-_NEAR, _NEAR))
        progress = _draw_profile(rng, span, 0.3 if candidate.driven else 0.0)
        traffic.offer(candidate, progress, along, time)
    taken = traffic.taken
    progress = np.stack(traffic.progress, 1) if taken else np.zeros((len(_profile_times(span)), 0))
    pace = np.array([candidate.pace for candidate in taken], np.float64).reshape(-1, 2)
    return Placement(
        np.array([candidate.kind for candidate in taken], np.int64),
        np.array([candidate.size for candidate in taken], np.float64).reshape(-1, 3),
        Motion(span[0], progress, np.array(traffic.origins, np.float64).reshape(-1, 2), pace),
        np.array([candidate.facing for candidate in taken], np.float64),
        np.array([candidate.driven for candidate in taken], np.bool_),
        rng.integers(0, 2**31, len(taken)),
    )


def _candidate(rng: np.random.Generator, row: _Row) -> _Candidate:
    """Draw an object for a row."""
    steps = np.cumsum(list(row.kinds.values()))
    name = list(row.kinds)[int(np.searchsorted(steps, rng.random() * steps[-1]))]
    side = -1.0 if row.both and rng.random() < 0.5 else 1.0
    across = side * float(rng.uniform(*row.across)) + float(rng.normal(0, 0.15))
    low, high = _SPEEDS.get(name, _DRIVING)
    speed = float(rng.uniform(low, high))
    facing = 0.0 if side * (row.direction or -1) > 0 else np.pi  # parked on the side one drives on
    pace = (0.0, 0.0)
    if row.direction:
        facing = 0.0 if row.direction > 0 else np.pi
        pace = (row.direction * speed, 0.0)
    elif name in _STANDING:
        along_road = np.pi * float(rng.integers(0, 2))
        facing = (along_road + np.pi / 2 if row.crossing else along_road) + float(rng.normal(0, 0.2))
        if row.crossing or rng.random() >= _STANDING[name]:
            pace = (float(speed * np.cos(facing)), float(speed * np.sin(facing)))
        else:
            facing = float(rng.uniform(-np.pi, np.pi))
    elif name in ("barrier", "traffic_cone", "debris"):
        facing = np.pi / 2 * float(rng.integers(0, 4)) + float(rng.normal(0, 0.15))
    else:
        facing += np.pi * float(rng.random() < 0.2) + float(rng.normal(0, 0.06))
    driven = bool(row.direction)
    return _Candidate(KIND_OF[name], _draw_size(rng, name, ridden=driven), across, facing, pace, driven)


def _draw_size(rng: np.random.Generator, name: str, *, ridden: bool) -> tuple[float, float, float]:
    """Draw length, width and height of an object."""
    kind = KINDS[KIND_OF[name]]
    length, width, height = kind.size
    if not ridden:
        height = BARE_HEIGHT.get(name, height)
    # One factor for the whole object and a smaller one for each side: big cars are longer and wider.
    scale = np.clip(rng.normal(1, kind.spread) + rng.normal(0, kind.spread / 2, 3), 0.8, 1.25)
    return float(length * scale[0]), float(width * scale[1]), float(height * scale[2])


def _place_rack(rng: np.random.Generator, traffic: _Traffic, ego: Motion, span: Span) -> None:
    """Put a rack with bicycles in it beside the road; what stands in a rack may touch it."""
    time = float(rng.uniform(*span))
    along = float(ego.along(time)[0] + rng.uniform(-20, 20))
    across = _RACK_ACROSS * (1.0 if rng.random() < 0.5 else -1.0)
    flat = _draw_profile(rng, span, 0.0)
    for offset in (-1.4, 0.0, 1.4):
        size = _draw_size(rng, "bicycle", ridden=False)
        facing = np.pi / 2 + float(rng.normal(0, 0.1))
        traffic.offer(_Candidate(KIND_OF["bicycle"], size, across, facing), flat, along + offset, time)
    size = _draw_size(rng, "bicycle_rack", ridden=False)
    traffic.offer(_Candidate(KIND_OF["bicycle_rack"], size, across, 0.0), flat, along, time, anyway=True)


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


def draw_ego_motion(rng: np.random.Generator, span: Span) -> Motion:
    """Draw the motion of the ego vehicle, which is at 0 m along the road at the start of the span."""
    speed = float(rng.uniform(2.0, 8.0))
    progress = _draw_profile(rng, span, 0.4)
    return Motion(span[0], progress[:, None], np.array([[0.0, EGO_ACROSS]]), np.array([[speed, 0.0]]))


def _profile_times(span: Span) -> Array:
    """Return the times (T,) at which the motions of a span of seconds are stored."""
    return np.arange(span[0], span[1] + 2 * _TIME_STEP, _TIME_STEP)


def _draw_profile(rng: np.random.Generator, span: Span, stops: float) -> Array:
    """Draw the progress (T,) of one object over a span of seconds; with probability `stops` it brakes and starts."""
    times = _profile_times(span)
    if rng.random() >= stops:
        return times - span[0]
    period, phase = float(rng.uniform(8, 16)), float(rng.uniform(0, 2 * np.pi))
    rate = np.clip(0.55 + 0.9 * np.sin(2 * np.pi * times / period + phase), 0, 1)
    return _integral(rate * rate * (3 - 2 * rate), _TIME_STEP)  # smooth step: no jerk where it stops


def _integral(values: Array, step: float) -> Array:
    """Return the running integral by the trapezoid rule, 0 at the first point."""
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2) * step])
