"""What a radar measures in a scene: returns of objects, of the surroundings, and false ones, in the layout of nuScenes.

A radar measures distance, direction and the speed along its ray, and no height: z is 0. `vx`, `vy` hold the speed along
the ray relative to the moving sensor, as a vector along the ray; `vx_comp`, `vy_comp` the same over ground, the own
motion taken out. So a car that crosses the ray shows no velocity. That is how the real files are.

Source of fields and header: the binary .pcd radar files of nuScenes (Caesar et al., CVPR 2020, arXiv 1903.11027).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import transform
from boxwright.synthetic.fusion_catalog import FUSION_KINDS, Mount
from boxwright.synthetic.fusion_world import STILL, EgoState, FusionScene
from boxwright.synthetic.world import Objects

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

RADAR_DTYPE = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z")),
        ("dyn_prop", "i1"),
        ("id", "<i2"),
        *((name, "<f4") for name in ("rcs", "vx", "vy", "vx_comp", "vy_comp")),
        *((name, "i1") for name in ("is_quality_valid", "ambig_state", "x_rms", "y_rms", "invalid_state", "pdh0")),
        *((name, "i1") for name in ("vx_rms", "vy_rms")),
    ]
)
_HALF_FIELD = np.deg2rad(60.0)
_RANGE = (1.2, 90.0)  # metres
_POSITION_NOISE, _SPEED_NOISE = 0.2, 0.1  # standard deviations, m and m/s
_HIDDEN = 0.08  # objects of which a smaller share is visible give no return
_RETURNS: dict[str, tuple[int, int]] = {  # fewest and most of an object in one measurement
    "pedestrian": (1, 3),
    "motorcycle": (1, 3),
    "bicycle": (1, 3),
    "traffic_cone": (0, 1),
    "barrier": (0, 1),
    "animal": (0, 1),
    "debris": (0, 1),
    "bicycle_rack": (1, 2),
}
_VEHICLE_RETURNS = (3, 8)
_SURROUNDINGS = 14  # returns of kerbs, poles and walls in 120 m of street
_FALSE = 2.0  # mean number of returns that the radar itself marks as doubtful
_GHOSTS = 0.3  # mean number of false returns that it does not mark
_DYNAMICS = {"moving": 0, "stationary": 1, "oncoming": 2, "crossing": 6}
_UNAMBIGUOUS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """One file of one radar.

    Args:
        points: (P,) of `RADAR_DTYPE`, sensor frame.
        owners: (P,) number of the object that returned a point; -1 none.
    """

    points: NDArray[np.void]
    owners: Ints


@dataclass(frozen=True, slots=True)
class _Echoes:
    """Points (P, 2) in the sensor frame, their owners, and the velocity (P, 2) over ground of what returned them."""

    where: Array
    owners: Ints
    velocities: Array


def measure(scene: FusionScene, mount: Mount, time: float, visible: Array, rng: np.random.Generator) -> Measurement:
    """Measure once.

    Args:
        scene: what is there.
        mount: the radar.
        time: seconds after the first key frame.
        visible: (N,) share of each object that nothing hides.
        rng: draws the noise.
    """
    ego = scene.ego_at(time)
    sensor_from_global: Array = np.asarray(np.linalg.inv(ego.global_from_ego @ mount.ego_from_sensor), np.float64)
    seen = scene.seen(time)
    objects = scene.at(time).take(seen[visible[seen] > _HIDDEN])
    echoes = [
        _object_echoes(objects, sensor_from_global, rng),
        _surrounding_echoes(scene, time, sensor_from_global, rng),
        _false_echoes(rng, int(rng.poisson(_GHOSTS))),
    ]
    doubtful = _false_echoes(rng, int(rng.poisson(_FALSE)))
    where = np.concatenate([echo.where for echo in (*echoes, doubtful)])
    owners = np.concatenate([echo.owners for echo in (*echoes, doubtful)])
    velocities = np.concatenate([echo.velocities for echo in (*echoes, doubtful)])
    trusted = np.arange(len(where)) < len(where) - len(doubtful.where)
    distance = np.linalg.norm(where, axis=1)
    bearing = np.abs(np.arctan2(where[:, 1], where[:, 0]))
    kept = np.flatnonzero((bearing < _HALF_FIELD) & (distance > _RANGE[0]) & (distance < _RANGE[1]))
    kept = kept[np.argsort(distance[kept], kind="stable")]
    own = _sensor_velocity(ego, mount, sensor_from_global)
    points = _points(where[kept], velocities[kept], own, trusted[kept], rng)
    return Measurement(points, owners[kept])


def write_pcd(path: Path, points: NDArray[np.void]) -> None:
    """Write one measurement as a binary .pcd file."""
    kinds = {"f": "F", "i": "I"}
    fields = [RADAR_DTYPE[name] for name in RADAR_DTYPE.names or ()]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(RADAR_DTYPE.names or ())}",
        f"SIZE {' '.join(str(field.itemsize) for field in fields)}",
        f"TYPE {' '.join(kinds[field.kind] for field in fields)}",
        f"COUNT {' '.join('1' for _ in fields)}",
        f"WIDTH {len(points)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(points)}",
        "DATA binary",
    )
    # The official reader needs a byte after the last point.
    path.write_bytes("\n".join(header).encode() + b"\n" + points.tobytes() + b"\n")


def _object_echoes(objects: Objects, sensor_from_global: Array, rng: np.random.Generator) -> _Echoes:
    """Return points on the sides of the objects that look at the sensor."""
    bounds = np.array([_RETURNS.get(kind.name, _VEHICLE_RETURNS) for kind in FUSION_KINDS])[objects.class_ids]
    counts = rng.integers(bounds[:, 0], bounds[:, 1] + 1) if len(objects) else np.zeros(0, np.int64)
    rows = np.repeat(np.arange(len(objects)), counts)
    centers = transform(sensor_from_global, objects.centers)[rows, :2]
    turn = np.arctan2(sensor_from_global[1, 0], sensor_from_global[0, 0])
    yaws = (objects.yaws + turn)[rows]
    half = objects.sizes[rows, :2] / 2
    c, s = np.cos(yaws), np.sin(yaws)
    towards = -np.stack([centers[:, 0] * c + centers[:, 1] * s, centers[:, 1] * c - centers[:, 0] * s], 1)
    unit = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
    # How wide the end and the flank look from the sensor decides which of them returns a point.
    end = half[:, 1] * np.abs(unit[:, 0])
    flank = half[:, 0] * np.abs(unit[:, 1])
    on_end = rng.random(len(rows)) * (end + flank) < end
    along = rng.uniform(-0.9, 0.9, (len(rows), 2)) * half
    facing = np.sign(towards) * half * 0.9
    local = np.where(np.stack([on_end, ~on_end], 1), facing, along)
    where = centers + np.stack([local[:, 0] * c - local[:, 1] * s, local[:, 0] * s + local[:, 1] * c], 1)
    where += rng.normal(0, _POSITION_NOISE, where.shape)
    velocities = objects.velocities[rows] @ sensor_from_global[:3, :3].T
    return _Echoes(where, objects.instance_ids[rows], velocities[:, :2])


def _surrounding_echoes(
    scene: FusionScene, time: float, sensor_from_global: Array, rng: np.random.Generator
) -> _Echoes:
    """Return points beside the street that do not move."""
    along = scene.ego.along(time)[0] + rng.uniform(-60, 60, _SURROUNDINGS)
    across = rng.uniform(16.5, 28, _SURROUNDINGS) * rng.choice((-1.0, 1.0), _SURROUNDINGS)
    x, y, _ = scene.road.place(along, across)
    where = transform(sensor_from_global, np.stack([x, y, np.zeros_like(x)], 1))[:, :2]
    return _Echoes(where, np.full(len(where), -1), np.zeros_like(where))


def _false_echoes(rng: np.random.Generator, count: int) -> _Echoes:
    distance, bearing = rng.uniform(4, 70, count), rng.uniform(-_HALF_FIELD, _HALF_FIELD, count)
    where = np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], 1)
    return _Echoes(where, np.full(count, -1), rng.normal(0, 4, (count, 2)))


def _sensor_velocity(ego: EgoState, mount: Mount, sensor_from_global: Array) -> Array:
    """Return the velocity (2,) of the sensor over ground, in its own frame."""
    arm = ego.global_from_ego[:3, :3] @ mount.ego_from_sensor[:3, 3]
    velocity = ego.velocity + ego.yaw_rate * np.array([-arm[1], arm[0], 0.0])
    return (sensor_from_global[:3, :3] @ velocity)[:2]


def _points(
    where: Array, velocities: Array, own: Array, trusted: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.void]:
    count = len(where)
    rays = where / np.linalg.norm(where, axis=1, keepdims=True)
    over_ground = (velocities * rays).sum(1) + rng.normal(0, _SPEED_NOISE, count)
    compensated = over_ground[:, None] * rays
    relative = (over_ground - rays @ own)[:, None] * rays
    speed = np.linalg.norm(velocities, axis=1)
    dynamics = np.where(over_ground < 0, _DYNAMICS["oncoming"], _DYNAMICS["moving"])
    dynamics = np.where(np.abs(over_ground) < 0.4 * speed, _DYNAMICS["crossing"], dynamics)
    points = np.zeros(count, RADAR_DTYPE)
    points["x"], points["y"] = where.T
    points["dyn_prop"] = np.where(speed < STILL, _DYNAMICS["stationary"], dynamics)
    points["id"] = np.arange(count)
    points["rcs"] = np.round(rng.normal(6, 5, count) * 2) / 2
    points["vx"], points["vy"] = relative.T
    points["vx_comp"], points["vy_comp"] = compensated.T
    points["is_quality_valid"] = 1
    points["ambig_state"] = np.where(trusted | (rng.random(count) < 0.5), _UNAMBIGUOUS, rng.integers(0, 3, count))
    invalid = points["ambig_state"] == _UNAMBIGUOUS
    points["invalid_state"] = np.where(~trusted & invalid, rng.integers(1, 8, count), 0)
    points["x_rms"], points["y_rms"] = 19, 19
    points["pdh0"] = np.where(trusted, 1, 4)
    points["vx_rms"], points["vy_rms"] = 3, 3
    return points
