"""Scenes of camera and radar: a curved road, an ego vehicle that drives and stops on it, and traffic around it.

Everything lies in the global frame: x, y in the plane, z up, ground at z = 0, metres, seconds, radians. Along the road,
`along` is the distance on its centre line and `across` the offset to its left. Traffic keeps to the right. A scene is a
function of (settings, scene number). What is not here: appearance (`fusion_render`), radar (`radar_sim`), files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.synthetic.fusion_catalog import KIND_OF
from boxwright.synthetic.fusion_traffic import Placement, place_traffic
from boxwright.synthetic.road import EGO_ACROSS, Motion, Road, draw_motion, draw_road
from boxwright.synthetic.world import Light, Objects, draw_light

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

KEY_FRAME_SECONDS = 0.5
SWEEP_SECONDS = 1 / 13  # between two measurements of a radar
SEEN_RADIUS = 50.0  # metres from the ego vehicle; what is further away is neither drawn nor annotated
STILL = 0.3  # m/s; slower counts as standing


@dataclass(frozen=True, slots=True)
class FusionWorldSettings:
    """What a synthetic nuScenes root holds.

    Args:
        scenes: number of scenes, named scene-9001 and on.
        seed: of the world.
        key_frames: of each scene, at 2 Hz.
        width: of the images, in pixels.
        height: of the images, in pixels.
        sweeps: radar measurements before each key frame, at 13 Hz; 6 fill the time between two.
        objects: of each scene; fewer where they do not fit.
        version: name of the folder of tables.
        val_fraction: share of the scenes, the last ones, that `splits.json` calls val.
    """

    scenes: int = 10
    seed: int = 0
    key_frames: int = 8
    width: int = 1600
    height: int = 900
    sweeps: int = 6
    objects: int = 60
    version: str = "v1.0-mini"
    val_fraction: float = 0.2

    def __post_init__(self) -> None:
        counts = {"scenes": self.scenes, "key_frames": self.key_frames, "width": self.width, "height": self.height}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"a synthetic nuScenes root needs {name} of 1 or more, not {count}")
        if not 0 <= self.sweeps <= 6:
            raise UserError(f"radars sweep at 13 Hz, so 0 to 6 sweeps lie between two key frames, not {self.sweeps}")
        if self.objects < 0 or not 0 <= self.val_fraction <= 1:
            raise UserError("objects of a scene are 0 or more, and val_fraction lies in 0..1")
        if not self.version or "/" in self.version or self.version.startswith("."):
            raise UserError(f"'{self.version}' is no name for a folder of tables; v1.0-mini is one")

    @classmethod
    def demo(cls, seed: int = 0) -> FusionWorldSettings:
        """Small images and few scenes, to be learned on a CPU within minutes: 24 scenes train, 4 val."""
        return cls(scenes=28, seed=seed, width=400, height=225, sweeps=2, objects=54, val_fraction=1 / 7)

    @classmethod
    def full(cls, seed: int = 0) -> FusionWorldSettings:
        """Scenes as long as, and images as large as, those of nuScenes."""
        return cls(scenes=10, seed=seed, key_frames=40, objects=160)

    @property
    def duration(self) -> float:
        """Seconds between the first and the last key frame of a scene."""
        return (self.key_frames - 1) * KEY_FRAME_SECONDS

    @property
    def num_val(self) -> int:
        """Scenes that are val; at least one and not all, where there is a choice."""
        wanted = round(self.scenes * self.val_fraction)
        return min(max(wanted, int(self.val_fraction > 0)), self.scenes - 1) if self.scenes > 1 else 0


@dataclass(frozen=True, slots=True)
class EgoState:
    """The ego vehicle at one time; its origin is on the ground below the rear axle.

    Args:
        global_from_ego: (4, 4).
        velocity: (3,) m/s, global.
        yaw_rate: rad/s.
    """

    global_from_ego: Array
    velocity: Array
    yaw_rate: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """Buildings: (K, 3) centres, (K, 3) sizes (length, width, height), (K,) yaws, (K, 3) RGB colours."""

    centers: Array
    sizes: Array
    yaws: Array
    colors: Array


@dataclass(frozen=True, slots=True)
class FusionScene:
    """One place and its traffic.

    Args:
        index: number of the scene.
        road: that all drive on.
        ego: motion of the ego vehicle along the road.
        placement: what each object is, and where it is when.
        blocks: buildings beside the road.
        light: of the time of day.
    """

    index: int
    road: Road
    ego: Motion
    placement: Placement
    blocks: Blocks
    light: Light

    def at(self, time: float) -> Objects:
        """Return the states of all objects at a time in seconds after the first key frame; class_ids are kinds."""
        placement = self.placement
        centers, yaws, velocities = placement.motion.state(self.road, time)
        centers[:, 2] = placement.sizes[:, 2] / 2
        number = np.arange(len(placement.kinds))
        return Objects(
            placement.kinds, number, centers, placement.sizes, yaws + placement.facing, velocities, placement.looks
        )

    def ego_at(self, time: float) -> EgoState:
        """Return pose and motion of the ego vehicle at a time in seconds after the first key frame."""
        centers, yaws, velocities = self.ego.state(self.road, time)
        step = 0.01
        turned = self.ego.state(self.road, time + step)[1] - self.ego.state(self.road, time - step)[1]
        yaw = float(yaws[0])
        pose = np.eye(4)
        pose[:2, :2] = (np.cos(yaw), -np.sin(yaw)), (np.sin(yaw), np.cos(yaw))
        pose[:3, 3] = centers[0]
        return EgoState(pose, velocities[0], float(turned[0]) / (2 * step))

    def seen(self, time: float) -> Ints:
        """Return the numbers of the objects near the ego vehicle."""
        here = self.ego_at(time).global_from_ego[:2, 3]
        return np.flatnonzero(np.linalg.norm(self.at(time).centers[:, :2] - here, axis=1) < SEEN_RADIUS)


def make_fusion_scene(settings: FusionWorldSettings, index: int) -> FusionScene:
    """Build scene `index` (from 0) of the world of these settings; the same arguments give the same scene."""
    rng = np.random.default_rng([settings.seed, index, 31])
    span = (-KEY_FRAME_SECONDS - 0.1, settings.duration + 0.1)  # first sweeps and last images lie outside the frames
    ego = draw_motion(rng, span, along=0.0, across=EGO_ACROSS, speed=float(rng.uniform(2.0, 8.0)), stops=0.4)
    reach = float(ego.along(span[1])[0])
    road = draw_road(rng, -120.0, reach + 120.0)
    placement = place_traffic(rng, ego, span, settings.objects)
    return FusionScene(index, road, ego, placement, _build(rng, road, reach), draw_light(rng))


def attribute_names(scene: FusionScene, objects: Objects) -> list[str]:
    """Return the nuScenes attribute of each object, in order; empty where its kind has none."""
    moving = np.linalg.norm(objects.velocities[:, :2], axis=1) > STILL
    placement = scene.placement
    names: list[str] = []
    for kind, number, moves in zip(objects.class_ids, objects.instance_ids, moving, strict=True):
        if kind <= KIND_OF["construction_vehicle"]:
            names.append(f"vehicle.{'moving' if moves else 'parked' if placement.parked[number] else 'stopped'}")
        elif kind == KIND_OF["pedestrian"]:
            names.append(f"pedestrian.{'moving' if moves else 'standing'}")
        elif kind in (KIND_OF["motorcycle"], KIND_OF["bicycle"]):
            names.append(f"cycle.{'with' if placement.ridden[number] else 'without'}_rider")
        else:
            names.append("")
    return names


def _build(rng: np.random.Generator, road: Road, reach: float) -> Blocks:
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
    x, y, heading = road.place(table[:, 0], table[:, 1])
    walls = np.array([(176, 150, 128), (150, 120, 104), (188, 184, 172), (130, 134, 140), (164, 160, 140)], np.float64)
    colors = walls[rng.integers(0, len(walls), len(table))] * rng.uniform(0.8, 1.1, (len(table), 1))
    return Blocks(np.column_stack([x, y, table[:, 4] / 2]), table[:, 2:], heading, colors)
