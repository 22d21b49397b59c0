"""Pinhole cameras on a vehicle, and the projection of points, polygons and cuboids.

Camera frame: x right, y down, z forward, metres. Pixels: x right, y down. `Camera.intrinsics` are those of nuScenes,
where the centre of the first pixel is 0, 0; `drawing_camera` turns them into those of the renderer and of label boxes,
where an image spans 0..width and 0..height.
"""

from dataclasses import dataclass

import numpy as np

from boxwright.ops.arrays import Floats

NEAR = 0.4  # metres; nothing nearer to the camera than this is drawn or measured

# Columns are the camera's axes in the ego frame (x forward, y left, z up) when it looks straight ahead.
EGO_FROM_LEVEL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

_AROUND = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
_UNIT = np.array([(*xy, z) for z in (-1, 1) for xy in _AROUND], np.float64) / 2
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])


@dataclass(frozen=True, slots=True)
class Camera:
    """A level pinhole camera without distortion."""

    name: str  # channel
    width: int  # pixels
    height: int  # pixels
    intrinsics: Floats  # (3, 3) pixels from camera rays
    ego_from_camera: Floats  # (4, 4)

    def camera_from_global(self, global_from_ego: Floats) -> Floats:
        """Return the (4, 4) transform for a vehicle pose."""
        pose = global_from_ego @ self.ego_from_camera
        inverse = np.eye(4)
        inverse[:3, :3] = pose[:3, :3].T
        inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
        return inverse

    def project(self, points_cam: Floats) -> Floats:
        """Map points (..., 3) in the camera frame, in front of it, to pixels (..., 2)."""
        rays: Floats = points_cam / points_cam[..., 2:]
        return (rays @ self.intrinsics.T)[..., :2]


def drawing_camera(camera: Camera, scale: float = 1.0) -> Camera:
    """Return the camera for an image scaled by a factor, in pixels whose first one spans 0..1."""
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    width, height = max(1, round(camera.width * scale)), max(1, round(camera.height * scale))
    resize = np.diag([width / camera.width, height / camera.height, 1.0])
    return Camera(camera.name, width, height, resize @ half @ camera.intrinsics, camera.ego_from_camera)


def rotation_z(angle: float) -> Floats:
    """Return the (3, 3) rotation about z, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def transform(target_from_source: Floats, points: Floats) -> Floats:
    """Apply a (4, 4) rigid transform to points (..., 3)."""
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def cuboid_corners(centers: Floats, sizes: Floats, yaws: Floats) -> Floats:
    """Return the corners of upright cuboids, (N, 8, 3); the first four are the lower ones, in order around.

    Args:
        centers: (N, 3) metres.
        sizes: (N, 3) length (along the heading), width, height.
        yaws: (N,) heading, radians about z.
    """
    return turned(_UNIT[None] * sizes[:, None], yaws[:, None]) + centers[:, None]


def turned(points: Floats, yaws: Floats) -> Floats:
    """Rotate points (..., 3) about z by angles (...) in radians."""
    c, s = np.cos(yaws), np.sin(yaws)
    return np.stack(
        [points[..., 0] * c - points[..., 1] * s, points[..., 0] * s + points[..., 1] * c, points[..., 2]], -1
    )


def visible_corners(camera: Camera, corners_cam: Floats) -> Floats:
    """Project what of a cuboid (8, 3) lies in front of the camera: its corners, or cuts of its edges. (K, 2) pixels."""
    depth = corners_cam[:, 2]
    front = corners_cam[depth >= NEAR]
    if len(front) < 8:
        a, b = corners_cam[_EDGES[:, 0]], corners_cam[_EDGES[:, 1]]
        cut = (a[:, 2] >= NEAR) != (b[:, 2] >= NEAR)
        a, b = a[cut], b[cut]
        t = (NEAR - a[:, 2:]) / (b[:, 2:] - a[:, 2:])
        front = np.concatenate([front, a + t * (b - a)])
    return camera.project(front)


def clip_near(polygon_cam: Floats) -> Floats:
    """Cut a polygon (V, 3) at the near plane; returns (W, 3), perhaps empty."""
    if polygon_cam[:, 2].min() >= NEAR:
        return polygon_cam
    kept: list[Floats] = []
    for start, end in zip(polygon_cam, np.roll(polygon_cam, -1, 0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (NEAR - start[2]) / (end[2] - start[2]) * (end - start))
    return np.array(kept).reshape(-1, 3)
