"""Geometry, many boxes at a time: poses as matrices, boxes as a camera image shows them, rectangles from above.

Transforms are named target_from_source. Frames: global, ego (the car), sensor (camera: x right, y down, z forward).

Source: published CenterFusion behaviour (conversion of nuScenes; suppression: docs/spec/centerfusion.md, C11);
visibility rule of the nuScenes devkit: a box is shown if a corner is inside the image and more than 1 m ahead, and all
corners are more than 0.1 m ahead. Two rectangles that coincide overlap wholly here; the published clipping decides
about those by rounding.

Legend: N boxes, P pairs.
"""

import math

import numpy as np
from scipy.spatial import KDTree

from boxwright.nuscenes.structures import BIKE_RACK, SEEN
from boxwright.ops.arrays import Array, Bools, Floats, Ints


def rotation_matrices(quaternions: Array) -> Floats:
    """Convert quaternions (..., 4) w, x, y, z to (..., 3, 3); their norm need not be 1 to the last digit."""
    q = np.asarray(quaternions, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    # Written out instead of scipy's Rotation: other roundings would change last bits of the published targets.
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def transforms(translations: Array, quaternions: Array) -> Floats:
    """Compose (..., 4, 4) parent_from_child of translations (..., 3) in metres and quaternions (..., 4)."""
    made = np.zeros((*np.shape(translations)[:-1], 4, 4))
    made[..., :3, :3] = rotation_matrices(quaternions)
    made[..., :3, 3] = translations
    made[..., 3, 3] = 1.0
    return made


def inverses(rigid: Array) -> Floats:
    """Invert rigid transforms (..., 4, 4): the rotation is transposed, not solved for."""
    made = np.zeros(np.shape(rigid))
    # A transpose is exact, a solve is not.
    turned = np.swapaxes(np.asarray(rigid)[..., :3, :3], -1, -2)
    made[..., :3, :3] = turned
    made[..., :3, 3] = -np.einsum("...ij,...j->...i", turned, rigid[..., :3, 3])
    made[..., 3, 3] = 1.0
    return made


_CUT, _SCALED = 0.25, 0.08  # from the middle to the principal point, as a share of a side; 0.05 in nuScenes
_NARROWEST, _WIDEST = 8.0, 150.0  # degrees that a camera without distortion may see; 65 to 93 in nuScenes
_NEAREST_SEEN, _NEAREST_CORNER = 1.0, 0.1  # metres
_BOX_CORNERS = np.array([(x, y, z) for x in (0.5, -0.5) for y in (0.5, -0.5) for z in (0.5, -0.5)])


def published_intrinsics(intrinsics: Array) -> Floats:
    """Round camera matrices to the digits of the published conversion, which keeps single precision."""
    return intrinsics.astype(np.float32).astype(np.float64)


def doubt_intrinsics(camera: Array, width: int, height: int) -> str:
    """Say why a camera matrix (3, 3) or (3, 4) in pixels cannot well belong to images of a size; empty: it may."""
    if min(width, height) <= 0:
        return ""
    (fx, cx), (fy, cy) = camera[0, [0, 2]].tolist(), camera[1, [1, 2]].tolist()
    size = f"images of {width} x {height} pixels"
    x, y = cx / width - 0.5, cy / height - 0.5
    # A matrix of another scale moves its principal point along the diagonal, a cut of the image along one side.
    if max(abs(x), abs(y)) > _CUT or (x * y > 0 and min(abs(x), abs(y)) > _SCALED):
        text = f"the principal point ({cx:.0f}, {cy:.0f}) is not near the middle of {size}"
        if cx > 0 and cy > 0:
            text += f", but of those of about {2 * cx:.0f} x {2 * cy:.0f}: a matrix is scaled and cut with its image"
        return text
    if max(fx, fy) > 2 * min(fx, fy):
        return f"the focal lengths {fx:g} and {fy:g} differ as if pixels were not square"
    view = math.degrees(2 * math.atan(width / 2 / fx))
    if not _NARROWEST <= view <= _WIDEST:
        return f"the focal length {fx:g} gives {size} a view of {view:.3g} degrees; it is counted in pixels"
    return ""


def seen_in_images(
    images: Array, intrinsics: Floats, annotations: Array, pairs: tuple[Array, Array]
) -> tuple[Array, Ints]:
    """Select the pairs of image and annotation in which the image shows it.

    Args:
        images: rows of `structures.IMAGE`.
        intrinsics: (len(images), 3, 3).
        annotations: rows of `structures.ANNOTATION`.
        pairs: (P,) positions in images and (P,) in annotations, by image.

    Returns:
        rows of `structures.SEEN`, with positions in `annotations` and `hidden` not yet set, and the image of each.
    """
    image, annotation = pairs
    rows = annotations[annotation]
    cam_from_global = inverses(images["global_from_cam"])
    # Depth alone first: many annotations are behind a camera, and corners cost eight times as much.
    depth = (cam_from_global[image, 2, :3] * rows["center"]).sum(1) + cam_from_global[image, 2, 3]
    ahead = (depth > 0) & (rows["label"] != BIKE_RACK)  # no box that is seen has its centre behind the camera
    image, annotation, rows = image[ahead], annotation[ahead], rows[ahead]
    center, axes, corners = boxes_in_camera(rows, cam_from_global[image])
    camera = intrinsics[image]
    pixels = _project(corners, camera)
    size = np.stack([images["width"], images["height"]], -1)[image].astype(np.float64)
    inside = ((pixels > 0) & (pixels < size[:, None])).all(-1) & (corners[..., 2] > _NEAREST_SEEN)
    shown = inside.any(1) & (corners[..., 2] > _NEAREST_CORNER).all(1)
    image, center, camera, pixels, size = image[shown], center[shown], camera[shown], pixels[shown], size[shown]
    made = np.zeros(len(image), SEEN)
    made["annotation"] = annotation[shown]
    # The 2-D box is the hull of the projected corners, cut at the image border.
    low, high = np.clip(pixels.min(1), 0, size), np.clip(pixels.max(1), 0, size)
    made["box"] = np.concatenate([low, high - low], -1)
    made["location"] = center
    # The published location is the centre of the bottom face; y points down.
    made["location"][:, 1] += rows["size"][shown, 2] / 2
    made["rotation_y"] = -np.arctan2(axes[shown, 2, 0], axes[shown, 0, 0])
    camera = published_intrinsics(camera)  # the box is cut with all digits, the rest is not
    beside = (low[:, 0] + high[:, 0]) / 2 - camera[:, 0, 2]
    alpha = made["rotation_y"] - np.arctan2(beside, camera[:, 0, 0])
    alpha = np.where(alpha > np.pi, alpha - 2 * np.pi, alpha)  # one turn is enough: both angles lie within half a turn
    made["alpha"] = np.where(alpha < -np.pi, alpha + 2 * np.pi, alpha)
    made["amodel_center"] = _project(center[:, None], camera)[:, 0]
    made["velocity"] = np.einsum("pij,pj->pi", cam_from_global[image, :3, :3], rows["velocity"][shown])
    return made, image


def boxes_in_camera(annotations: Array, cam_from_global: Floats) -> tuple[Floats, Floats, Floats]:
    """Move boxes of the global frame into that of a camera.

    Args:
        annotations: (P,) rows of `structures.ANNOTATION`.
        cam_from_global: (P, 4, 4).

    Returns:
        centers (P, 3); axes (P, 3, 3), whose columns point along length, width and height; corners (P, 8, 3); metres.
    """
    turn = cam_from_global[:, :3, :3]
    center = np.einsum("pij,pj->pi", turn, annotations["center"]) + cam_from_global[:, :3, 3]
    axes = turn @ rotation_matrices(annotations["rotation"])
    half = _BOX_CORNERS * annotations["size"][:, None, [1, 0, 2]]  # from width, length, height to the order of the axes
    return center, axes, center[:, None] + half @ axes.swapaxes(1, 2)


def hidden_behind_others(boxes_xywh: Floats, depths: Floats, sizes: Floats) -> Bools:
    """Mark (N,) boxes that lie strictly inside the box of an object that stands wholly before theirs.

    Args:
        boxes_xywh: (N, 4) pixels.
        depths: (N,) metres.
        sizes: (N, 3) metres, in any order.
    """
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    inside = ((low[:, None] > low[None]) & (high[:, None] < high[None])).all(-1)
    # Published rule: nearest point by the smallest side, farthest by the largest, whatever the direction.
    front = depths - sizes.min(-1, initial=np.inf) / 2
    back = depths + sizes.max(-1, initial=-np.inf) / 2
    return (inside & (front[:, None] > back[None])).any(1)


def _project(points: Floats, camera: Floats) -> Floats:
    """Project points (P, c, 3) of the camera frame to pixels; behind the camera they mean nothing."""
    seen = np.einsum("pij,pcj->pci", camera, points)
    with np.errstate(divide="ignore", invalid="ignore"):
        return seen[..., :2] / seen[..., 2:]


_TOLERANCE = 1e-9  # m^2; what lies on an edge is inside
_CORNERS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]) / 2  # counter-clockwise
_PAIRS_AT_ONCE = 1 << 15


def rectangle_corners(centers: Floats, sides: Floats, yaw: Floats) -> Floats:
    """Compute corners (N, 4, 2), counter-clockwise.

    Args:
        centers: (N, 2) metres.
        sides: (N, 2) length along the direction of yaw, and across it.
        yaw: (N,) rad.
    """
    x, y = np.moveaxis(_CORNERS * sides[:, None], -1, 0)
    cosine, sine = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return np.stack((cosine * x - sine * y, sine * x + cosine * y), axis=-1) + centers[:, None]


def rectangle_iou(first: Floats, second: Floats) -> Floats:
    """Compute the intersection over union (P,) of rectangles given by their corners (P, 4, 2), counter-clockwise."""
    origin = first.mean(axis=1, keepdims=True)  # global coordinates are far from 0, which would cost digits
    first, second = first - origin, second - origin
    # Where edges of both cross, (P, 4, 4); parallel ones never do. Infinity instead of a slope near 0: the crossing
    # lands at 0 along both edges and is masked.
    start, other = first[:, :, None], second[:, None]
    along = np.roll(first, -1, axis=1)[:, :, None] - start
    across = np.roll(second, -1, axis=1)[:, None] - other
    slope = _cross(along, across)
    safe = np.where(np.abs(slope) > _TOLERANCE, slope, np.inf)
    at_first = _cross(other - start, across) / safe
    at_second = _cross(other - start, along) / safe
    meets = np.isfinite(safe) & (at_first >= 0) & (at_first <= 1) & (at_second >= 0) & (at_second <= 1)
    crossings = (start + at_first[..., None] * along).reshape(len(first), 16, 2)
    points = np.concatenate((first, second, crossings), axis=1)
    crossed = meets.reshape(len(first), 16)
    counted = np.concatenate((_inside(first, second), _inside(second, first), crossed), axis=1)
    # The corners of the convex polygon that both share stand in the order of their angle around any inner point.
    number = counted.sum(axis=1)
    middle = (points * counted[..., None]).sum(axis=1) / np.maximum(number, 1)[:, None]
    points = points - middle[:, None]
    order = np.argsort(np.where(counted, np.arctan2(points[..., 1], points[..., 0]), np.inf), axis=1)
    # Points that do not count stand last; each becomes the first one, so that it spans no area.
    order = np.where(np.arange(order.shape[1]) < number[:, None], order, order[:, :1])
    shared = np.where(number > 2, _area(np.take_along_axis(points, order[..., None], axis=1)), 0.0)
    areas = _area(first), _area(second)
    # A rectangle without area has every point on its edges: no more is shared than the smaller one has.
    shared = np.minimum(shared, np.minimum(*areas))
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppress(groups: Ints, centers: Floats, corners: Floats, threshold: float, reach: float) -> Bools:
    """Mark rectangles (N,) that stay when each, in their order, removes those after it that overlap it.

    Args:
        groups: (N,) rectangles of different groups never meet.
        centers: (N, 2) metres; only pairs at most `reach` apart are compared.
        corners: (N, 4, 2) as of `rectangle_corners`.
        threshold: lowest IoU that removes.
    """
    # Key frames become levels of a third axis twice the reach apart, so one tree answers for all of them.
    apart = np.column_stack((centers, groups * (reach * 2.0)))
    pairs = np.sort(KDTree(apart).query_pairs(reach, output_type="ndarray"), axis=1)
    blocks = [pairs[start : start + _PAIRS_AT_ONCE] for start in range(0, len(pairs), _PAIRS_AT_ONCE)]
    overlaps = [block[rectangle_iou(corners[block[:, 0]], corners[block[:, 1]]) >= threshold] for block in blocks]
    better, worse = np.concatenate([np.empty((0, 2), np.int64), *overlaps]).T
    kept, open_ = np.zeros(len(groups), bool), np.ones(len(groups), bool)
    # A rectangle with no open one before it is kept, and what it overlaps goes: a few rounds settle all of them.
    while open_.any():
        waits = np.zeros_like(open_)
        waits[worse[open_[better]]] = True
        chosen = open_ & ~waits
        kept |= chosen
        open_ &= waits
        open_[worse[chosen[better]]] = False
    return kept


def _inside(points: Floats, corners: Floats) -> Bools:
    """Whether points (P, 4, 2) lie in the rectangle (P, 4, 2) of their pair: (P, 4)."""
    edges = np.roll(corners, -1, axis=1) - corners
    offsets = points[:, :, None] - corners[:, None]
    return np.all(_cross(edges[:, None], offsets) >= -_TOLERANCE, axis=-1)


def _area(ring: Floats) -> Floats:
    return np.abs(_cross(ring, np.roll(ring, -1, axis=1)).sum(axis=1)) / 2


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
