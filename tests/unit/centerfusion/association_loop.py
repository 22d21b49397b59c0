"""The frustum association as the spec words it, one object and one number after the other, to compare with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from boxwright.centerfusion.frustum import FrustumOptions

Floats = npt.NDArray[np.float32]


def associated(boxes: Floats, depths: Floats, thresholds: Floats, radar: Floats, options: FrustumOptions) -> Floats:
    """Map (3, H, W) of one image of objects (K, ...) in the order of painting; slices are those of an array."""
    result = np.zeros_like(radar)
    for (x0, y0, x1, y1), depth, threshold in zip(boxes, depths, thresholds, strict=True):
        rows = part(math.floor(y0), math.ceil(y1) + 1, options)
        columns = part(math.floor(x0), math.ceil(x1) + 1, options)
        region = radar[:, rows, columns].reshape(3, -1)
        inside = (region[0] != 0) & (region[0] > max(0, depth - threshold)) & (region[0] < depth + threshold)
        if not inside.any():
            continue
        values = region[:, np.flatnonzero(inside)[region[0, inside].argmin()]].copy()
        if options.normalize_depth:
            values[0] /= options.max_depth
        two, ratio = np.float32(2), np.float32(options.window_ratio)
        x, y, reach_x, reach_y = (x0 + x1) / two, (y0 + y1) / two, ratio * (x1 - x0) / two, ratio * (y1 - y0) / two
        rows = part(int(y - reach_y), int(y + reach_y) + 1, options)
        columns = part(int(x - reach_x), int(x + reach_x) + (1 if options.fixed else 2), options)
        result[:, rows, columns] = values[:, None, None]
    return result


def part(start: int, stop: int, options: FrustumOptions) -> slice:
    return slice(max(start, 0), max(stop, 0)) if options.fixed else slice(start, stop)
