"""The ten classes of the synthetic street, with sizes and speeds.

Names and order are those of the nuScenes detection task; mean sizes are close to the means of its annotations
(Caesar et al., nuScenes, CVPR 2020, arXiv 1903.11027).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of objects.

    Args:
        name: class name.
        size: mean length, width, height in metres, in the object's frame (x forward).
        spread: relative standard deviation of an instance's size.
        speed: largest speed of a moving instance in m/s; 0 for what never moves.
    """

    name: str
    size: tuple[float, float, float]
    spread: float
    speed: float


KINDS: tuple[Kind, ...] = (
    Kind("car", (4.6, 1.95, 1.65), 0.06, 12.0),
    Kind("truck", (7.2, 2.5, 2.9), 0.08, 11.0),
    Kind("bus", (11.0, 2.9, 3.4), 0.05, 10.0),
    Kind("trailer", (11.0, 2.7, 3.8), 0.06, 10.0),
    Kind("construction_vehicle", (6.3, 2.7, 3.2), 0.07, 4.0),
    Kind("pedestrian", (0.65, 0.65, 1.75), 0.06, 1.5),
    Kind("motorcycle", (2.1, 0.8, 1.5), 0.05, 10.0),
    Kind("bicycle", (1.75, 0.65, 1.65), 0.05, 4.5),
    Kind("traffic_cone", (0.45, 0.45, 0.95), 0.08, 0.0),
    Kind("barrier", (0.5, 2.4, 1.0), 0.04, 0.0),
)

NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
CLASS_OF: dict[str, int] = {name: index for index, name in enumerate(NAMES)}
