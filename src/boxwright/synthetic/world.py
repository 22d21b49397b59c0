"""Scenes: a curved road, an ego vehicle that drives and stops on it, traffic around it, buildings, and light.

Everything lies in the global frame: x, y in the plane, z up, ground at z = 0, metres, seconds, radians. Beside the road
`along` is the distance on its centre line and `across` the offset to its left; traffic keeps to the right. A scene is a
function of (settings, scene number). What is not here: appearance (`render`), radar returns (`radar`), files.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from boxwright.errors import UserError
from boxwright.ops.arrays import Bools, Floats, Ints
from boxwright.synthetic.camera import rotation_z, turned
from boxwright.synthetic.catalog import BARE_HEIGHT, KIND_OF, KINDS

Span = tuple[float, float]  # first and last second

KEY_FRAME_SECONDS = 0.5
SWEEP_SECONDS = 1 / 13  # between two measurements of a radar
SEEN_RADIUS = 50.0  # metres from the ego vehicle; what is further away is neither drawn nor annotated
STILL = 0.3  # m/s; slower counts as standing

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
class Road:
    """A centre line, stored at K points."""

    along: Floats  # (K,) in equal steps
    x: Floats  # (K,) global
    y: Floats  # (K,) global
    heading: Floats  # (K,) rad
    curvature: Floats  # (K,) 1/m, positive to the left

    def locate(self, along: Floats, across: Floats) -> tuple[Floats, Floats, Floats]:
        """Return x, y and the road's heading at points beside the centre line; all of one shape."""
        heading = np.interp(along, self.along, self.heading)
        x = np.interp(along, self.along, self.x) - np.sin(heading) * across
        y = np.interp(along, self.along, self.y) + np.cos(heading) * across
        return x, y, heading


@dataclass(frozen=True, slots=True)
class Motion:
    """How N objects move beside a road."""

    start: float  # time of the first stored state, seconds
    progress: Floats  # (T, N) seconds driven at full speed, at times `start` + k steps
    origin: Floats  # (N, 2) along and across where the progress is 0
    pace: Floats  # (N, 2) full speed along and across, m/s

    def along(self, time: float) -> Floats:
        """Return the distance along the road, (N,)."""
        return self.origin[:, 0] + self.pace[:, 0] * self._driven(time)[0]

    def state(self, road: Road, time: float) -> tuple[Floats, Floats, Floats]:
        """Return positions on the ground (N, 3), headings of the road there (N,) and velocities (N, 3), global."""
        driven, rate = self._driven(time)
        along, across = (self.origin + self.pace * driven[:, None]).T
        x, y, heading = road.locate(along, across)
        curvature = np.interp(along, road.along, road.curvature)
        speed_along, speed_across = (self.pace * rate[:, None]).T
        speed_along = speed_along * (1 - curvature * across)  # the centre line is longer than its inner side
        velocities = turned(np.stack([speed_along, speed_across, np.zeros_like(x)], 1), heading)
        return np.stack([x, y, np.zeros_like(x)], 1), heading, velocities

    def _driven(self, time: float) -> tuple[Floats, Floats]:
        """Return the progress (N,) at a time, and how fast it grows, 0..1."""
        position = np.clip((time - self.start) / _TIME_STEP, 0, len(self.progress) - 1.001)
        row = int(position)
        grown = self.progress[row + 1] - self.progress[row]
        return self.progress[row] + grown * (position - row), grown / _TIME_STEP


@dataclass(frozen=True, slots=True)
class Placement:
    """N objects of a scene."""

    kinds: Ints  # (N,) positions in `KINDS`
    sizes: Floats  # (N, 3) length, width, height in metres
    motion: Motion  # beside the road
    facing: Floats  # (N,) heading against the road's, rad
    driven: Bools  # (N,) in a lane: a vehicle that is not parked, a cycle with a rider
    looks: Ints  # (N,) seeds of the appearance


@dataclass(frozen=True, slots=True)
class Objects:
    """States of N objects at one time."""

    kinds: Ints  # (N,) positions in `catalog.KINDS`
    numbers: Ints  # (N,) stay with an object through a scene
    centers: Floats  # (N, 3) centre of the cuboid, global
    sizes: Floats  # (N, 3) length, width, height
    yaws: Floats  # (N,) heading about z
    velocities: Floats  # (N, 3) m/s, global
    looks: Ints  # (N,) seeds of the appearance

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, rows: Ints) -> Self:
        """Return the objects at these positions, in this order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class EgoState:
    """The ego vehicle at one time; its origin is on the ground below the rear axle."""

    global_from_ego: Floats  # (4, 4)
    velocity: Floats  # (3,) m/s, global
    yaw_rate: float  # rad/s


@dataclass(frozen=True, slots=True)
class Blocks:
    """K buildings."""

    centers: Floats  # (K, 3)
    sizes: Floats  # (K, 3) length, width, height
    yaws: Floats  # (K,)
    colors: Floats  # (K, 3) RGB


@dataclass(frozen=True, slots=True)
class Light:
    """Illumination of a scene."""

    to_sun: Floats  # (3,) unit vector, global
    ambient: float  # brightness of what lies in shadow
    direct: float  # what full sun adds
    tint: Floats  # (3,) RGB gains
    haze: Floats  # (3,) RGB of the horizon
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
        # A central difference, since brakes and bends both change the yaw rate; 0.01 s is half a stored step.
        step = 0.01
        turn = self.ego.state(self.road, time + step)[1] - self.ego.state(self.road, time - step)[1]
        pose = np.eye(4)
        pose[:3, :3] = rotation_z(float(yaws[0]))
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
    pace = np.array([[float(rng.uniform(2.0, 8.0)), 0.0]])
    ego = Motion(span[0], _draw_profile(rng, span, 0.4)[:, None], np.array([[0.0, EGO_ACROSS]]), pace)
    reach = float(ego.along(span[1])[0])
    # A road that bends to both sides, somewhere on a map, and goes on beyond what a camera sees at either end.
    along = np.arange(-120.0, reach + 120.0 + _ROAD_STEP, _ROAD_STEP)
    tightest = float(rng.uniform(0.0, 1 / 60))  # curvature; a quarter of the roads are nearly straight
    length, phase = float(rng.uniform(120, 260)), float(rng.uniform(0, 2 * np.pi))
    curvature = tightest * np.sin(2 * np.pi * along / length + phase)
    heading = float(rng.uniform(-np.pi, np.pi)) + _integral(curvature, _ROAD_STEP)
    x = float(rng.uniform(300, 1500)) + _integral(np.cos(heading), _ROAD_STEP)
    y = float(rng.uniform(300, 1500)) + _integral(np.sin(heading), _ROAD_STEP)
    road = Road(along, x, y, heading, curvature)
    placement = place_traffic(rng, ego, span, settings.objects)
    # Buildings stand along both sides of the road.
    rows: list[tuple[float, float, float, float, float]] = []  # along, across, length, width, height
    for side in (-1.0, 1.0):
        start = -80.0
        while start < reach + 80:
            length = float(rng.uniform(8, 20))
            across = side * float(rng.uniform(23, 28))
            if rng.random() < 0.75:
                rows.append((start + length / 2, across, length, float(rng.uniform(5, 8)), float(rng.uniform(4, 12))))
            start += length + float(rng.uniform(3, 10))
    table = np.array(rows)
    x, y, heading = road.locate(table[:, 0], table[:, 1])
    # Walls of stone and plaster: no kind of object has such a colour.
    walls = np.array([(176, 150, 128), (150, 120, 104), (188, 184, 172), (130, 134, 140), (164, 160, 140)], np.float64)
    colors = walls[rng.integers(0, len(walls), len(table))] * rng.uniform(0.8, 1.1, (len(table), 1))
    blocks = Blocks(np.column_stack([x, y, table[:, 4] / 2]), table[:, 2:], heading, colors)
    # Weather and time of day.
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), float(np.deg2rad(rng.uniform(25, 70)))
    to_sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast, warmth, exposure = float(rng.uniform(0, 1)), float(rng.uniform(-1, 1)), float(rng.uniform(0.75, 1.15))
    tint = np.array([1 + 0.06 * warmth, 1.0, 1 - 0.08 * warmth]) * exposure
    haze = np.array([186.0, 200.0, 214.0]) * (1 - 0.12 * overcast) * tint
    ambient, direct = 0.55 + 0.3 * overcast, 0.55 * (1 - 0.8 * overcast)  # clouds take the sun and light the shadows
    light = Light(to_sun, ambient, direct, tint, haze, float(rng.uniform(0.008, 0.018)))
    return Scene(index, road, ego, placement, blocks, light)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An object that asks for a place."""

    kind: int
    size: tuple[float, float, float]
    across: float
    facing: float
    pace: tuple[float, float] = (0.0, 0.0)
    driven: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """A strip along the road."""

    share: float  # of all objects
    across: tuple[float, float]  # range in metres, on both sides of the road where `both`
    kinds: dict[str, float]  # weights
    direction: int = 0  # +1 along the road, -1 against it, 0 where nothing drives
    both: bool = False
    crossing: bool = False  # who walks here crosses the road

    def draw(self, rng: np.random.Generator) -> _Candidate:
        """Draw an object for the strip."""
        steps = np.cumsum(list(self.kinds.values()))
        name = list(self.kinds)[int(np.searchsorted(steps, rng.random() * steps[-1]))]
        side = -1.0 if self.both and rng.random() < 0.5 else 1.0
        across = side * float(rng.uniform(*self.across)) + float(rng.normal(0, 0.15))
        low, high = _SPEEDS.get(name, _DRIVING)
        speed = float(rng.uniform(low, high))
        facing = 0.0 if side * (self.direction or -1) > 0 else np.pi  # parked on the side one drives on
        pace = (0.0, 0.0)
        if self.direction:
            facing = 0.0 if self.direction > 0 else np.pi
            pace = (self.direction * speed, 0.0)
        elif name in _STANDING:
            along_road = np.pi * float(rng.integers(0, 2))
            facing = (along_road + np.pi / 2 if self.crossing else along_road) + float(rng.normal(0, 0.2))
            if self.crossing or rng.random() >= _STANDING[name]:
                pace = (float(speed * np.cos(facing)), float(speed * np.sin(facing)))
            else:
                facing = float(rng.uniform(-np.pi, np.pi))
        elif name in ("barrier", "traffic_cone", "debris"):
            facing = np.pi / 2 * float(rng.integers(0, 4)) + float(rng.normal(0, 0.15))
        else:
            facing += np.pi * float(rng.random() < 0.2) + float(rng.normal(0, 0.06))
        driven = bool(self.direction)
        return _Candidate(KIND_OF[name], _draw_size(rng, name, ridden=driven), across, facing, pace, driven)


_VEHICLES: tuple[str, ...] = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle")
_LANE: dict[str, float] = dict(zip(_VEHICLES, (2.6, 1.7, 1.8, 1.5, 0.8, 1.4, 1.1), strict=True))
_PARKED = dict(zip(_VEHICLES, (1.3, 0.6, 0.8, 0.7, 1.1, 0.9, 0.6), strict=True)) | {"traffic_cone": 1.8, "barrier": 1.6}
_ON_PAVEMENT = {"pedestrian": 4.0, "bicycle": 0.5, "motorcycle": 0.4, "traffic_cone": 2.0, "barrier": 1.8}
_PAVEMENT = {**_ON_PAVEMENT, "animal": 0.12, "debris": 0.2}
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
        self.progress: list[Floats] = []
        self.origins: list[tuple[float, float]] = []

    def offer(
        self, candidate: _Candidate, progress: Floats, along: float, time: float, *, anyway: bool = False
    ) -> None:
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
    """Put up to `count` objects around the ego vehicle that touch nothing over a span of seconds."""
    traffic = _Traffic(span, ego, count)
    if count >= 12 and rng.random() < 0.5:
        # A rack beside the road with bicycles in it, which may touch it.
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
    # An object that does not fit is drawn anew, up to a limit: a full road takes no more.
    shares = np.cumsum([row.share for row in _ROWS])
    for _ in range(count * _TRIES):
        if len(traffic.taken) >= count:
            break
        row = _ROWS[int(np.searchsorted(shares, rng.random() * shares[-1]))]
        candidate = row.draw(rng)
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


def _draw_size(rng: np.random.Generator, name: str, *, ridden: bool) -> tuple[float, float, float]:
    """Draw length, width and height of an object."""
    kind = KINDS[KIND_OF[name]]
    length, width, height = kind.size
    if not ridden:
        height = BARE_HEIGHT.get(name, height)
    # One factor for the whole object and a smaller one for each side: big cars are longer and wider.
    scale = np.clip(rng.normal(1, kind.spread) + rng.normal(0, kind.spread / 2, 3), 0.8, 1.25)
    return float(length * scale[0]), float(width * scale[1]), float(height * scale[2])


def _profile_times(span: Span) -> Floats:
    """Return the times (T,) at which the motions of a span of seconds are stored."""
    return np.arange(span[0], span[1] + 2 * _TIME_STEP, _TIME_STEP)


def _draw_profile(rng: np.random.Generator, span: Span, stops: float) -> Floats:
    """Draw the progress (T,) of one object over a span of seconds; with probability `stops` it brakes and starts."""
    times = _profile_times(span)
    if rng.random() >= stops:
        return times - span[0]
    period, phase = float(rng.uniform(8, 16)), float(rng.uniform(0, 2 * np.pi))
    rate = np.clip(0.55 + 0.9 * np.sin(2 * np.pi * times / period + phase), 0, 1)
    return _integral(rate * rate * (3 - 2 * rate), _TIME_STEP)  # smooth step: no jerk where it stops


def _integral(values: Floats, step: float) -> Floats:
    """Return the running integral by the trapezoid rule, 0 at the first point."""
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2) * step])
