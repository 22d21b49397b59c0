"""The background of a picture: sky, ground with shadows, buildings.

Cameras have no roll, so that the horizon is a row of the image and each row of the ground lies at one depth.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import Camera, clip_near, cuboid_corners, transform
from boxwright.synthetic.textures import FACADE_PIXELS, GROUND_PERIOD, GROUND_PIXELS, facade, ground
from boxwright.synthetic.world import Light, Objects, Scene

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

SHIFT = 4  # fractional bits of polygon coordinates
_FAR = 120.0  # metres; beyond it is haze only
_ZENITH = np.array([96.0, 146.0, 208.0])
_HALF_PIXEL = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # pixel centres from pixel indices


def fixed_point(pixels: Array) -> NDArray[np.int32]:
    """Turn pixel coordinates (..., 2) into OpenCV's fixed point, where pixel centres are whole numbers."""
    scaled = (np.clip(pixels, -4000, 8000) - 0.5) * (1 << SHIFT)
    return np.rint(scaled).astype(np.int32)


def haze_share(light: Light, distance: Array) -> Array:
    """Return how much of a colour is lost to haze at distances in metres, 0..1."""
    return 1 - np.exp(-light.density * np.maximum(distance, 0))


def _row_depths(camera: Camera, camera_from_global: Array) -> tuple[Array, Array]:
    """Return, for each image row, the rise of its rays and the depth at which they meet the ground (inf above it)."""
    rows = (np.arange(camera.height) + 0.5 - camera.intrinsics[1, 2]) / camera.intrinsics[1, 1]
    up = camera_from_global[:3, 2]
    rise = up[1] * rows + up[2]
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    with np.errstate(divide="ignore"):
        return rise, np.where(rise < 0, eye[2] / np.maximum(-rise, 1e-9), np.inf)


def paint_background(scene: Scene, camera: Camera, camera_from_global: Array, objects: Objects) -> Image:
    """Paint sky, ground, the shadows of objects, and buildings; returns (H, W, 3) RGB."""
    rise, depth = _row_depths(camera, camera_from_global)
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    light = scene.light
    up = np.clip(rise, 0, 1)[:, None] ** 0.5
    zenith = _ZENITH * light.tint
    sky = light.haze + (zenith * light.direct / 0.55 + light.haze * (1 - light.direct / 0.55) - light.haze) * up
    image[:] = np.clip(sky, 0, 255)[:, None].astype(np.uint8)
    first = int(np.searchsorted(-depth, -_FAR))
    if first < camera.height:
        _paint_ground(image, scene, camera, camera_from_global, objects, depth, first)
    _paint_buildings(image, scene, camera, camera_from_global)
    return image


def _paint_ground(
    image: Image, scene: Scene, camera: Camera, camera_from_global: Array, objects: Objects, depth: Array, first: int
) -> None:
    """Fill the rows from `first` on with the street, darkened by shadows, faded by haze."""
    texture = ground(scene.lanes, scene.index % 4)
    eye_x = (-camera_from_global[:3, :3].T @ camera_from_global[:3, 3])[0]
    origin = np.floor(eye_x / GROUND_PERIOD) * GROUND_PERIOD
    pixels_from_ground = camera.intrinsics @ camera_from_global[:3, [0, 1, 3]]
    texture_from_ground = np.array(
        [[GROUND_PIXELS, 0, -origin * GROUND_PIXELS], [0, GROUND_PIXELS, texture.shape[0] / 2], [0, 0, 1.0]]
    )
    below = np.array([[1.0, 0, 0], [0, 1.0, first], [0, 0, 1.0]])  # image rows from rows of the part below `first`
    matrix = np.linalg.inv(_HALF_PIXEL) @ texture_from_ground @ np.linalg.inv(pixels_from_ground) @ _HALF_PIXEL @ below
    size = (camera.width, camera.height - first)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    road = cv2.warpPerspective(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    light = scene.light
    lit = light.ambient + light.direct * light.to_sun[2]
    bright = _shadow_mask(scene, camera, camera_from_global, objects, light.ambient / lit)[first:]
    fog = haze_share(scene.light, depth[first:])[:, None, None].astype(np.float32)
    shade = (bright[..., None].astype(np.float32) / 255) * (light.tint * lit).astype(np.float32)
    painted = road * shade * (1 - fog) + light.haze.astype(np.float32) * fog
    image[first:] = np.clip(painted, 0, 255).astype(np.uint8)


def _shadow_mask(
    scene: Scene, camera: Camera, camera_from_global: Array, objects: Objects, shadow: float
) -> NDArray[np.uint8]:
    """Return the brightness of the ground, (H, W) in 0..255: full in the sun, `shadow` of it behind objects."""
    mask = np.full((camera.height, camera.width), 255, np.uint8)
    corners = cuboid_corners(objects.centers, objects.sizes, objects.yaws)
    lower = corners[:, :4, :2]
    onto_ground = camera_from_global[:3, :2]
    slide = -scene.light.to_sun[:2] / scene.light.to_sun[2]
    cast = lower + slide * np.minimum(objects.sizes[:, 2], 4.0)[:, None, None]
    for outline, level in ((np.concatenate([lower, cast], 1), shadow), (lower, shadow * 0.55)):
        for points in outline:
            hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
            visible = clip_near(hull @ onto_ground.T + camera_from_global[:3, 3])
            if len(visible) > 2:
                polygon = fixed_point(camera.project(visible))
                cv2.fillConvexPoly(mask, polygon, round(255 * level), cv2.LINE_AA, SHIFT)
    return np.asarray(cv2.blur(mask, (3, 3)), np.uint8)


def _paint_buildings(image: Image, scene: Scene, camera: Camera, camera_from_global: Array) -> None:
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    blocks = scene.buildings
    distance = np.maximum(np.maximum(blocks.x0 - eye[0], eye[0] - blocks.x1), 0)
    for i in np.argsort(-distance, kind="stable"):
        y = float(blocks.side[i] * blocks.setback[i])
        x0, x1, height = float(blocks.x0[i]), float(blocks.x1[i]), float(blocks.height[i])
        if distance[i] > _FAR:
            continue
        end = x0 if x0 > eye[0] else x1
        if end != x1 or x1 < eye[0]:  # the end wall that looks towards the camera
            _paint_wall(
                image,
                scene,
                camera,
                camera_from_global,
                (end, y),
                (0.0, float(blocks.side[i]) * 9),
                height,
                int(blocks.looks[i]),
            )
        _paint_wall(image, scene, camera, camera_from_global, (x0, y), (x1 - x0, 0.0), height, int(blocks.looks[i]))


def _paint_wall(
    image: Image,
    scene: Scene,
    camera: Camera,
    camera_from_global: Array,
    foot: tuple[float, float],
    along: tuple[float, float],
    height: float,
    look: int,
) -> None:
    """Paint an upright rectangle: `foot` is one lower corner, `along` the vector to the other, on the ground."""
    start, run = np.array([*foot, 0.0]), np.array([*along, 0.0])
    rise = np.array([0.0, 0.0, height])
    quad = np.stack([start, start + run, start + run + rise, start + rise])
    visible = clip_near(transform(camera_from_global, quad))
    if len(visible) < 3:
        return
    pixels = camera.project(visible)
    x0, y0 = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(pixels.max(0)), (camera.width, camera.height)).astype(int)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    length = float(np.linalg.norm(run))
    texture = facade(look)
    # Plane coordinates: metres along the foot and metres up; the texture's last row is at the ground.
    plane = np.c_[run / length, rise / height, start]
    basis = camera_from_global[:3, :3] @ plane
    basis[:, 2] += camera_from_global[:3, 3]
    texture_from_plane = np.array([[FACADE_PIXELS, 0, 0], [0, -FACADE_PIXELS, texture.shape[0]], [0, 0, 1.0]])
    roi = np.array([[1.0, 0, x0], [0, 1.0, y0], [0, 0, 1.0]])
    matrix = (
        np.linalg.inv(_HALF_PIXEL) @ texture_from_plane @ np.linalg.inv(camera.intrinsics @ basis) @ _HALF_PIXEL @ roi
    )
    size = (int(x1 - x0), int(y1 - y0))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    wall = cv2.warpPerspective(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    normal = np.array([-run[1], run[0], 0.0]) / length
    normal *= -np.sign(normal @ (start + camera_from_global[:3, :3].T @ camera_from_global[:3, 3]))
    light = scene.light
    lit = light.ambient + light.direct * max(0.0, float(normal @ light.to_sun))
    fog = float(haze_share(scene.light, visible[:, 2].mean()))
    gain, offset = light.tint * lit * (1 - fog), light.haze * fog
    wall = cv2.transform(wall, np.c_[np.diag(gain), offset])
    mask = np.zeros(size[::-1], np.uint8)
    cv2.fillConvexPoly(mask, fixed_point(pixels - (x0, y0)), 255, cv2.LINE_8, SHIFT)
    cv2.copyTo(wall, mask, image[y0:y1, x0:x1])
