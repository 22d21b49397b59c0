"""A scene as a camera sees it: an RGB image and 2-D boxes of its objects.

Painter's algorithm: background first, then objects from far to near, each part by part. Pixels are those of `camera`.
A 2-D box is the extent of the projected corners of an object's cuboid in front of the camera, cut by the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import NEAR, Camera, clip_near, cuboid_corners, transform, visible_corners
from boxwright.synthetic.shapes import Shape, shape_of
from boxwright.synthetic.street import SHIFT, fixed_point, haze_share, paint_background
from boxwright.synthetic.textures import palette
from boxwright.synthetic.world import Light, Objects, Scene

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Image = NDArray[np.uint8]

_LAYER_STEP = 100.0  # metres; longer than any object, so that layers decide before distances
_HORIZON = 80.0  # metres; objects further away are not drawn
_LONGEST = 16.0  # metres; no object is longer
_SMALLEST = 0.4  # pixels; polygons smaller than this are not drawn


@dataclass(frozen=True, slots=True)
class Limits:
    """What is worth a label.

    Args:
        min_side: smallest width and height of a box in pixels.
        min_visible: smallest share of an object's area inside the image that nothing covers.
    """

    min_side: float = 8.0
    min_visible: float = 0.35


@dataclass(frozen=True, slots=True)
class Frame:
    """One image and its labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels inside the image, nearest object first.
        labels: (N,) positions in `catalog.NAMES`.
        instance_ids: (N,) objects of the scene.
        visibility: (N,) share of the area inside the image that nothing covers.
    """

    image: Image
    boxes: Array
    labels: Ints
    instance_ids: Ints
    visibility: Array


def render(scene: Scene, camera: Camera, time: float, *, limits: Limits | None = None) -> Frame:
    """Paint a scene at a time in seconds; the same arguments give the same pixels."""
    camera_from_global = camera.camera_from_global(scene.global_from_ego(time))
    objects, outlines, boxes = _in_view(scene.at(time), camera, camera_from_global)
    image = paint_background(scene, camera, camera_from_global, objects)
    shapes = [shape_of(int(c), int(look)) for c, look in zip(objects.class_ids, objects.looks, strict=True)]
    palettes = [palette(int(c), int(look)) for c, look in zip(objects.class_ids, objects.looks, strict=True)]
    paint_objects(image, scene.light, camera, camera_from_global, objects, shapes, palettes)
    visibility = _visibility(camera, outlines)
    rng = np.random.default_rng([scene.seed, scene.index, round(time * 1000), *camera.name.encode()])
    limits = limits or Limits()
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    kept = np.flatnonzero((sides >= limits.min_side) & (visibility >= limits.min_visible))[::-1]
    return Frame(
        _sensor(image, rng), boxes[kept], objects.class_ids[kept], objects.instance_ids[kept], visibility[kept]
    )


def _in_view(objects: Objects, camera: Camera, camera_from_global: Array) -> tuple[Objects, list[Array], Array]:
    """Return the objects that touch the image, far to near, their projected corners, and boxes cut by the image."""
    distance = transform(camera_from_global, objects.centers)
    reach = np.linalg.norm(distance, axis=1)
    near = objects.take(np.flatnonzero((reach < _HORIZON) & (distance[:, 2] > -_LONGEST / 2)))
    corners = transform(camera_from_global, cuboid_corners(near.centers, near.sizes, near.yaws))
    outlines = [visible_corners(camera, cuboid) for cuboid in corners]
    boxes = np.zeros((len(near), 4))
    for row, pixels in enumerate(outlines):
        if len(pixels) > 2:
            boxes[row] = *pixels.min(0), *pixels.max(0)
    boxes = np.clip(boxes, 0, [camera.width, camera.height] * 2)
    seen = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    order = seen[np.argsort(-np.linalg.norm(corners[seen].mean(1), axis=1), kind="stable")]
    return near.take(order), [outlines[i] for i in order], boxes[order]


def paint_objects(
    image: Image,
    light: Light,
    camera: Camera,
    camera_from_global: Array,
    objects: Objects,
    shapes: Sequence[Shape],
    palettes: Sequence[Array],
) -> None:
    """Paint all polygons of all objects.

    Args:
        image: (H, W, 3) RGB, painted on in place.
        light: of the scene.
        camera: that sees them.
        camera_from_global: (4, 4).
        objects: N objects in painting order.
        shapes: of each object.
        palettes: of each object, (len(ROLES), 3) RGB.
    """
    if not len(objects):
        return
    owner = np.repeat(np.arange(len(shapes)), [len(shape.roles) for shape in shapes])
    local = (np.concatenate([shape.vertices for shape in shapes]) - (0, 0, 0.5)) * objects.sizes[owner, None]
    c, s = np.cos(objects.yaws[owner])[:, None], np.sin(objects.yaws[owner])[:, None]
    vertices = np.stack(
        [local[..., 0] * c - local[..., 1] * s, local[..., 0] * s + local[..., 1] * c, local[..., 2]], -1
    )
    vertices += objects.centers[owner, None]
    normals = np.cross(vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    facing = np.einsum("pk,pk->p", normals, eye - vertices[:, 0]) > 0

    order = _painting_order(shapes, objects, eye)
    order = order[facing[order]]
    points = transform(camera_from_global, vertices[order])
    base = np.stack(palettes)[owner[order], np.concatenate([shape.roles for shape in shapes])[order]]
    colors = shaded(light, base, normals[order], points[..., 2].mean(1))
    fill_polygons(image, camera, points, colors)


def _painting_order(shapes: Sequence[Shape], objects: Objects, eye: Array) -> Ints:
    """Return polygon positions: object after object, in each layer after layer, far parts before near ones."""
    keys: list[Array] = []
    for row, shape in enumerate(shapes):
        c, s = np.cos(objects.yaws[row]), np.sin(objects.yaws[row])
        to_eye = eye - objects.centers[row]
        eye_local = np.array([to_eye[0] * c + to_eye[1] * s, to_eye[1] * c - to_eye[0] * s])
        offsets = shape.part_centers[:, :2] * objects.sizes[row, :2] - eye_local
        nearness = shape.part_layers * _LAYER_STEP - np.hypot(offsets[:, 0], offsets[:, 1])
        keys.append(np.asarray(nearness[shape.parts] + row * 100 * _LAYER_STEP, np.float64))
    return np.argsort(np.concatenate(keys), kind="stable")


def shaded(light: Light, base: Array, normals: Array, depth: Array) -> Array:
    """Return the colours (P, 3) RGB that surfaces of colour `base`, unit normal and depth (P,) show."""
    lit = light.ambient + light.direct * np.maximum(normals @ light.to_sun, 0)
    sky = 0.9 + 0.1 * normals[:, 2]  # faces that look up see more of the sky
    fog = haze_share(light, depth)[:, None]
    return np.clip(base * light.tint * (lit * sky)[:, None] * (1 - fog) + light.haze * fog, 0, 255)


def fill_polygons(image: Image, camera: Camera, polygons: Array, colors: Array, *, smooth: bool = True) -> None:
    """Paint polygons (P, V, 3) of the camera frame in order; those that share edges are better not smoothed."""
    whole, partly = polygons[..., 2].min(1) >= NEAR, polygons[..., 2].max(1) >= NEAR
    pixels = camera.project(np.where(whole[:, None, None], polygons, 1.0))
    low, high = pixels.min(1), pixels.max(1)
    inside = ((high > 0) & (low < (camera.width, camera.height)) & (high - low > _SMALLEST)).all(1)
    fixed = fixed_point(pixels)
    rgb = np.rint(colors).tolist()
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    for row in np.flatnonzero(np.where(whole, inside, partly)):
        outline = fixed[row]
        if not whole[row]:
            cut = clip_near(polygons[row])
            if len(cut) < 3:
                continue
            outline = fixed_point(camera.project(cut))
        cv2.fillConvexPoly(image, outline, rgb[row], line, SHIFT)


def _visibility(camera: Camera, outlines: list[Array]) -> Array:
    """Return the share of each object's area in the image that nearer objects leave free, (N,).

    An object's area is taken as that of the outline of its projected cuboid; `outlines` run from far to near.
    """
    owners = np.zeros((camera.height, camera.width), np.uint16)
    areas = np.zeros(len(outlines))
    for row, pixels in enumerate(outlines):
        cv2.fillConvexPoly(owners, cv2.convexHull(fixed_point(pixels)), row + 1, cv2.LINE_8, SHIFT)
        x0, y0 = np.maximum(np.floor(pixels.min(0)) - 1, 0).astype(int)
        x1, y1 = np.ceil(pixels.max(0)).astype(int) + 1
        areas[row] = np.count_nonzero(owners[y0:y1, x0:x1] == row + 1)
    left = np.bincount(owners.ravel(), minlength=len(outlines) + 1)[1:]
    return left / np.maximum(areas, 1)


def _sensor(image: Image, rng: np.random.Generator) -> Image:
    """Add the noise of a sensor: uniform, of a strength drawn for the frame."""
    strength = float(rng.uniform(6, 22))
    noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return np.asarray(cv2.addWeighted(image, 1.0, noise, strength / 255, -strength / 2), np.uint8)
