"""Which files that an index names are not there: folders are listed, since asking for each file takes far longer."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.index import NuscenesIndex


def absent(index: NuscenesIndex, kind: Literal["image", "radar"], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of some images or radar sweeps whose files are not there, in rising order."""
    name_of = index.image_name if kind == "image" else index.radar_name
    by_folder: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions.tolist():
        by_folder[os.path.dirname(name_of(position))].append(position)
    lost: list[int] = []
    for folder, some in by_folder.items():
        try:
            there = set(os.listdir(index.root / folder))
        except OSError:
            there = set[str]()
        lost += [position for position in some if os.path.basename(name_of(position)) not in there]
    return np.array(sorted(lost), np.int64)
