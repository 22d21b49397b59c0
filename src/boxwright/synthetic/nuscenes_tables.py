"""The tables of a nuScenes root: json lists that are written record by record, and how tokens and poses are spelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)


class Tables:
    """Writes all tables side by side, so that no table is ever held whole. A context: leaving it closes the files."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, TextIOWrapper] = {}
        self._begun: set[str] = set()
        for name in TABLES:
            self._files[name] = (folder / f"{name}.json").open("w", encoding="utf-8", newline="\n")

    def add(self, table: str, record: Mapping[str, Any]) -> None:
        """Append a record to a table."""
        self._files[table].write(",\n" if table in self._begun else "[\n")
        self._begun.add(table)
        self._files[table].write(json.dumps(record, ensure_ascii=False))

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, file in self._files.items():
            file.write("\n]\n" if name in self._begun else "[]\n")
            file.close()


def token(*parts: str | int) -> str:
    """Return the 32 hexadecimal digits that name a record; the same parts give the same ones."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def yaw_quaternion(yaw: float) -> list[float]:
    """Return the unit quaternion w, x, y, z of a rotation about z by `yaw` radians."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def quaternion(rotation: Array) -> list[float]:
    """Return the unit quaternion w, x, y, z of a (3, 3) rotation.

    Source: the largest eigenvector of the symmetric matrix of Bar-Itzhack, "New method for extracting the quaternion
    from a rotation matrix", 2000; it has no singular case.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, xz + zx],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, xz + zx, zy + yz, zz - xx - yy],
        ]
    )
    found = np.linalg.eigh(symmetric)[1][:, -1]
    return [float(value) for value in found * (1 if found[0] >= 0 else -1)]
