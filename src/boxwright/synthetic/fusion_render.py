"""A scene of camera and radar as one of its cameras sees it: an RGB image, and how much of each object is visible.

Painter's algorithm: sky and ground, the road with its marks, buildings, shadows, then objects from far to near. Each
class has its own colours. Lights tell moving, stopped and parked vehicles apart, but nothing shows how fast one moves.
Pixels are those of nuScenes calibrations: the centre of the first pixel is 0, 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import Camera, cuboid_corners, transform, visible_corners
from boxwright.synthetic.fusion_catalog import FUSION_KINDS, KIND_OF
from boxwright.synthetic.fusion_world import FusionScene, attribute_names
from boxwright.synthetic.render import fill_polygons, paint_objects, shaded
from boxwright.synthetic.road import ASPHALT, LANE, LANES, PAVEMENT
from boxwright.synthetic.shapes import ROLES, Shape, plain_block, shape_of, shape_variant
from boxwright.synthetic.street import SHIFT, fixed_point
from boxwright.synthetic.textures import palette
from boxwright.synthetic.world import Objects

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Image = NDArray[np.uint8]

_COLORS: dict[str, tuple[int, int, int]] = {
    "car": (205, 40, 45),
    "truck": (50, 130, 70),
    "bus": (60, 110, 215),
    "trailer": (172, 170, 196),
    "construction_vehicle": (240, 190, 25),
    "pedestrian": (205, 70, 165),
    "motorcycle": (100, 45, 140),
    "bicycle": (60, 210, 220),
    "traffic_cone": (250, 115, 15),
    "barrier": (225, 50, 30),
    "animal": (110, 75, 45),
    "debris": (95, 90, 80),
    "bicycle_rack": (120, 122, 126),
}
_LAMPS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {  # front and rear lights
    "vehicle.moving": ((255, 250, 225), (140, 20, 25)),
    "vehicle.stopped": ((255, 250, 225), (255, 40, 40)),
    "vehicle.parked": ((125, 122, 115), (85, 20, 25)),
}
_ZENITH = np.array([96.0, 146.0, 208.0])
_SOIL, _PAVING, _ASPHALT = (122.0, 128.0, 96.0), (158.0, 155.0, 150.0), (92.0, 92.0, 95.0)
_WHITE, _SHADOW = (218.0, 218.0, 212.0), (48.0, 48.0, 52.0)
_STEP = 4.0  # metres of road between the edges of two painted pieces; dashes are as long
_ROAD_AHEAD = 88.0
_MASK_WIDTH = 240  # pixels; visibility is measured on an image of at most this width
_TALLEST = 12.0  # metres; nothing reaches further beyond its centre
_SIDES = np.array([(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])


@dataclass(frozen=True, slots=True)
class View:
    """One image.

    Args:
        image: (H, W, 3) uint8 RGB.
        numbers: (M,) objects of the scene that touch it, far to near.
        areas: (M,) share of the image that the outline of an object's cuboid covers.
        free: (M,) share of the image that nothing nearer covers of it.
    """

    image: Image
    numbers: Ints
    areas: Array
    free: Array


def render_view(scene: FusionScene, camera: Camera, time: float) -> View:
    """Paint what a camera sees at a time in seconds; the same arguments give the same pixels."""
    painter = _painting_camera(camera, 1.0)
    camera_from_global = camera.camera_from_global(scene.ego_at(time).global_from_ego)
    objects = _before(scene.at(time).take(scene.seen(time)), camera_from_global)
    image = _background(scene, painter)
    _paint_road(image, scene, painter, camera_from_global, time)
    _paint_blocks(image, scene, painter, camera_from_global)
    drawn = _as_drawn(objects)
    _paint_shadows(image, scene, painter, camera_from_global, drawn)
    shapes = [_shape(scene, int(k), int(n)) for k, n in zip(drawn.class_ids, drawn.instance_ids, strict=True)]
    paint_objects(image, scene.light, painter, camera_from_global, drawn, shapes, _palettes(scene, drawn))
    return View(image, *_visibility(camera, camera_from_global, objects))


def _painting_camera(camera: Camera, scale: float) -> Camera:
    """Return the camera for an image scaled by a factor, in the renderer's pixels: the first one spans 0..1."""
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    width, height = max(1, round(camera.width * scale)), max(1, round(camera.height * scale))
    resize = np.diag([width / camera.width, height / camera.height, 1.0])
    return Camera(camera.name, width, height, resize @ half @ camera.intrinsics, camera.ego_from_camera)


def _before(objects: Objects, camera_from_global: Array) -> Objects:
    """Return the objects that may reach before the camera, far to near."""
    centers = transform(camera_from_global, objects.centers)
    order = np.argsort(-np.hypot(centers[:, 0], centers[:, 2]), kind="stable")
    return objects.take(order[centers[order, 2] > -_TALLEST])


def _as_drawn(objects: Objects) -> Objects:
    """Return the objects with racks made flat, so that they do not hide what stands in them."""
    flat = objects.class_ids == KIND_OF["bicycle_rack"]
    low = np.where(flat, 0.12, 1.0)
    sizes, centers = objects.sizes.copy(), objects.centers.copy()
    sizes[:, 2] *= low
    centers[:, 2] *= low
    return replace(objects, sizes=sizes, centers=centers)


def _shape(scene: FusionScene, kind: int, number: int) -> Shape:
    if kind > KIND_OF["barrier"]:
        return plain_block()
    ridden = bool(scene.placement.ridden[number])
    if kind == KIND_OF["motorcycle"]:
        return shape_variant(kind, int(ridden))
    if kind == KIND_OF["bicycle"]:
        return shape_variant(kind, int(not ridden))
    return shape_of(kind, int(scene.placement.looks[number]))


def _palettes(scene: FusionScene, objects: Objects) -> list[Array]:
    names = attribute_names(scene, objects)
    return [
        _palette(int(kind), int(look), name if name in _LAMPS else "")
        for kind, look, name in zip(objects.class_ids, objects.looks, names, strict=True)
    ]


@lru_cache(maxsize=512)
def _palette(kind: int, look: int, lamps: str) -> Array:
    """Return the colours of an instance, (len(ROLES), 3): those of its class, slightly its own."""
    name = FUSION_KINDS[kind].name
    colors = palette(min(kind, KIND_OF["barrier"]), look).copy()
    rng = np.random.default_rng([look, 5])
    own = np.clip(np.array(_COLORS[name]) * rng.uniform(0.85, 1.12) + rng.normal(0, 9, 3), 8, 250)
    colors[ROLES.index("body")] = own
    if name in ("truck", "trailer", "animal", "debris", "bicycle_rack"):
        colors[ROLES.index("second")] = own * 0.72
    if name in ("bicycle", "truck", "bus"):
        colors[ROLES.index("accent")] = own if name == "bicycle" else own * 0.5
    if lamps:
        colors[ROLES.index("front_light")], colors[ROLES.index("rear_light")] = _LAMPS[lamps]
    return colors


def _background(scene: FusionScene, camera: Camera) -> Image:
    """Return sky above the horizon and soil below it; cameras are level, so that it is one colour a row."""
    light = scene.light
    rows = (np.arange(camera.height) + 0.5 - camera.intrinsics[1, 2]) / camera.intrinsics[1, 1]
    up = np.clip(-rows, 0, 1)[:, None] ** 0.5
    sky = light.haze + (_ZENITH * light.tint - light.haze) * np.minimum(light.direct / 0.55, 1) * up
    depth = camera.ego_from_camera[2, 3] / np.maximum(rows, 1e-3)
    flat = np.tile((0.0, 0.0, 1.0), (len(rows), 1))
    soil = shaded(light, np.tile(_SOIL, (len(rows), 1)), flat, depth)
    column = np.clip(np.where(rows[:, None] < 0, sky, soil), 0, 255).astype(np.uint8)
    return np.repeat(column[:, None], camera.width, 1)


def _paint_road(image: Image, scene: FusionScene, camera: Camera, camera_from_global: Array, time: float) -> None:
    """Paint pavement, asphalt and lane marks, piece by piece along the road, far pieces in the colour of haze."""
    here = float(scene.ego.along(time)[0])
    first = np.floor((here - _ROAD_AHEAD) / _STEP) * _STEP
    starts = first + _STEP * np.arange(round(2 * _ROAD_AHEAD / _STEP) + 1)
    dashed = np.round(starts / _STEP) % 2 == 0
    everywhere = np.ones(len(starts), np.bool_)
    strips: list[tuple[float, float, NDArray[np.bool_], tuple[float, float, float]]] = [
        (-PAVEMENT, PAVEMENT, everywhere, _PAVING),
        (-ASPHALT, ASPHALT, everywhere, _ASPHALT),
        *((y - 0.09, y + 0.09, everywhere, _WHITE) for y in (-LANE * LANES, -0.2, 0.2, LANE * LANES)),
        *((side * LANE - 0.09, side * LANE + 0.09, dashed, _WHITE) for side in (-1.0, 1.0)),
    ]
    pieces = [
        np.stack(np.broadcast_arrays(starts[where, None] + (0, _STEP, _STEP, 0), (low, low, high, high)), -1)
        for low, high, where, _ in strips
    ]
    colors = np.concatenate(
        [np.tile(color, (len(part), 1)) for part, (_, _, _, color) in zip(pieces, strips, strict=True)]
    )
    corners = np.concatenate(pieces)
    x, y, _ = scene.road.place(corners[..., 0], corners[..., 1])
    polygons = transform(camera_from_global, np.stack([x, y, np.zeros_like(x)], -1))
    flat = np.tile((0.0, 0.0, 1.0), (len(colors), 1))
    depth = np.linalg.norm(polygons.mean(1)[:, [0, 2]], axis=1)
    ahead = polygons[..., 2].max(1) > 0.5
    fill_polygons(image, camera, polygons[ahead], shaded(scene.light, colors, flat, depth)[ahead], smooth=False)


def _paint_blocks(image: Image, scene: FusionScene, camera: Camera, camera_from_global: Array) -> None:
    blocks = scene.blocks
    walls = cuboid_corners(blocks.centers, blocks.sizes, blocks.yaws)[:, _SIDES]
    outward = walls.mean(2) - blocks.centers[:, None]
    normals = (outward / np.linalg.norm(outward, axis=-1, keepdims=True)).reshape(-1, 3)
    walls = walls.reshape(-1, 4, 3)
    colors = np.repeat(blocks.colors, 4, 0)
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    away = eye - walls.mean(1)
    distance = np.linalg.norm(away, axis=1)
    polygons = transform(camera_from_global, walls)
    shown = ((away * normals).sum(1) > 0) & (polygons[..., 2].max(1) > 0.5)
    order = np.argsort(-distance, kind="stable")
    order = order[shown[order]]
    # Haze at the depth of the near end, so that walls along the road do not fade as a whole.
    depth = np.maximum(distance - 8, 0)
    fill_polygons(image, camera, polygons[order], shaded(scene.light, colors, normals, depth)[order])


def _paint_shadows(
    image: Image, scene: FusionScene, camera: Camera, camera_from_global: Array, objects: Objects
) -> None:
    ground = cuboid_corners(objects.centers, objects.sizes * (1.06, 1.12, 1.0), objects.yaws)[:, :4]
    ground[..., 2] = 0.0
    polygons = transform(camera_from_global, ground)
    flat = np.tile((0.0, 0.0, 1.0), (len(objects), 1))
    colors = shaded(scene.light, np.tile(_SHADOW, (len(objects), 1)), flat, polygons[..., 2].mean(1))
    ahead = polygons[..., 2].max(1) > 0.5 if len(objects) else np.zeros(0, np.bool_)
    fill_polygons(image, camera, polygons[ahead], colors[ahead])


def _visibility(camera: Camera, camera_from_global: Array, objects: Objects) -> tuple[Ints, Array, Array]:
    """Return numbers, covered and free shares of the image, of the objects that touch it, far to near."""
    small = _painting_camera(camera, min(1.0, _MASK_WIDTH / camera.width))
    corners = transform(camera_from_global, cuboid_corners(objects.centers, objects.sizes, objects.yaws))
    owners = np.zeros((small.height, small.width), np.uint16)
    areas = np.zeros(len(objects))
    racks = objects.class_ids == KIND_OF["bicycle_rack"]  # flat in the picture: they hide nothing
    for row, cuboid in enumerate(corners):
        pixels = visible_corners(small, cuboid)
        if len(pixels) < 3:
            continue
        low, high = pixels.min(0), pixels.max(0)
        if (high <= 0).any() or (low >= (small.width, small.height)).any():
            continue
        mask = owners.copy() if racks[row] else owners
        cv2.fillConvexPoly(mask, cv2.convexHull(fixed_point(pixels)), row + 1, cv2.LINE_8, SHIFT)
        x0, y0 = np.maximum(np.floor(low) - 1, 0).astype(int)
        x1, y1 = np.ceil(high).astype(int) + 1
        areas[row] = np.count_nonzero(mask[y0:y1, x0:x1] == row + 1)
    free = np.bincount(owners.ravel(), minlength=len(objects) + 1)[1:].astype(np.float64)
    free[racks] = areas[racks]
    touching = np.flatnonzero(areas)
    whole = small.width * small.height
    return objects.instance_ids[touching], areas[touching] / whole, free[touching] / whole
