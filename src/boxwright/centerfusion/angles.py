"""Angles of objects seen by a camera: wrapping, local against global rotation, and the eight channels a network says.

`alpha` is the rotation as seen along the ray to the object, `rotation_y` that about the camera's y axis (rad); they
differ by the direction of the ray, atan2(x - cx, fx).
Source: Mousavian et al., 3D Bounding Box Estimation Using Deep Learning and Geometry (2017); published CenterFusion
behaviour.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.floating]
_TURN = 2 * math.pi


@overload
def wrap(angles: Tensor) -> Tensor: ...
@overload
def wrap(angles: Floats) -> Floats: ...
def wrap(angles: Tensor | Floats) -> Tensor | Floats:
    """Bring angles (...) in rad into [-pi, pi]; those inside stay as they are, to the bit."""
    if isinstance(angles, Tensor):
        return angles - _TURN * torch.round(angles / _TURN)
    return angles - _TURN * np.round(angles / _TURN)


@overload
def ray_angle(x: Tensor, cx: Tensor, fx: Tensor) -> Tensor: ...
@overload
def ray_angle(x: Floats, cx: Floats | float, fx: Floats | float) -> Floats: ...
def ray_angle(x: Tensor | Floats, cx: Tensor | Floats | float, fx: Tensor | Floats | float) -> Tensor | Floats:
    """Direction of the rays through columns x, to the right of the optical axis, in rad; all in the unit of x."""
    if isinstance(x, Tensor):
        assert isinstance(cx, Tensor)
        assert isinstance(fx, Tensor)
        return torch.atan2(x - cx, fx.expand_as(x))
    return np.arctan2(x - np.asarray(cx), np.asarray(fx))


@overload
def rotation_from_alpha(alpha: Tensor, x: Tensor, cx: Tensor, fx: Tensor) -> Tensor: ...
@overload
def rotation_from_alpha(alpha: Floats, x: Floats, cx: Floats | float, fx: Floats | float) -> Floats: ...
def rotation_from_alpha(
    alpha: Tensor | Floats, x: Tensor | Floats, cx: Tensor | Floats | float, fx: Tensor | Floats | float
) -> Tensor | Floats:
    """Rotation about the camera's y axis, in [-pi, pi], of objects seen at columns x under `alpha`.

    Args:
        alpha: (...) rad.
        x: (...) column of the object's centre, in the pixels of cx and fx; those broadcast against it.
    """
    return wrap(alpha + ray_angle(x, cx, fx))  # type: ignore[operator,arg-type,no-any-return]


@overload
def alpha_from_rotation(rotation_y: Tensor, x: Tensor, cx: Tensor, fx: Tensor) -> Tensor: ...
@overload
def alpha_from_rotation(rotation_y: Floats, x: Floats, cx: Floats | float, fx: Floats | float) -> Floats: ...
def alpha_from_rotation(
    rotation_y: Tensor | Floats, x: Tensor | Floats, cx: Tensor | Floats | float, fx: Tensor | Floats | float
) -> Tensor | Floats:
    """The inverse of `rotation_from_alpha`, in [-pi, pi]."""
    return wrap(rotation_y - ray_angle(x, cx, fx))  # type: ignore[operator,arg-type,no-any-return]


def decode_rotation(channels: Tensor) -> Tensor:
    """Alpha (...) in rad, within [-1.5 pi, 1.5 pi], of raw `rot` outputs (..., 8).

    Channels 0-3 speak for the bin around -pi/2, 4-7 for that around pi/2: two logits (no, yes), then sine and cosine of
    what alpha lies beyond the middle of the bin. The bin with the greater "yes" counts.
    """
    first = torch.atan2(channels[..., 2], channels[..., 3]) - math.pi / 2
    second = torch.atan2(channels[..., 6], channels[..., 7]) + math.pi / 2
    return torch.where(channels[..., 1] > channels[..., 5], first, second)
