"""Augmentation of CenterFusion: what is drawn for an image, the affine map to the network's input, and its colours.

Maps act on pixel indices, as OpenCV's warps do. Brightness, contrast, saturation, lighting and normalisation are each
affine in a pixel, because the grey of each pixel and the mean grey are taken once, from the image before any change. So
they compose to out = M pixel + b.
Source: published CenterFusion behaviour (docs/spec/centerfusion.md, C8; tests/parity), in its order of draws; it is
that of CenterNet (Zhou et al., "Objects as Points", 2019, arXiv:1904.07850). Lighting after Krizhevsky et al.,
"ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 4.1.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.centerfusion.settings import FusionAugmentConfig
from boxwright.data.images import read_indexed_image
from boxwright.nuscenes.structures import ImageRecord
from boxwright.ops.arrays import Floats, Image

_BORDER = 128  # pixels that a random centre keeps from the border of the image
_FACTORS = np.arange(0.6, 1.4, 0.1)  # of a random crop
_ROUNDING: Final = 1e-6  # a scale of one half may come out a little larger
MEAN: Final = np.array([0.40789654, 0.44719302, 0.47026115])  # blue, green, red of a unit image, published
STD: Final = np.array([0.28863828, 0.27408164, 0.27809835])
VARIATION: Final = 0.4  # brightness, contrast and saturation lie in 1 +- this
LIGHTING_STD: Final = 0.1
_GREY: Final = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601, blue first
# Principal components of the colours of ImageNet, as published with CenterNet.
_EIGENVALUES: Final = np.array([0.2141788, 0.01817699, 0.00341571])
_EIGENVECTORS: Final = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)
# Of each grey level, to the last bit what published inference gives: float64 with the float32 of mean and deviation.
_NORMALISED: Final = (
    (np.arange(256.0)[None, :, None] / 255 - MEAN.astype(np.float32)) / STD.astype(np.float32)
).astype(np.float32)
BRIGHTNESS: Final = 0
CONTRAST: Final = 1
SATURATION: Final = 2


Draws = np.random.Generator | np.random.RandomState  # the legacy one gives published numbers


@dataclass(frozen=True, slots=True)
class Placement:
    """The part of an image that the network sees."""

    center: Floats  # (2,) x, y in pixels of the image, mirrored where it is
    factor: float = 1.0  # how much more of the image is seen than without augmentation; depths grow by it
    rotation: float = 0.0  # degrees
    flip: bool = False  # the image is mirrored first


@dataclass(frozen=True, slots=True)
class ColorChange:
    """What is drawn for the colours of one image."""

    order: tuple[int, ...]  # BRIGHTNESS, CONTRAST and SATURATION in the order in which they are applied
    factors: tuple[float, ...]  # of each, in that order
    lighting: tuple[float, ...]  # (3,) weights of the principal components


def centered(image_hw: tuple[int, int]) -> Placement:
    """Place the whole image, as validation sees it."""
    return Placement(np.array([image_hw[1] / 2.0, image_hw[0] / 2.0]))


def base_scale(augment: FusionAugmentConfig, image_hw: tuple[int, int]) -> float:
    """Return how many pixels of an image fill the input's width without augmentation."""
    return float(max(image_hw) if augment.max_crop else image_hw[1])


def draw_placement(rng: Draws, image_hw: tuple[int, int], base: float, augment: FusionAugmentConfig) -> Placement:
    """Draw x, y, size, whether to rotate, (by how much,) whether to mirror; a random crop draws its size first.

    Args:
        rng: generator.
        image_hw: height, width of the image.
        base: pixels of the image that fill the input's width without augmentation; shifts are parts of it.
        augment: what is likely.
    """
    height, width = image_hw
    if augment.random_crop:
        factor = float(rng.choice(_FACTORS))
        sides: list[int] = []
        for side in (width, height):
            # The border is halved until two of it fit: small images have a place to draw from, too.
            border = _BORDER
            while border and side - border <= border:
                border //= 2
            sides.append(border + int(rng.choice(side - 2 * border)))
        center = np.array(sides, dtype=np.float64)
    else:
        moves = np.array([_normal(rng, augment.shift, 2.0) for _ in range(2)])
        # Published centres have single precision; whole cells depend on it.
        center = (centered(image_hw).center + base * moves).astype(np.float32).astype(np.float64)
        factor = 1.0 + _normal(rng, augment.scale, 1.0)
    rotation = _normal(rng, augment.rotate, 2.0) if rng.random() < augment.rotate_prob else 0.0
    return Placement(center, factor, rotation, bool(rng.random() < augment.flip))


def _normal(rng: Draws, deviation: float, cut: float) -> float:
    """Draw from a normal distribution around 0, clipped to a number of deviations."""
    return float(np.clip(rng.standard_normal() * deviation, -cut * deviation, cut * deviation))


def draw_color_change(rng: Draws) -> ColorChange:
    """Draw the order, the three factors and the lighting."""
    order = tuple(rng.permutation(3).tolist())
    factors = tuple((1.0 + rng.uniform(-VARIATION, VARIATION, 3)).tolist())
    return ColorChange(order, factors, tuple((rng.standard_normal(3) * LIGHTING_STD).tolist()))


def affine_map(center: Floats, scale: float, rotation: float, out_hw: tuple[int, int]) -> Floats:
    """Compute the map that puts `scale` pixels about `center` side by side into the width of the output.

    It is fixed by three pairs of points: the centre, the centre less half of the *width* upwards, and the point
    perpendicular to both, so that proportions are kept.

    Args:
        center: (2,) x, y in pixels of the source.
        scale: pixels of the source that fill the width of the output.
        rotation: degrees, clockwise as the source is seen.
        out_hw: height, width of the output.

    Returns:
        (2, 3) out_from_source.
    """
    sine, cosine = np.sin(np.deg2rad(rotation)), np.cos(np.deg2rad(rotation))
    up = float(np.float32(scale)) * -0.5
    source = _three_points(center, np.array([-up * sine, up * cosine]))
    height, width = out_hw
    out = _three_points(np.array([width * 0.5, height * 0.5]), np.array([0.0, width * -0.5]))
    return np.asarray(cv2.getAffineTransform(source, out), dtype=np.float64)


def _three_points(center: Floats, upward: Floats) -> npt.NDArray[np.float32]:
    """Compute the points (3, 2) that fix a map, in single precision as published."""
    points = np.empty((3, 2), np.float32)
    points[0] = center
    points[1] = center + upward
    toward_x, toward_y = points[0] - points[1]
    points[2] = points[1] + np.array([-toward_y, toward_x], np.float32)
    return points


def mirrored(matrix: Floats, width: int) -> Floats:
    """Compose `matrix` after a mirroring of the source, `width` pixels wide: x becomes width - 1 - x."""
    return _compose(matrix, np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]))


def inverse(matrix: Floats) -> Floats:
    """Invert a (2, 3) map."""
    return np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)


def map_points(points: Floats, matrix: Floats) -> Floats:
    """Map (..., 2) points by a (2, 3) map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def reduction_of(matrix: Floats) -> int:
    """Find the largest 1, 2, 4 or 8 by which the source can be decoded smaller and still not be magnified by a map.

    The decoder of JPEG offers no others.
    """
    magnification = abs(float(np.linalg.det(matrix[:, :2]))) ** 0.5
    return next((reduction for reduction in (8, 4, 2) if magnification * reduction <= 1 + _ROUNDING), 1)


def from_reduced(matrix: Floats, reduction: int) -> Floats:
    """Derive the map for a source decoded at 1 / reduction.

    A pixel i of that stands for the pixels reduction * i to reduction * i + reduction - 1, so its centre lies at
    reduction * i + (reduction - 1) / 2 of the source: half a pixel on at 1/2. The map takes that into account, so what
    is seen lies where it lay; only its neighbours are averaged in, where the published warp skips them.
    """
    shift = (reduction - 1) / 2
    return _compose(matrix, np.array([[reduction, 0.0, shift], [0.0, reduction, shift]]))


def read_warped(record: ImageRecord, input_from_image: Floats, out: Image, *, reduce: bool) -> None:
    """Decode an image and sample it once, linearly; what it does not reach is black.

    Args:
        record: which image.
        input_from_image: (2, 3), mirroring included.
        out: (h, w, 3) uint8 BGR, gets the result.
        reduce: decode at reduced scale where the map shrinks the image at least to that, which costs less and
            smooths; False samples the image at full scale, as published.

    Raises:
        UserError: the image is missing, broken, or of another size than its record says.
    """
    reduction = reduction_of(input_from_image) if reduce else 1
    pixels = read_indexed_image(record.path, (record.height, record.width), reduction)
    matrix = from_reduced(input_from_image, reduction) if reduction > 1 else input_from_image
    cv2.warpAffine(pixels, matrix, (out.shape[1], out.shape[0]), dst=out, flags=cv2.INTER_LINEAR)


def _compose(second: Floats, first: Floats) -> Floats:
    """Compose two (2, 3) maps: first, then second."""
    linear = second[:, :2]
    return np.column_stack([linear @ first[:, :2], linear @ first[:, 2] + second[:, 2]])


def color_map(change: ColorChange, mean_bgr: Floats) -> Floats:
    """Compute the (3, 4) map from colour and 1 to the new colour, for colours of a unit image, blue first.

    Args:
        change: what was drawn.
        mean_bgr: (3,) mean colour of the image before the change, on which the contrast turns.
    """
    grey_mean = _GREY @ mean_bgr
    result = np.eye(3, 4)
    for kind, factor in zip(change.order, change.factors, strict=True):
        result *= factor
        if kind == CONTRAST:
            result[:, 3] += (1.0 - factor) * grey_mean
        elif kind == SATURATION:
            result[:, :3] += (1.0 - factor) * _GREY
    result[:, 3] += _EIGENVECTORS @ (_EIGENVALUES * np.asarray(change.lighting))
    return result


def finish_colors(
    pixels: Image, change: ColorChange | None, out: npt.NDArray[np.float32], buffer: npt.NDArray[np.float32]
) -> None:
    """Normalise an image, after its change of colours, in one pass; nothing is clipped.

    Args:
        pixels: (h, w, 3) BGR.
        change: colour jitter; None only normalises.
        out: (h, w, 3), gets (unit colour - mean) / deviation.
        buffer: (h, w, 3), overwritten. Kept between images: a fresh one costs more in page faults than all this.
    """
    if change is None:
        # Without jitter the result depends on the grey level and the channel alone, so a table has it.
        cv2.LUT(pixels, _NORMALISED, dst=out)
        return
    matrix = color_map(change, np.asarray(cv2.mean(pixels)[:3]) / 255.0)
    # From grey levels to normalised colours, in the same map.
    matrix[:, :3] /= 255.0
    matrix[:, 3] -= MEAN
    matrix /= STD[:, None]
    np.copyto(buffer, pixels)
    cv2.transform(buffer, matrix, dst=out)
