"""Radar of nuScenes: reading .pcd files, and gathering the sweeps of several radars in the frame of a camera.

Source: published CenterFusion behaviour; state filters of the nuScenes devkit.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.settings import RadarReading
from boxwright.nuscenes.structures import RADAR_FIELDS
from boxwright.ops.arrays import Array, Floats
from boxwright.reading import read_bytes, reads

DEVKIT = RadarReading()
TOO_CLOSE = 1.0
"""Metres: points nearer than that in x and in y are returns of the car itself."""

_VX, _VY, _DYN_PROP, _AMBIGUITY, _VALIDITY = (
    RADAR_FIELDS.index(name) for name in ("vx_comp", "vy_comp", "dyn_prop", "ambig_state", "invalid_state")
)
_KINDS = {"F": "f", "I": "i", "U": "u"}
_LONGEST_HEADER = 4096  # bytes
_LARGEST = 4 << 20  # bytes; a sweep has 125 points of 43 bytes. In memory a point may take thirty times as much


@reads("radar sweep")
def read_radar(file: Path, reading: RadarReading | None = DEVKIT) -> NDArray[np.float32]:
    """Read (18, N) points of a binary .pcd file in the frame of its radar, see `structures.RADAR_FIELDS`.

    Args:
        file: a radar sweep of nuScenes.
        reading: which points are kept: valid, unambiguous ones with a known dynamic property, as the devkit does by
            default; None: all of them.

    Returns:
        no points if the first one is NaN, which is how an empty sweep is written.

    Raises:
        UserError: the file cannot be read, is cut off, or has other fields.
    """
    content = read_bytes(file, _LARGEST)
    # The points begin right behind the line break of the DATA line; only the first bytes can hold it.
    start = content.find(b"\n", content.find(b"\nDATA ", 0, _LONGEST_HEADER) + 1) + 1
    if start <= 0 or b"\nDATA " not in content[:_LONGEST_HEADER]:
        raise UserError(f"{file} is no .pcd file, or it is cut off: its header has no DATA line")
    try:
        dtype, count = _header(content[:start])
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if len(content) - start < count * dtype.itemsize:
        there = (len(content) - start) // dtype.itemsize
        raise UserError(f"{file} is cut off: it should have {count} points and has {there}")
    rows = np.frombuffer(content, dtype, count, start)
    points = np.empty((len(RADAR_FIELDS), count), np.float32)
    for number, name in enumerate(RADAR_FIELDS):
        points[number] = rows[name]
    # The devkit takes a NaN in the first point for an empty sweep, whatever follows.
    if count and np.isnan(points[:, 0]).any():
        return points[:, :0]
    if reading is None:
        return points
    kept = np.ones(points.shape[1], np.bool_)
    allowed = {_DYN_PROP: reading.dyn_prop, _AMBIGUITY: reading.ambig_state, _VALIDITY: reading.invalid_state}
    for row, states in allowed.items():
        if states:  # np.isin takes three times as long for the 125 points of a sweep
            kept &= (points[row][:, None] == np.array(states, np.float32)).any(1)
    return points[:, kept]


@lru_cache(maxsize=4096)
def _header(text: bytes) -> tuple[np.dtype[Any], int]:
    """Parse the type of a point and the number of points; ValueError says what is wrong."""
    lines = (line.split() for line in text.decode("ascii", "replace").splitlines())
    entries = {line[0]: line[1:] for line in lines if line and not line[0].startswith("#")}
    fields = entries.get("FIELDS", [])
    if tuple(fields) != RADAR_FIELDS:
        raise ValueError(
            f"its fields are {' '.join(fields) or 'not given'}, a radar sweep of nuScenes has {' '.join(RADAR_FIELDS)}"
        )
    if entries.get("DATA") != ["binary"]:
        raise ValueError("its data are not `binary`")
    sizes, kinds = entries.get("SIZE", []), entries.get("TYPE", [])
    counts = entries.get("COUNT", ["1"] * len(fields))
    if not len(sizes) == len(kinds) == len(counts) == len(fields) or set(counts) != {"1"}:
        raise ValueError("its header does not give one size, type and count to every field")
    try:
        dtype = np.dtype([(n, f"<{_KINDS[k]}{int(s)}") for n, k, s in zip(fields, kinds, sizes, strict=True)])
        count = int(entries["WIDTH"][0]) * int(entries.get("HEIGHT", ["1"])[0])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError("its header has a size, a type or a width that cannot be read") from error
    if count < 0:
        raise ValueError("its header has a negative width")
    return dtype, count


_TYPES = {"id": "<i2"} | dict.fromkeys(("x", "y", "z", "rcs", "vx", "vy", "vx_comp", "vy_comp"), "<f4")
RADAR_DTYPE = np.dtype([(name, _TYPES.get(name, "i1")) for name in RADAR_FIELDS])
"""A point of a sweep as nuScenes stores it: 43 bytes."""


def write_radar(path: Path, points: Array) -> None:
    """Write one sweep as a binary .pcd file, as those of nuScenes are.

    Args:
        points: (P,) of `RADAR_DTYPE`, in the frame of the radar: x forward, y left.
    """
    header = (
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(RADAR_FIELDS)}",
        f"SIZE {' '.join(str(RADAR_DTYPE[name].itemsize) for name in RADAR_FIELDS)}",
        f"TYPE {' '.join(RADAR_DTYPE[name].kind.upper() for name in RADAR_FIELDS)}",
        f"COUNT {' '.join('1' for _ in RADAR_FIELDS)}",
        f"WIDTH {len(points)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(points)}",
        "DATA binary",
    )
    # The official reader needs a byte after the last point.
    path.write_bytes("\n".join(header).encode() + b"\n" + np.asarray(points, RADAR_DTYPE).tobytes() + b"\n")


def accumulate(sweeps: list[NDArray[np.float32]], cam_from_radar: Floats, seconds: Floats | None = None) -> Floats:
    """Gather sweeps in the frame of a camera.

    Points nearer than 1 m in x and y to their radar are dropped. Positions are moved with the ego motion, and along
    their velocity only if times are given; compensated velocities (vx, vy, 0) are turned with the frame.

    Args:
        sweeps: (18, n) points of each, in the frame of its radar.
        cam_from_radar: (len(sweeps), 4, 4) from each to the camera at the time of its image.
        seconds: (len(sweeps),) from each to the time of the image; None: points stay where they were measured.

    Returns:
        (18, N) float64; rows 0 to 2 in the camera frame, rows 8 and 9 the velocity along the camera's x and z.
    """
    if not sweeps:
        return np.zeros((len(RADAR_FIELDS), 0))
    points = np.concatenate(sweeps, 1).astype(np.float64)
    of = np.repeat(np.arange(len(sweeps)), [sweep.shape[1] for sweep in sweeps])
    # A point is dropped only if both x and y are small, as in the devkit.
    far = (np.abs(points[:2]) >= TOO_CLOSE).any(0)
    points, matrices = points[:, far], cam_from_radar[of[far]]
    if seconds is not None:
        points[:2] += points[[_VX, _VY]] * seconds[of[far]]
    turn = matrices[:, :3, :3]
    points[:3] = (np.einsum("nij,jn->ni", turn, points[:3]) + matrices[:, :3, 3]).T
    # Radar measures velocity in its horizontal plane: the third component is 0, so two columns suffice.
    velocity = np.einsum("nij,jn->in", turn[:, :, :2], points[[_VX, _VY]])
    points[_VX], points[_VY] = velocity[0], velocity[2]
    return points
