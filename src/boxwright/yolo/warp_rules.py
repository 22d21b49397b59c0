"""What published releases did differently in the random warp of a training image: order of its parts, boxes kept.

Source: facts recorded from the releases (spec B14; golden augment/geometry and augment/candidates); for v3, YOLOv3-SPP
as published (spec A7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class WarpRules:
    """One release; the defaults are those of v6.1 to v7.0.

    Args:
        min_side: a box is kept if its sides exceed this, in pixels,
        max_aspect: if the longer over the shorter side is below this,
        min_area_ratio: and if more than this share of its area is left.
        area_grows_with: which power of the magnification the area before is multiplied by.
        shear_last: the image is moved before it is sheared, by shares of its own sides and not of the result's.
        swapped_shift: the shift in x is a share of the height, and the one in y of the width.
    """

    min_side: float = 2.0
    max_aspect: float = 100.0
    min_area_ratio: float = 0.10
    area_grows_with: int = 2
    shear_last: bool = False
    swapped_shift: bool = False


CURRENT = WarpRules()
_V31 = WarpRules(max_aspect=20.0)
_V30 = replace(_V31, min_area_ratio=0.20)
_V1 = WarpRules(4.0, 10.0, 0.20, area_grows_with=1, shear_last=True, swapped_shift=True)
RULES = {
    "": CURRENT,
    "v1.0": _V1,
    "v2.0": replace(_V30, area_grows_with=1, shear_last=True),
    "v3.0": _V30,
    "v3.1": _V31,
    "v4.0": _V31,
    "v5.0": _V31,
    "v6.0": _V31,
    "v6.1": CURRENT,
    "v7.0": CURRENT,
    "v3": _V1,
}
