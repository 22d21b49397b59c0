"""What a radar measures in a scene: returns of objects, of the surroundings, and false ones, in the layout of nuScenes.

A radar measures distance, direction and the speed along its ray, and no height: z is 0. `vx`, `vy` hold the speed along
the ray relative to the moving sensor, as a vector along the ray; `vx_comp`, `vy_comp` the same over ground, the own
motion taken out. So a car that crosses the ray shows no velocity. That is how the real files are.

Source of fields and header: the binary .pcd radar files of nuScenes (Caesar et al., CVPR 2020, arXiv 1903.11027).
"""

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.radar import RADAR_DTYPE
from boxwright.ops.arrays import Floats, Ints
from boxwright.synthetic.camera import transform, turned
from boxwright.synthetic.catalog import KINDS, Mount
from boxwright.synthetic.world import STILL, Objects, Scene

Echoes = tuple[Floats, Ints, Floats]  # points (P, 2), owners (P,), velocity over ground (P, 2); sensor frame

_HALF_FIELD = np.deg2rad(60.0)
_RANGE = (1.2, 90.0)  # metres
_POSITION_NOISE, _SPEED_NOISE = 0.2, 0.1  # standard deviations, m and m/s
_HIDDEN = 0.08  # objects of which a smaller share is visible give no return
_RETURNS: dict[str, tuple[int, int]] = {  # fewest and most of an object in one measurement
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), (1, 3)),
    **dict.fromkeys(("traffic_cone", "barrier", "animal", "debris"), (0, 1)),
    "bicycle_rack": (1, 2),
}
_VEHICLE_RETURNS = (3, 8)
_SURROUNDINGS = 14  # returns of kerbs, poles and walls in 120 m of road
_FALSE = 2.0  # mean number of returns that the radar itself marks as doubtful
_GHOSTS = 0.3  # mean number of false returns that it does not mark
_DYNAMICS = {"moving": 0, "stationary": 1, "oncoming": 2, "crossing": 6}
UNAMBIGUOUS = 3


def measure(
    scene: Scene, mount: Mount, time: float, visible: Floats, rng: np.random.Generator
) -> tuple[NDArray[np.void], Ints]:
    """Measure once; `visible` (N,) is the share of each object of the scene that nothing hides.

    Returns:
        (P,) points of `RADAR_DTYPE`, sensor frame, and (P,) number of the object that returned each; -1 none.
    """
    ego = scene.ego_at(time)
    sensor_from_global: Floats = np.asarray(np.linalg.inv(ego.global_from_ego @ mount.ego_from_sensor), np.float64)
    seen = scene.seen(time)
    objects = seen.take(np.flatnonzero(visible[seen.numbers] > _HIDDEN))
    echoes = [_object_echoes(objects, sensor_from_global, rng)]
    # Kerbs, poles and walls beside the road do not move.
    along = scene.ego.along(time)[0] + rng.uniform(-60, 60, _SURROUNDINGS)
    across = rng.uniform(16.5, 28, _SURROUNDINGS) * rng.choice((-1.0, 1.0), _SURROUNDINGS)
    x, y, _ = scene.road.locate(along, across)
    fixed = transform(sensor_from_global, np.stack([x, y, np.zeros_like(x)], 1))[:, :2]
    echoes.append((fixed, np.full(len(fixed), -1), np.zeros_like(fixed)))
    # Ghosts look like returns; the doubtful ones come last, since `trusted` counts from the end.
    echoes.append(_false_echoes(rng, int(rng.poisson(_GHOSTS))))
    echoes.append(_false_echoes(rng, int(rng.poisson(_FALSE))))
    where, owners, velocities = (np.concatenate(column) for column in zip(*echoes, strict=True))
    trusted = np.arange(len(where)) < len(where) - len(echoes[-1][0])
    distance = np.linalg.norm(where, axis=1)
    bearing = np.abs(np.arctan2(where[:, 1], where[:, 0]))
    kept = np.flatnonzero((bearing < _HALF_FIELD) & (distance > _RANGE[0]) & (distance < _RANGE[1]))
    kept = kept[np.argsort(distance[kept], kind="stable")]
    # The sensor sits beside the axle, so that it moves sideways when the vehicle turns.
    arm = ego.global_from_ego[:3, :3] @ mount.ego_from_sensor[:3, 3]
    velocity = ego.velocity + ego.yaw_rate * np.array([-arm[1], arm[0], 0.0])
    own = (sensor_from_global[:3, :3] @ velocity)[:2]
    where, velocities, trusted, count = where[kept], velocities[kept], trusted[kept], len(kept)
    # A radar measures along the ray alone: what crosses the ray shows no velocity.
    rays = where / np.linalg.norm(where, axis=1, keepdims=True)
    over_ground = (velocities * rays).sum(1) + rng.normal(0, _SPEED_NOISE, count)
    speed = np.linalg.norm(velocities, axis=1)
    dynamics = np.where(over_ground < 0, _DYNAMICS["oncoming"], _DYNAMICS["moving"])
    dynamics = np.where(np.abs(over_ground) < 0.4 * speed, _DYNAMICS["crossing"], dynamics)
    points = np.zeros(count, RADAR_DTYPE)
    points["x"], points["y"] = where.T
    points["dyn_prop"] = np.where(speed < STILL, _DYNAMICS["stationary"], dynamics)
    points["id"] = np.arange(count)
    points["rcs"] = np.round(rng.normal(6, 5, count) * 2) / 2
    points["vx"], points["vy"] = ((over_ground - rays @ own)[:, None] * rays).T
    points["vx_comp"], points["vy_comp"] = (over_ground[:, None] * rays).T
    points["is_quality_valid"] = 1
    # A doubtful return says so in one of two fields: its velocity is ambiguous, or its state is invalid.
    points["ambig_state"] = np.where(trusted | (rng.random(count) < 0.5), UNAMBIGUOUS, rng.integers(0, 3, count))
    invalid = points["ambig_state"] == UNAMBIGUOUS
    points["invalid_state"] = np.where(~trusted & invalid, rng.integers(1, 8, count), 0)
    points["x_rms"], points["y_rms"] = 19, 19
    points["pdh0"] = np.where(trusted, 1, 4)
    points["vx_rms"], points["vy_rms"] = 3, 3
    return points, owners[kept]


def _object_echoes(objects: Objects, sensor_from_global: Floats, rng: np.random.Generator) -> Echoes:
    """Return points on the sides of the objects that look at the sensor."""
    bounds = np.array([_RETURNS.get(kind.name, _VEHICLE_RETURNS) for kind in KINDS])[objects.kinds]
    counts = rng.integers(bounds[:, 0], bounds[:, 1] + 1) if len(objects) else np.zeros(0, np.int64)
    rows = np.repeat(np.arange(len(objects)), counts)
    centers = transform(sensor_from_global, objects.centers)[rows]
    turn = np.arctan2(sensor_from_global[1, 0], sensor_from_global[0, 0])
    yaws = (objects.yaws + turn)[rows]
    half = objects.sizes[rows, :2] / 2
    towards = -turned(centers, -yaws)[:, :2]
    unit = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
    # How wide the end and the flank look from the sensor decides which of them returns a point.
    end = half[:, 1] * np.abs(unit[:, 0])
    flank = half[:, 0] * np.abs(unit[:, 1])
    on_end = rng.random(len(rows)) * (end + flank) < end
    along = rng.uniform(-0.9, 0.9, (len(rows), 2)) * half
    facing = np.sign(towards) * half * 0.9
    local = np.where(np.stack([on_end, ~on_end], 1), facing, along)
    where = centers[:, :2] + turned(np.pad(local, ((0, 0), (0, 1))), yaws)[:, :2]
    where += rng.normal(0, _POSITION_NOISE, where.shape)
    velocities = objects.velocities[rows] @ sensor_from_global[:3, :3].T
    return where, objects.numbers[rows], velocities[:, :2]


def _false_echoes(rng: np.random.Generator, count: int) -> Echoes:
    """Return false returns in empty space."""
    distance, bearing = rng.uniform(4, 70, count), rng.uniform(-_HALF_FIELD, _HALF_FIELD, count)
    where = np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], 1)
    return where, np.full(count, -1), rng.normal(0, 4, (count, 2))
