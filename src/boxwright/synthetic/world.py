"""Scenes: a straight street with traffic, seen as arrays of object states that move in time.

Everything is in the global frame: x along the street, y left, z up, ground at z = 0, metres, seconds, radians. Traffic
keeps to the right: the ego vehicle drives towards +x on the right-hand lanes (y < 0). What is not here: appearance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.catalog import CLASS_OF, KINDS

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

DURATION = 20.0  # seconds that a scene lasts, as in nuScenes
LANE_WIDTH = 3.5
PARKING_WIDTH = 2.8
PAVEMENT_WIDTH = 4.0
MAX_LENGTH, MAX_HEIGHT = 22.0, 18.0  # of a building
_AHEAD, _BEHIND = 90.0, 60.0  # metres of street that are furnished in front of and behind the ego vehicle's path
_EGO_CLEARANCE = 6.0


@dataclass(frozen=True, slots=True)
class Objects:
    """States of N objects at one time.

    Args:
        class_ids: (N,) positions in `catalog.NAMES`.
        instance_ids: (N,) stay with an object through a scene.
        centers: (N, 3) centre of the cuboid.
        sizes: (N, 3) length, width, height.
        yaws: (N,) heading about z.
        velocities: (N, 3) m/s.
        looks: (N,) seeds of the appearance.
    """

    class_ids: Ints
    instance_ids: Ints
    centers: Array
    sizes: Array
    yaws: Array
    velocities: Array
    looks: Ints

    def __len__(self) -> int:
        return len(self.class_ids)

    def take(self, rows: Ints) -> Objects:
        """Return the objects at these positions, in this order."""
        return Objects(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Buildings:
    """Blocks beside the street: (K,) x0, x1, distance of the facade from the axis, side (+1 left, -1 right), height."""

    x0: Array
    x1: Array
    setback: Array
    side: Array
    height: Array
    looks: Ints


@dataclass(frozen=True, slots=True)
class Light:
    """Illumination of a scene.

    Args:
        to_sun: (3,) unit vector.
        ambient: brightness of what lies in shadow.
        direct: what full sun adds.
        tint: (3,) RGB gains.
        haze: (3,) RGB of the horizon.
        density: share of a colour lost to haze, per metre.
    """

    to_sun: Array
    ambient: float
    direct: float
    tint: Array
    haze: Array
    density: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One place and its traffic for `DURATION` seconds."""

    seed: int
    index: int
    lanes: int  # in each direction
    ego_y: float
    ego_speed: float
    objects: Objects  # at time 0
    buildings: Buildings
    light: Light

    def at(self, time: float) -> Objects:
        """Return the object states at a time in seconds after the start."""
        return replace(self.objects, centers=self.objects.centers + self.objects.velocities * time)

    def global_from_ego(self, time: float) -> Array:
        """Return the (4, 4) pose of the ego vehicle; its origin is on the ground below the rear axle."""
        pose = np.eye(4)
        pose[:2, 3] = self.ego_speed * time, self.ego_y
        return pose

    @property
    def kerb(self) -> float:
        """Distance of the kerb from the street's axis."""
        return self.lanes * LANE_WIDTH + PARKING_WIDTH


@dataclass(frozen=True, slots=True)
class _Row:
    """A strip along the street that objects stand in, one after another."""

    y: float
    heading: float  # 0 towards +x, pi towards -x
    speed: float  # of everything that drives in the row; 0 where parked
    kinds: dict[str, float]  # weights of the classes
    gaps: tuple[float, float]  # metres between neighbours
    wander: float  # standard deviation of the offset across, metres


_LANE: dict[str, float] = {
    "car": 4.5,
    "truck": 1.5,
    "bus": 1.4,
    "trailer": 1.0,
    "construction_vehicle": 0.9,
    "motorcycle": 2.8,
    "bicycle": 2.2,
}
_PARKED = {"car": 2.0, "truck": 0.7, "trailer": 0.7, "construction_vehicle": 1.2, "traffic_cone": 4.5, "barrier": 3.5}
_KERB = {"pedestrian": 2.0, "bicycle": 2.5, "motorcycle": 1.5, "traffic_cone": 2.5, "barrier": 0.8}
_PAVEMENT = {"pedestrian": 6.0, "bicycle": 1.0}


def make_scene(seed: int, index: int) -> Scene:
    """Build scene `index` of the world with this seed; the same arguments give the same scene."""
    rng = np.random.default_rng([seed, index])
    lanes = 1 + int(rng.random() < 0.35)
    ego_lane = int(rng.integers(0, lanes))
    ego_y = -(ego_lane + 0.5) * LANE_WIDTH
    ego_speed = float(rng.uniform(3.0, 9.0))
    rows = _rows(rng, lanes, ego_lane, ego_speed)
    reach = _AHEAD + DURATION * ego_speed
    objects = _furnish(rng, rows, ego_y, reach)
    buildings = _build(rng, lanes * LANE_WIDTH + PARKING_WIDTH + PAVEMENT_WIDTH, reach)
    return Scene(seed, index, lanes, ego_y, ego_speed, objects, buildings, draw_light(rng))


def _rows(rng: np.random.Generator, lanes: int, ego_lane: int, ego_speed: float) -> list[_Row]:
    kerb = lanes * LANE_WIDTH + PARKING_WIDTH
    rows: list[_Row] = []
    for side, heading in ((-1.0, 0.0), (1.0, np.pi)):
        for lane in range(lanes):
            speed = ego_speed if side < 0 and lane == ego_lane else float(rng.uniform(3.0, 9.0))
            rows.append(_Row(side * (lane + 0.5) * LANE_WIDTH, heading, speed, _LANE, (7.0, 22.0), 0.2))
        parked = side * (kerb - PARKING_WIDTH / 2)
        rows.append(_Row(parked, heading, 0.0, _PARKED, (2.5, 16.0), 0.2))
        rows.append(_Row(side * (kerb + 0.7), heading, 0.0, _KERB, (2.5, 14.0), 0.15))
        for offset in (2.0, 3.2):
            rows.append(_Row(side * (kerb + offset), heading, 0.0, _PAVEMENT, (2.0, 11.0), 0.25))
    return rows


def _furnish(rng: np.random.Generator, rows: list[_Row], ego_y: float, reach: float) -> Objects:
    """Fill each row with objects; what would stand on the ego vehicle is left out."""
    columns: list[tuple[int, float, float, float, float, float]] = []  # class, x, y, yaw, speed, size factor
    for row in rows:
        names = list(row.kinds)
        steps = np.cumsum(list(row.kinds.values())) / sum(row.kinds.values())
        x = -_BEHIND + float(rng.uniform(0, row.gaps[1]))
        # Oncoming traffic drives into the furnished stretch, so its row begins further ahead.
        end = reach + (row.speed * DURATION if row.heading else 0.0)
        while x < end:
            name = names[int(np.searchsorted(steps, rng.random()))]
            kind = KINDS[CLASS_OF[name]]
            x += kind.size[0] / 2
            y = row.y + float(rng.normal(0, row.wander))
            yaw, speed = _heading(rng, row, name, kind.speed)
            on_ego = abs(row.y - ego_y) < 0.1 and abs(x) < _EGO_CLEARANCE + kind.size[0] / 2
            if not on_ego:
                columns.append((CLASS_OF[name], x, y, yaw, speed, float(rng.normal(1, kind.spread))))
            x += kind.size[0] / 2 + float(rng.uniform(*row.gaps))
    table = np.array(columns)
    class_ids = table[:, 0].astype(np.int64)
    sizes = np.array([KINDS[i].size for i in class_ids]) * np.clip(table[:, 5:], 0.8, 1.25)
    yaws, speeds = table[:, 3], table[:, 4]
    velocities = np.stack([np.cos(yaws) * speeds, np.sin(yaws) * speeds, np.zeros(len(table))], 1)
    centers = np.column_stack([table[:, 1:3], sizes[:, 2] / 2])
    looks = rng.integers(0, 2**31, len(table))
    return Objects(class_ids, np.arange(len(table)), centers, sizes, yaws, velocities, looks)


def _heading(rng: np.random.Generator, row: _Row, name: str, top_speed: float) -> tuple[float, float]:
    """Return yaw and speed of an object that enters a row."""
    if name in {"traffic_cone", "barrier"}:
        return row.heading + np.pi / 2 * float(rng.random() < 0.4) + float(rng.normal(0, 0.15)), 0.0
    if name == "pedestrian":
        return row.heading + np.pi * float(rng.integers(0, 2)), float(rng.uniform(0, top_speed))
    if row.speed:  # straight along the lane: the smallest angle would lead off the road within the scene
        return row.heading, row.speed
    turned = np.pi if rng.random() < 0.2 else 0.0
    return row.heading + turned + float(rng.normal(0, 0.06)), 0.0


def _build(rng: np.random.Generator, facade: float, reach: float) -> Buildings:
    rows: list[tuple[float, float, float, float, float]] = []
    for side in (-1.0, 1.0):
        x = -_BEHIND + float(rng.uniform(-10, 0))
        while x < reach + 40:
            length = float(rng.uniform(8, MAX_LENGTH))
            rows.append((x, x + length, facade + float(rng.uniform(0, 3)), side, float(rng.uniform(5, MAX_HEIGHT))))
            x += length + (float(rng.uniform(3, 10)) if rng.random() < 0.35 else 0.0)
    table = np.array(rows)
    return Buildings(*table.T, looks=rng.integers(0, 2**31, len(table)))


def draw_light(rng: np.random.Generator) -> Light:
    """Draw the weather and time of day of a scene."""
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), float(np.deg2rad(rng.uniform(25, 70)))
    to_sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast = float(rng.uniform(0, 1))
    warmth = float(rng.uniform(-1, 1))
    exposure = float(rng.uniform(0.75, 1.15))
    tint = np.array([1 + 0.06 * warmth, 1.0, 1 - 0.08 * warmth]) * exposure
    haze = np.array([186.0, 200.0, 214.0]) * (1 - 0.12 * overcast) * tint
    return Light(
        to_sun, 0.55 + 0.3 * overcast, 0.55 * (1 - 0.8 * overcast), tint, haze, float(rng.uniform(0.008, 0.018))
    )
