"""The calibration of an own camera, one json: its matrix, and where camera and radars are; see docs/fusion.md."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from boxwright.errors import UserError
from boxwright.nuscenes.geometry import doubt_intrinsics, inverses, transforms
from boxwright.nuscenes.radar import accumulate, read_radar
from boxwright.nuscenes.settings import RadarReading
from boxwright.nuscenes.tables import ROTATION_TOLERANCE
from boxwright.ops.arrays import Floats
from boxwright.reading import read_text, reads
from boxwright.settings.base import Frozen

NAME = "{name}"  # in the path of radar files: the name of the image without its suffix
_LARGEST = 1 << 20  # bytes; a calibration has a few hundred
_MOST_RADARS = 32
_MOST_POINTS = 500_000  # of all radars, for an image: half a gigabyte
_MATRIX = "should be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, fx and fy above 0"
_SAME_SHAPE = 0.01  # by which width / height of an image and of `image_size` may differ

Side = Annotated[int, Field(gt=0, le=1 << 20)]  # pixels
Row = Annotated[tuple[float, ...], Field(min_length=3, max_length=4)]


class _Place(Frozen):
    """Where a sensor is, as nuScenes says it: parent_from_sensor with the car as parent."""

    translation: tuple[float, float, float]  # metres; x forward, y left, z up
    rotation: tuple[float, float, float, float]  # quaternion w, x, y, z


class _Radar(Frozen):
    extrinsics: _Place
    files: str


class _File(Frozen):
    """What the json holds."""

    intrinsics: tuple[Row, Row, Row]
    image_size: tuple[Side, Side] | None = None  # width, height of the images that the matrix is for
    extrinsics: _Place | None = None
    radar: Annotated[tuple[_Radar, ...], Field(max_length=_MOST_RADARS)] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A camera and the radars that look where it looks."""

    path: Path  # the json
    intrinsics: Floats  # (3, 4) camera matrix in pixels of images of `image_size`
    image_size: tuple[int, int] | None  # width, height; None: of the images as they are
    ego_from_cam: Floats | None  # (4, 4); None: not given
    radars: tuple[tuple[Floats, str], ...]  # (4, 4) cam_from_radar of each, and the path of its files

    def camera(self, width: int, height: int) -> tuple[Floats, str]:
        """Return the camera matrix (3, 4) for images of a size, and why it may not belong to them (empty: it may).

        Raises:
            UserError: images of this shape are not those of `image_size`.
        """
        calib = self.intrinsics.copy()
        if self.image_size is not None:
            across, down = width / self.image_size[0], height / self.image_size[1]
            if abs(across / down - 1) > _SAME_SHAPE:
                raise UserError(
                    f"{self.path} is of images of {self.image_size[0]} x {self.image_size[1]} pixels (image_size); "
                    f"one of {width} x {height} has another shape, so that its matrix is not known"
                )
            calib[0] *= across
            calib[1] *= down
        return calib, doubt_intrinsics(calib, width, height)

    def read_radar(self, name: str, reading: RadarReading) -> tuple[Floats, list[Path]]:
        """Gather the radar (18, N) of an image in the frame of the camera; also return the files that are not there.

        Raises:
            UserError: a file is no radar sweep, or there are more points than a radar can see.
        """
        sweeps, places, missing, count = list[NDArray[np.float32]](), list[Floats](), list[Path](), 0
        for cam_from_radar, pattern in self.radars:
            file = self.path.parent / pattern.replace(NAME, name)
            if not os.path.exists(file):
                missing.append(file)
                continue
            sweeps.append(read_radar(file, reading))
            places.append(cam_from_radar)
            count += sweeps[-1].shape[1]
            if count > _MOST_POINTS:
                raise UserError(f"{file}: with it the radar of {name} has more than {_MOST_POINTS:,} points")
        return accumulate(sweeps, np.array(places)), missing


@reads("json of a calibration")
def read_calibration(path: str | Path) -> Calibration:
    """Read the calibration of a camera.

    Raises:
        UserError: it cannot be read, an entry is missing, unknown or no such numbers, or radar is given without the
            place of the camera.
    """
    path = Path(path)
    try:
        given = TypeAdapter(_File).validate_python(json.loads(read_text(path, _LARGEST)))
    except ValidationError as error:
        # An entry that is misspelt is the reason why another one is missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"])) or "the file"
        said = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
        if first["type"] == "extra_forbidden":
            said = f"there is no entry {where}; docs/fusion.md lists them"
        elif where.startswith("intrinsics") and first["type"] != "finite_number":
            said = f"intrinsics: {_MATRIX}"
        elif first["type"] == "missing":
            said = f"{where} is missing"
        raise UserError(f"{path}: {said}") from error
    rows = {len(row) for row in given.intrinsics}
    matrix = np.zeros((3, 4))
    if len(rows) == 1:
        matrix[:, : rows.pop()] = given.intrinsics
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[2, :3].tolist() == [0, 0, 1] and matrix[1, 0] == 0):
        raise UserError(f"{path}: intrinsics: {_MATRIX}")
    if matrix[0, 1] != 0:
        raise UserError(f"{path}: intrinsics: a skew of {matrix[0, 1]:g} is not known here; rectify the images")
    if given.radar and given.extrinsics is None:
        raise UserError(f"{path}: radar needs the place of the camera, too: extrinsics")
    ego_from_cam = None if given.extrinsics is None else _matrix(given.extrinsics, path, "extrinsics")
    radars: list[tuple[Floats, str]] = []
    for number, radar in enumerate(given.radar):
        ego_from_radar = _matrix(radar.extrinsics, path, f"radar.{number}.extrinsics")
        assert ego_from_cam is not None
        radars.append((inverses(ego_from_cam) @ ego_from_radar, radar.files))
    return Calibration(path, matrix, given.image_size, ego_from_cam, tuple(radars))


def _matrix(place: _Place, path: Path, where: str) -> Floats:
    length = float(np.linalg.norm(place.rotation))
    if abs(length - 1) > ROTATION_TOLERANCE:
        raise UserError(f"{path}: {where}.rotation: a quaternion w, x, y, z has the length 1, this one {length:.3g}")
    return transforms(np.array(place.translation), np.array(place.rotation))
