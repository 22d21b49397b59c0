"""Scenes: a curved road, an ego vehicle that drives and stops on it, traffic around it, buildings, and light.

Everything lies in the global frame: x, y in the plane, z up, ground at z = 0, metres, seconds, radians. A scene is a
function of (settings, scene number). What is not here: appearance (`render`), radar returns (`radar`), files.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.synthetic.catalog import KIND_OF
from boxwright.synthetic.traffic import Motion, Placement, Road, draw_ego_motion, draw_road, place_traffic

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

KEY_FRAME_SECONDS = 0.5
SWEEP_SECONDS = 1 / 13  # between two measurements of a radar
SEEN_RADIUS = 50.0  # metres from the ego vehicle; what is further away is neither drawn nor annotated
STILL = 0.3  # m/s; slower counts as standing


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What the scenes of a world hold."""

    scenes: int = 10  # named scene-9001 and on in a nuScenes root
    seed: int = 0
    key_frames: int = 8  # per scene, at 2 Hz
    width: int = 1600  # of the images, pixels
    height: int = 900  # of the images, pixels
    sweeps: int = 6  # radar measurements before each key frame, at 13 Hz; 6 fill the time between two
    objects: int = 60  # per scene; fewer where they do not fit
    version: str = "v1.0-mini"  # name of the folder of tables
    val_fraction: float = 0.2  # share of the scenes, the last ones, that `splits.json` calls val

    def __post_init__(self) -> None:
        for name in ("scenes", "key_frames", "width", "height"):
            count: int = getattr(self, name)
            if count < 1:
                raise UserError(f"a synthetic nuScenes root needs {name} of 1 or more, not {count}")
        if not 0 <= self.sweeps <= 6:
            raise UserError(f"radars sweep at 13 Hz, so 0 to 6 sweeps lie between two key frames, not {self.sweeps}")
        if self.objects < 0 or not 0 <= self.val_fraction <= 1:
            raise UserError("objects of a scene are 0 or more, and val_fraction lies in 0..1")
        if not self.version or "/" in self.version or self.version.startswith("."):
            raise UserError(f"'{self.version}' is no name for a folder of tables; v1.0-mini is one")

    @property
    def duration(self) -> float:
        """Return the seconds between the first and the last key frame of a scene."""
        return (self.key_frames - 1) * KEY_FRAME_SECONDS

    @property
    def num_val(self) -> int:
        """Return the number of val scenes: at least one and not all, where there is a choice."""
        wanted = round(self.scenes * self.val_fraction)
        return min(max(wanted, int(self.val_fraction > 0)), self.scenes - 1) if self.scenes > 1 else 0


@dataclass(frozen=True, slots=True)
class Objects:
    """States of N objects at one time."""

    kinds: Ints  # (N,) positions in `catalog.KINDS`
    numbers: Ints  # (N,) stay with an object through a scene
    centers: Array  # (N, 3) centre of the cuboid, global
    sizes: Array  # (N, 3) length, width, height
    yaws: Array  # (N,) heading about z
    velocities: Array  # (N, 3) m/s, global
    looks: Ints  # (N,) seeds of the appearance

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, rows: Ints) -> Self:
        """Return the objects at these positions, in this order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class EgoState:
    """The ego vehicle at one time; its origin is on the ground below the rear axle."""

    global_from_ego: Array  # (4, 4)
    velocity: Array  # (3,) m/s, global
    yaw_rate: float  # rad/s


@dataclass(frozen=True, slots=True)
class Blocks:
    """K buildings."""

    centers: Array  # (K, 3)
    sizes: Array  # (K, 3) length, width, height
    yaws: Array  # (K,)
    colors: Array  # (K, 3) RGB


@dataclass(frozen=True, slots=True)
class Light:
    """Illumination of a scene."""

    to_sun: Array  # (3,) unit vector, global
    ambient: float  # brightness of what lies in shadow
    direct: float  # what full sun adds
    tint: Array  # (3,) RGB gains
    haze: Array  # (3,) RGB of the horizon
    density: float  # share of a colour lost to haze, per metre


@dataclass(frozen=True, slots=True)
class Scene:
    """One place and its traffic; times are seconds after the first key frame."""

    index: int
    road: Road
    ego: Motion  # along the road
    placement: Placement  # what each object is, and where it is when
    blocks: Blocks
    light: Light

    def at(self, time: float) -> Objects:
        """Return the states of all objects at a time."""
        placement = self.placement
        centers, yaws, velocities = placement.motion.state(self.road, time)
        centers[:, 2] = placement.sizes[:, 2] / 2
        numbers = np.arange(len(placement.kinds))
        yaws = yaws + placement.facing
        return Objects(placement.kinds, numbers, centers, placement.sizes, yaws, velocities, placement.looks)

    def ego_at(self, time: float) -> EgoState:
        """Return pose and motion of the ego vehicle at a time."""
        centers, yaws, velocities = self.ego.state(self.road, time)
        step = 0.01
        turn = self.ego.state(self.road, time + step)[1] - self.ego.state(self.road, time - step)[1]
        yaw = float(yaws[0])
        pose = np.eye(4)
        pose[:2, :2] = (np.cos(yaw), -np.sin(yaw)), (np.sin(yaw), np.cos(yaw))
        pose[:3, 3] = centers[0]
        return EgoState(pose, velocities[0], float(turn[0]) / (2 * step))

    def seen(self, time: float) -> Objects:
        """Return the states of the objects near the ego vehicle at a time."""
        here, objects = self.ego_at(time).global_from_ego[:2, 3], self.at(time)
        return objects.take(np.flatnonzero(np.linalg.norm(objects.centers[:, :2] - here, axis=1) < SEEN_RADIUS))

    def attribute_names(self, objects: Objects) -> list[str]:
        """Return the nuScenes attribute of each object, in order; empty where its kind has none."""
        moving = np.linalg.norm(objects.velocities[:, :2], axis=1) > STILL
        names: list[str] = []
        for kind, driven, moves in zip(objects.kinds, self.placement.driven[objects.numbers], moving, strict=True):
            if kind <= KIND_OF["construction_vehicle"]:
                names.append(f"vehicle.{'moving' if moves else 'stopped' if driven else 'parked'}")
            elif kind == KIND_OF["pedestrian"]:
                names.append(f"pedestrian.{'moving' if moves else 'standing'}")
            elif kind in (KIND_OF["motorcycle"], KIND_OF["bicycle"]):
                names.append(f"cycle.{'with' if driven else 'without'}_rider")
            else:
                names.append("")
        return names


def make_scene(settings: WorldSettings, index: int) -> Scene:
    """Build scene `index` (from 0) of a world; the same arguments give the same scene."""
    rng = np.random.default_rng([settings.seed, index, 31])
    span = (-KEY_FRAME_SECONDS - 0.1, settings.duration + 0.1)  # first sweeps and last images lie outside the frames
    ego = draw_ego_motion(rng, span)
    reach = float(ego.along(span[1])[0])
    road = draw_road(rng, -120.0, reach + 120.0)
    placement = place_traffic(rng, ego, span, settings.objects)
    return Scene(index, road, ego, placement, _draw_blocks(rng, road, reach), _draw_light(rng))


def _draw_blocks(rng: np.random.Generator, road: Road, reach: float) -> Blocks:
    """Put buildings along both sides of the road."""
    rows: list[tuple[float, float, float, float, float]] = []
    for side in (-1.0, 1.0):
        along = -80.0
        while along < reach + 80:
            length = float(rng.uniform(8, 20))
            across = side * float(rng.uniform(23, 28))
            if rng.random() < 0.75:
                rows.append((along + length / 2, across, length, float(rng.uniform(5, 8)), float(rng.uniform(4, 12))))
            along += length + float(rng.uniform(3, 10))
    table = np.array(rows)
    x, y, heading = road.locate(table[:, 0], table[:, 1])
    walls = np.array([(176, 150, 128), (150, 120, 104), (188, 184, 172), (130, 134, 140), (164, 160, 140)], np.float64)
    colors = walls[rng.integers(0, len(walls), len(table))] * rng.uniform(0.8, 1.1, (len(table), 1))
    return Blocks(np.column_stack([x, y, table[:, 4] / 2]), table[:, 2:], heading, colors)


def _draw_light(rng: np.random.Generator) -> Light:
    """Draw the weather and time of day of a scene."""
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), float(np.deg2rad(rng.uniform(25, 70)))
    to_sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast, warmth, exposure = float(rng.uniform(0, 1)), float(rng.uniform(-1, 1)), float(rng.uniform(0.75, 1.15))
    tint = np.array([1 + 0.06 * warmth, 1.0, 1 - 0.08 * warmth]) * exposure
    haze = np.array([186.0, 200.0, 214.0]) * (1 - 0.12 * overcast) * tint
    ambient, direct = 0.55 + 0.3 * overcast, 0.55 * (1 - 0.8 * overcast)  # clouds take the sun and light the shadows
    return Light(to_sun, ambient, direct, tint, haze, float(rng.uniform(0.008, 0.018)))
