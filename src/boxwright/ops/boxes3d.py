"""Boxes in the frame of a camera: their corners, and between space and pixels.

Camera frame: x right, y down, z forward, metres. A box is the centre of its bottom face, (height, width, length) and
its rotation about the y axis (rad), at 0 of which its length lies along x.
Source: published CenterFusion behaviour, after KITTI.
"""

from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[Any]
# Of half the length, the height, half the width, to each corner; front first, bottom before top.
_ALONG = (1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0)
_DOWN = (0.0, 0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0)
_ACROSS = (1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0)
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corners that an edge joins."""


@overload
def corners_camera(locations: Tensor, dims: Tensor, rotation_y: Tensor) -> Tensor: ...
@overload
def corners_camera(locations: Floats, dims: Floats, rotation_y: Floats) -> Floats: ...
def corners_camera(locations: Tensor | Floats, dims: Tensor | Floats, rotation_y: Tensor | Floats) -> Tensor | Floats:
    """Return corners (..., 8, 3) of boxes: four of the bottom face, then those above them; 0, 1 are the front.

    Args:
        locations: (..., 3) metres, centre of the bottom face.
        dims: (..., 3) height, width, length in metres.
        rotation_y: (...) rad.
    """
    if not isinstance(locations, Tensor):
        arrays = (np.array(array) for array in (locations, dims, rotation_y))
        where, sizes, turn = (torch.from_numpy(array) for array in arrays)
        return corners_camera(where, sizes, turn).numpy()
    assert isinstance(dims, Tensor)
    assert isinstance(rotation_y, Tensor)
    height, width, length = dims.unsqueeze(-1).unbind(-2)
    x = dims.new_tensor(_ALONG) * length / 2
    y = dims.new_tensor(_DOWN) * height
    z = dims.new_tensor(_ACROSS) * width / 2
    sine, cosine = rotation_y.sin()[..., None], rotation_y.cos()[..., None]
    return (
        torch.stack(torch.broadcast_tensors(cosine * x + sine * z, y, cosine * z - sine * x), dim=-1)
        + locations[..., None, :]
    )


@overload
def project(points: Tensor, calibs: Tensor) -> Tensor: ...
@overload
def project(points: Floats, calibs: Floats) -> Floats: ...
def project(points: Tensor | Floats, calibs: Tensor | Floats) -> Tensor | Floats:
    """Project to pixels (..., 2) the points (..., 3) in the camera frame; where z <= 0 the result means nothing.

    Args:
        calibs: (..., 3, 4) camera matrices, which broadcast against the points.
    """
    seen = (calibs[..., :3] @ points[..., None])[..., 0] + calibs[..., 3]  # type: ignore[operator]
    return seen[..., :2] / seen[..., 2:]


@overload
def unproject(pixels: Tensor, depth: Tensor, calibs: Tensor) -> Tensor: ...
@overload
def unproject(pixels: Floats, depth: Floats, calibs: Floats) -> Floats: ...
def unproject(pixels: Tensor | Floats, depth: Tensor | Floats, calibs: Tensor | Floats) -> Tensor | Floats:
    """Return the points (..., 3) in the camera frame that are seen at pixels (..., 2) at depths (...) in metres.

    Args:
        calibs: (..., 3, 4) camera matrices without skew, which broadcast against the pixels.
    """
    z = depth - calibs[..., 2, 3]
    x = (pixels[..., 0] * depth - calibs[..., 0, 3] - calibs[..., 0, 2] * z) / calibs[..., 0, 0]
    y = (pixels[..., 1] * depth - calibs[..., 1, 3] - calibs[..., 1, 2] * z) / calibs[..., 1, 1]
    if isinstance(x, Tensor):
        assert isinstance(y, Tensor)
        assert isinstance(z, Tensor)
        return torch.stack((x, y, z), dim=-1)
    return np.stack((x, y, z), axis=-1)  # type: ignore[arg-type]
