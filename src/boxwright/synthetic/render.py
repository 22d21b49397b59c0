"""A scene as a camera sees it: an RGB image, the boxes of its objects, and how much of each object is visible.

Painter's algorithm: sky and ground, the road with its marks, buildings, shadows, then objects from far to near, each
part by part. Lights tell moving, stopped and parked vehicles apart, but nothing shows how fast one moves.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.ops.arrays import Color, Floats, Image, Ints
from boxwright.synthetic.camera import (
    NEAR,
    Camera,
    clip_near,
    cuboid_corners,
    drawing_camera,
    transform,
    turned,
    visible_corners,
)
from boxwright.synthetic.catalog import KIND_OF, KINDS, ROLES, shape_of
from boxwright.synthetic.world import ASPHALT, LANE, LANES, PAVEMENT, Light, Objects, Scene

_COLORS: dict[str, Color] = {
    "glass": (62, 82, 98),
    "dark": (38, 38, 42),
    "tyre": (28, 28, 30),
    "skin": (214, 164, 128),
    "white": (240, 240, 236),
}
_LAMPS: dict[str, tuple[Color, Color]] = {  # front and rear lights
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
_LAYER_STEP = 100.0  # metres; longer than any object, so that layers decide before distances
_SMALLEST = 0.4  # pixels; polygons smaller than this are not drawn
_SHIFT = 4  # fractional bits of polygon coordinates
_SIDES = np.array([(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])
_UP = np.array([[0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True)
class View:
    """One image, and the M objects whose cuboids touch it, far to near."""

    image: Image  # (H, W, 3) RGB
    numbers: Ints  # (M,) objects of the scene
    boxes: Floats  # (M, 4) xyxy pixels: extent of the cuboid's projected corners before the camera, cut by the image
    areas: Floats  # (M,) share of the image that the outline of an object's cuboid covers
    free: Floats  # (M,) share of the image that nothing nearer covers of it


def render_view(scene: Scene, camera: Camera, time: float) -> View:
    """Paint what a camera sees at a time in seconds; the same arguments give the same pixels."""
    painter = drawing_camera(camera)
    camera_from_global = camera.camera_from_global(scene.ego_at(time).global_from_ego)
    objects = scene.seen(time)
    centers = transform(camera_from_global, objects.centers)
    order = np.argsort(-np.hypot(centers[:, 0], centers[:, 2]), kind="stable")
    objects = objects.take(order[centers[order, 2] > -_TALLEST])
    image = _paint_surroundings(scene, painter, camera_from_global, time)
    # Racks are painted flat, so that they do not hide what stands in them.
    low = np.where(objects.kinds == KIND_OF["bicycle_rack"], 0.12, 1.0)[:, None] ** (0, 0, 1)
    drawn = replace(objects, sizes=objects.sizes * low, centers=objects.centers * low)
    if len(drawn):
        _paint_objects(image, scene, painter, camera_from_global, drawn)
    # A share needs no full resolution: at 240 pixels a large image costs as little as a small one.
    small = drawing_camera(camera, min(1.0, _MASK_WIDTH / camera.width))
    size = np.array([small.width, small.height])
    corners = transform(camera_from_global, cuboid_corners(objects.centers, objects.sizes, objects.yaws))
    # Each object writes its number over those behind it; what is left of it at the end is visible.
    owners = np.zeros((small.height, small.width), np.uint16)
    areas, boxes = np.zeros(len(objects)), np.zeros((len(objects), 4))
    racks = objects.kinds == KIND_OF["bicycle_rack"]  # flat in the picture: they hide nothing
    for row, cuboid in enumerate(corners):
        pixels = visible_corners(small, cuboid)
        if len(pixels) < 3:
            continue
        low, high = pixels.min(0), pixels.max(0)
        if (high <= 0).any() or (low >= size).any():
            continue
        mask = owners.copy() if racks[row] else owners
        cv2.fillConvexPoly(mask, cv2.convexHull(_fixed_point(pixels)), row + 1, cv2.LINE_8, _SHIFT)
        x0, y0 = np.maximum(np.floor(low) - 1, 0).astype(int)
        x1, y1 = np.ceil(high).astype(int) + 1
        areas[row] = np.count_nonzero(mask[y0:y1, x0:x1] == row + 1)
        boxes[row] = *np.clip(low, 0, size), *np.clip(high, 0, size)
    free = np.bincount(owners.ravel(), minlength=len(objects) + 1)[1:].astype(np.float64)
    free[racks] = areas[racks]
    touching = np.flatnonzero(areas)
    boxes *= np.tile((camera.width, camera.height) / size, 2)
    whole = small.width * small.height
    return View(image, objects.numbers[touching], boxes[touching], areas[touching] / whole, free[touching] / whole)


def _paint_surroundings(scene: Scene, camera: Camera, camera_from_global: Floats, time: float) -> Image:
    """Paint sky and ground, the road piece by piece, and the buildings' walls that face the camera, far to near."""
    light = scene.light
    # Cameras are level, so that sky above the horizon and soil below it are one colour per row.
    rows = (np.arange(camera.height) + 0.5 - camera.intrinsics[1, 2]) / camera.intrinsics[1, 1]
    up = np.clip(-rows, 0, 1)[:, None] ** 0.5
    sky = light.haze + (_ZENITH * light.tint - light.haze) * np.minimum(light.direct / 0.55, 1) * up
    depth = camera.ego_from_camera[2, 3] / np.maximum(rows, 1e-3)
    soil = _shade(light, np.tile(_SOIL, (len(rows), 1)), _UP, depth)
    column = np.clip(np.where(rows[:, None] < 0, sky, soil), 0, 255).astype(np.uint8)
    image = np.repeat(column[:, None], camera.width, 1)

    # The far pieces of the road take the colour of haze; pieces start at whole steps, so that dashes stay in place.
    here = float(scene.ego.along(time)[0])
    first = np.floor((here - _ROAD_AHEAD) / _STEP) * _STEP
    starts = first + _STEP * np.arange(round(2 * _ROAD_AHEAD / _STEP) + 1)
    dashes = starts[np.round(starts / _STEP) % 2 == 0]
    strips: list[tuple[float, float, Floats, tuple[float, float, float]]] = [
        (-PAVEMENT, PAVEMENT, starts, _PAVING),
        (-ASPHALT, ASPHALT, starts, _ASPHALT),
        *((y - 0.09, y + 0.09, starts, _WHITE) for y in (-LANE * LANES, -0.2, 0.2, LANE * LANES)),
        *((y - 0.09, y + 0.09, dashes, _WHITE) for y in (-LANE, LANE)),
    ]
    along = np.concatenate([pieces[:, None] + (0, _STEP, _STEP, 0) for _, _, pieces, _ in strips])
    across = np.concatenate([np.tile((low, low, high, high), (len(pieces), 1)) for low, high, pieces, _ in strips])
    colors = np.concatenate([np.tile(color, (len(pieces), 1)) for _, _, pieces, color in strips])
    x, y, _ = scene.road.locate(along, across)
    polygons = transform(camera_from_global, np.stack([x, y, np.zeros_like(x)], -1))
    depth = np.linalg.norm(polygons.mean(1)[:, [0, 2]], axis=1)
    ahead = polygons[..., 2].max(1) > 0.5
    _fill_polygons(image, camera, polygons[ahead], _shade(light, colors, _UP, depth)[ahead], smooth=False)
    blocks = scene.blocks
    walls = cuboid_corners(blocks.centers, blocks.sizes, blocks.yaws)[:, _SIDES]
    outward = walls.mean(2) - blocks.centers[:, None]
    normals = (outward / np.linalg.norm(outward, axis=-1, keepdims=True)).reshape(-1, 3)
    walls = walls.reshape(-1, 4, 3)
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    away = eye - walls.mean(1)
    distance = np.linalg.norm(away, axis=1)
    polygons = transform(camera_from_global, walls)
    shown = ((away * normals).sum(1) > 0) & (polygons[..., 2].max(1) > 0.5)
    order = np.argsort(-distance, kind="stable")
    order = order[shown[order]]
    # Haze at the depth of the near end, so that walls along the road do not fade as a whole.
    colors = _shade(light, np.repeat(blocks.colors, 4, 0), normals, np.maximum(distance - 8, 0))
    _fill_polygons(image, camera, polygons[order], colors[order])
    return image


def _paint_objects(image: Image, scene: Scene, camera: Camera, camera_from_global: Floats, objects: Objects) -> None:
    """Paint the shadows and all polygons of objects that are given far to near."""
    ground = cuboid_corners(objects.centers, objects.sizes * (1.06, 1.12, 1.0), objects.yaws)[:, :4]
    ground[..., 2] = 0.0
    shadows = transform(camera_from_global, ground)
    colors = _shade(scene.light, np.tile(_SHADOW, (len(objects), 1)), _UP, shadows[..., 2].mean(1))
    # All shadows come before all objects: a shadow may fall on the ground only.
    ahead = shadows[..., 2].max(1) > 0.5
    _fill_polygons(image, camera, shadows[ahead], colors[ahead])

    driven = scene.placement.driven[objects.numbers]
    shapes = [shape_of(int(kind), bool(ridden)) for kind, ridden in zip(objects.kinds, driven, strict=True)]
    owner = np.repeat(np.arange(len(shapes)), [len(shape.roles) for shape in shapes])
    local = (np.concatenate([shape.vertices for shape in shapes]) - (0, 0, 0.5)) * objects.sizes[owner, None]
    vertices = turned(local, objects.yaws[owner, None]) + objects.centers[owner, None]
    normals = np.cross(vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    eye = -camera_from_global[:3, :3].T @ camera_from_global[:3, 3]
    facing = np.einsum("pk,pk->p", normals, eye - vertices[:, 0]) > 0
    # Object after object; in each layer after layer, far parts before near ones.
    keys: list[Floats] = []
    for row, shape in enumerate(shapes):
        eye_local = turned(eye - objects.centers[row], -objects.yaws[row])
        offsets = shape.part_centers[:, :2] * objects.sizes[row, :2] - eye_local[:2]
        nearness = shape.part_layers * _LAYER_STEP - np.hypot(offsets[:, 0], offsets[:, 1])
        keys.append(np.asarray(nearness[shape.parts] + row * 100 * _LAYER_STEP, np.float64))
    order = np.argsort(np.concatenate(keys), kind="stable")
    order = order[facing[order]]
    points = transform(camera_from_global, vertices[order])
    names = scene.attribute_names(objects)
    palettes = [_palette(int(k), int(s), name) for k, s, name in zip(objects.kinds, objects.looks, names, strict=True)]
    base = np.stack(palettes)[owner[order], np.concatenate([shape.roles for shape in shapes])[order]]
    _fill_polygons(image, camera, points, _shade(scene.light, base, normals[order], points[..., 2].mean(1)))


@lru_cache(maxsize=512)
def _palette(kind: int, look: int, attribute: str) -> Floats:
    """Return the colours of an instance, (len(ROLES), 3): those of its kind, slightly its own."""
    rng = np.random.default_rng([look, 5])
    own = np.clip(np.array(KINDS[kind].color) * rng.uniform(0.85, 1.12) + rng.normal(0, 9, 3), 8, 250)
    front, rear = _LAMPS.get(attribute, _LAMPS["vehicle.moving"])
    fixed = {"second": own * 0.72, "accent": own * 0.5, "front_light": front, "rear_light": rear, **_COLORS}
    return np.array([fixed.get(role, own) for role in ROLES], np.float64)


def _shade(light: Light, base: Floats, normals: Floats, depth: Floats) -> Floats:
    """Return the colours (P, 3) RGB that surfaces of colour `base`, unit normal and depth (P,) show."""
    lit = light.ambient + light.direct * np.maximum(normals @ light.to_sun, 0)
    sky = 0.9 + 0.1 * normals[:, 2]  # faces that look up see more of the sky
    fog = (1 - np.exp(-light.density * np.maximum(depth, 0)))[:, None]
    return np.clip(base * light.tint * (lit * sky)[:, None] * (1 - fog) + light.haze * fog, 0, 255)


def _fill_polygons(image: Image, camera: Camera, polygons: Floats, colors: Floats, *, smooth: bool = True) -> None:
    """Paint polygons (P, V, 3) of the camera frame in order; those that share edges are better not smoothed."""
    whole, partly = polygons[..., 2].min(1) >= NEAR, polygons[..., 2].max(1) >= NEAR
    pixels = camera.project(np.where(whole[:, None, None], polygons, 1.0))
    low, high = pixels.min(1), pixels.max(1)
    inside = ((high > 0) & (low < (camera.width, camera.height)) & (high - low > _SMALLEST)).all(1)
    fixed = _fixed_point(pixels)
    rgb = np.rint(colors).tolist()
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    for row in np.flatnonzero(np.where(whole, inside, partly)):
        outline = fixed[row]
        if not whole[row]:
            cut = clip_near(polygons[row])
            if len(cut) < 3:
                continue
            outline = _fixed_point(camera.project(cut))
        cv2.fillConvexPoly(image, outline, rgb[row], line, _SHIFT)


def _fixed_point(pixels: Floats) -> NDArray[np.int32]:
    """Convert pixel coordinates (..., 2) to OpenCV's fixed point, where pixel centres are whole numbers."""
    scaled = (np.clip(pixels, -4000, 8000) - 0.5) * (1 << _SHIFT)
    return np.rint(scaled).astype(np.int32)
