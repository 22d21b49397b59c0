"""What stands and moves around the ego vehicle: rows beside the road, kinds in them, and no two at one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.fusion_catalog import BARE_HEIGHT, FUSION_KINDS, KIND_OF
from boxwright.synthetic.road import ASPHALT, LANE, LANES, Motion, draw_profile, profile_times

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_NEAR = 36.0  # metres along the road from the ego vehicle, at the time an object is drawn for
_TRIES = 12  # candidates an object, at most
_CHECK_STEP = 0.25  # seconds between the times at which objects must not touch
_GAP = (0.7, 0.35)  # metres between two objects, along and across
_EGO_SIZE = (4.6, 1.9)  # length and width
_EGO_MIDDLE = 1.3  # metres from the rear axle to the middle of the ego vehicle
_EGO_GAP = (3.0, 2.0)  # wide enough that no bus fills the side cameras


@dataclass(frozen=True, slots=True)
class Placement:
    """N objects of a scene.

    Args:
        kinds: (N,) positions in `FUSION_KINDS`.
        sizes: (N, 3) length, width, height.
        motion: beside the road.
        facing: (N,) heading against the road's.
        parked: (N,) whether a vehicle was left there.
        ridden: (N,) whether a cycle carries a rider.
        looks: (N,) seeds of the appearance.
    """

    kinds: Ints
    sizes: Array
    motion: Motion
    facing: Array
    parked: Flags
    ridden: Flags
    looks: Ints


@dataclass(frozen=True, slots=True)
class _Row:
    """A strip along the road.

    Args:
        share: of all objects.
        across: range in metres, on both sides of the road where `both`.
        kinds: weights.
        direction: +1 along the road, -1 against it, 0 where nothing drives.
        crossing: whether who walks here crosses the road.
    """

    share: float
    across: tuple[float, float]
    kinds: dict[str, float]
    direction: int = 0
    both: bool = False
    crossing: bool = False


_LANE = {
    "car": 2.6,
    "truck": 1.7,
    "bus": 1.8,
    "trailer": 1.5,
    "construction_vehicle": 0.8,
    "motorcycle": 1.4,
    "bicycle": 1.1,
}
_PARKED = {
    "car": 1.3,
    "truck": 0.6,
    "bus": 0.8,
    "trailer": 0.7,
    "construction_vehicle": 1.1,
    "motorcycle": 0.9,
    "bicycle": 0.6,
    "traffic_cone": 1.8,
    "barrier": 1.6,
}
_PAVEMENT = {
    "pedestrian": 4.0,
    "bicycle": 0.5,
    "motorcycle": 0.4,
    "traffic_cone": 2.0,
    "barrier": 1.8,
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
    pace: tuple[float, float]
    facing: float
    parked: bool
    ridden: bool


class _Traffic:
    """Objects accepted so far, and where they are at the times of the checks."""

    def __init__(self, span: tuple[float, float], ego: Motion, count: int) -> None:
        self._stored = profile_times(span)
        self._times = np.arange(span[0], span[1] + _CHECK_STEP, _CHECK_STEP)
        self._half = np.zeros((count + 1, 2))  # extent along and across, and half of the gap to keep
        self._where = np.zeros((count + 1, len(self._times), 2))
        self._half[0] = np.array(_EGO_SIZE) / 2 + np.array(_EGO_GAP)
        self._where[0, :, 0] = [ego.along(float(time))[0] + _EGO_MIDDLE for time in self._times]
        self._where[0, :, 1] = ego.across(0.0)[0]
        self.taken: list[_Candidate] = []
        self.progress: list[Array] = []
        self.origins: list[tuple[float, float]] = []

    def offer(self, candidate: _Candidate, progress: Array, along: float, time: float, *, anyway: bool = False) -> None:
        """Take a candidate that is `along` the road at a time, if it never touches another one, or `anyway`."""
        driven = np.interp(self._times, self._stored, progress)
        then = float(np.interp(time, self._stored, progress))
        origin = (along - candidate.pace[0] * then, candidate.across - candidate.pace[1] * then)
        where = np.array(origin) + driven[:, None] * np.array(candidate.pace)
        turned = abs(np.sin(candidate.facing)) > 0.7
        length, width = candidate.size[1::-1] if turned else candidate.size[:2]
        half = np.array([length, width]) / 2 + np.array(_GAP) / 2
        count = len(self.taken) + 1
        apart = np.abs(self._where[:count] - where) > (self._half[:count] + half)[:, None]
        if not (anyway or apart.any(-1).all()):
            return
        self._half[count], self._where[count] = half, where
        self.taken.append(candidate)
        self.progress.append(progress)
        self.origins.append(origin)


def place_traffic(rng: np.random.Generator, ego: Motion, span: tuple[float, float], count: int) -> Placement:
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
        moves = candidate.pace != (0.0, 0.0)
        progress = draw_profile(rng, span, 0.3 if moves and row.direction else 0.0)
        traffic.offer(candidate, progress, along, time)
    return _placement(rng, traffic, span)


def _candidate(rng: np.random.Generator, row: _Row) -> _Candidate:
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
    return _Candidate(
        KIND_OF[name],
        _size(rng, name, ridden=bool(row.direction)),
        across,
        pace,
        facing,
        parked=not row.direction,
        ridden=bool(row.direction),
    )


def _size(rng: np.random.Generator, name: str, *, ridden: bool) -> tuple[float, float, float]:
    kind = FUSION_KINDS[KIND_OF[name]]
    length, width, height = kind.size
    if not ridden:
        height = BARE_HEIGHT.get(name, height)
    scale = np.clip(rng.normal(1, kind.spread) + rng.normal(0, kind.spread / 2, 3), 0.8, 1.25)
    return float(length * scale[0]), float(width * scale[1]), float(height * scale[2])


def _place_rack(rng: np.random.Generator, traffic: _Traffic, ego: Motion, span: tuple[float, float]) -> None:
    """Put a rack with bicycles in it beside the road; what stands in a rack may touch it."""
    time = float(rng.uniform(*span))
    along = float(ego.along(time)[0] + rng.uniform(-20, 20))
    across = _RACK_ACROSS * (1.0 if rng.random() < 0.5 else -1.0)
    flat = draw_profile(rng, span, 0.0)
    bicycle = KIND_OF["bicycle"]
    for offset in (-1.4, 0.0, 1.4):
        size = _size(rng, "bicycle", ridden=False)
        facing = np.pi / 2 + float(rng.normal(0, 0.1))
        parked = _Candidate(bicycle, size, across, (0.0, 0.0), facing, parked=True, ridden=False)
        traffic.offer(parked, flat, along + offset, time)
    size = _size(rng, "bicycle_rack", ridden=False)
    rack = _Candidate(KIND_OF["bicycle_rack"], size, across, (0.0, 0.0), 0.0, parked=True, ridden=False)
    traffic.offer(rack, flat, along, time, anyway=True)


def _placement(rng: np.random.Generator, traffic: _Traffic, span: tuple[float, float]) -> Placement:
    taken = traffic.taken
    progress = np.stack(traffic.progress, 1) if taken else np.zeros((len(profile_times(span)), 0))
    motion = Motion(
        span[0],
        progress,
        np.array(traffic.origins, np.float64).reshape(-1, 2),
        np.array([candidate.pace for candidate in taken], np.float64).reshape(-1, 2),
    )
    return Placement(
        np.array([candidate.kind for candidate in taken], np.int64),
        np.array([candidate.size for candidate in taken], np.float64).reshape(-1, 3),
        motion,
        np.array([candidate.facing for candidate in taken], np.float64),
        np.array([candidate.parked for candidate in taken], np.bool_),
        np.array([candidate.ridden for candidate in taken], np.bool_),
        rng.integers(0, 2**31, len(taken)),
    )
