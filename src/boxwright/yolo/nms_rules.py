"""In what the suppression of the published releases differed, apart from its thresholds.

Source: facts recorded from the published releases (golden nms/, spec A8, B9, B14).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class NmsRules:
    """The rules of one release; the defaults are those of v6.2 and v7.0.

    Args:
        class_offset: pixels by which the boxes of one class are shifted from those of the next.
        side_limits: smallest and largest side in pixels of a box that counts; None: any.
        limits_count: a side of exactly a limit still counts.
        always_multi_label: a row may count for several classes whether asked or not.
        empty_means_all: an empty list of wanted classes keeps all classes instead of none.
    """

    class_offset: float = 7680.0
    side_limits: tuple[float, float] | None = None
    limits_count: bool = True
    always_multi_label: bool = False
    empty_means_all: bool = False

    def sized(self, sides: Tensor) -> Tensor:
        """Which boxes (...) have sides (..., 2) within the limits."""
        low, high = self.side_limits or (-math.inf, math.inf)
        within = (sides >= low) & (sides <= high) if self.limits_count else (sides > low) & (sides < high)
        return within.all(dim=-1)


CURRENT_RULES = NmsRules()
_EARLY = NmsRules(class_offset=4096.0, always_multi_label=True, empty_means_all=True)
NMS_RULES: dict[str, NmsRules] = {
    **dict.fromkeys(("v1.0", "v2.0", "v3.0", "v3.1"), _EARLY),
    **dict.fromkeys(("v4.0", "v5.0", "v6.0"), NmsRules(class_offset=4096.0)),
    "v6.1": NmsRules(side_limits=(2.0, 7680.0)),
    **dict.fromkeys(("v6.2", "v7.0"), CURRENT_RULES),
    "yolov3-spp": NmsRules(class_offset=4096.0, side_limits=(2.0, 4096.0), limits_count=False),
}
