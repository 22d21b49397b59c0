"""Poses of nuScenes as matrices: quaternions (w, x, y, z) and translations, many at a time.

Transforms are named target_from_source. Frames: global, ego (the car), sensor (camera: x right, y down, z forward).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError

Array = NDArray[np.float64]

ROTATION_TOLERANCE = 1e-3
"""How far the norm of a published quaternion may be from 1; real ones keep to 1e-6."""


def rotation_matrices(quaternions: NDArray[Any]) -> Array:
    """(..., 3, 3) rotations of quaternions (..., 4) w, x, y, z, which need not have norm 1 to the last digit."""
    q = np.asarray(quaternions, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def transforms(translations: NDArray[Any], quaternions: NDArray[Any]) -> Array:
    """(..., 4, 4) parent_from_child of translations (..., 3) in metres and quaternions (..., 4)."""
    made = np.zeros((*np.shape(translations)[:-1], 4, 4))
    made[..., :3, :3] = rotation_matrices(quaternions)
    made[..., :3, 3] = translations
    made[..., 3, 3] = 1.0
    return made


def inverses(rigid: NDArray[Any]) -> Array:
    """(..., 4, 4) inverse of rigid transforms: the rotation is transposed, not solved for."""
    made = np.zeros(np.shape(rigid))
    turned = np.swapaxes(np.asarray(rigid)[..., :3, :3], -1, -2)
    made[..., :3, :3] = turned
    made[..., :3, 3] = -np.einsum("...ij,...j->...i", turned, rigid[..., :3, 3])
    made[..., 3, 3] = 1.0
    return made


def check_rotations(quaternions: Array, tokens: list[str], file: str) -> None:
    """Raise a UserError that names the first record whose quaternion is no rotation: a norm that is not 1."""
    bad = np.flatnonzero(~(np.abs(np.linalg.norm(quaternions, axis=-1) - 1) <= ROTATION_TOLERANCE))  # also NaN
    if len(bad):
        shown = ", ".join(f"{number:g}" for number in quaternions[bad[0]])
        raise UserError(
            f"{file}: the rotation ({shown}) of record {tokens[bad[0]]} is no rotation: "
            f"a quaternion w, x, y, z of norm 1 is needed"
        )
