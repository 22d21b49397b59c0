"""What the published YOLOv5 releases did differently in one and the same loss: constants of each, no code.

Source: facts recorded from the releases (spec B3, B4, B14). The assignment of v1.0 to v3.1 did not clamp cells to the
grid and ended with an error for a centre at exactly 1.0; here every release takes the last cell for it, as v4.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from boxwright.ops.boxes import IouKind


@dataclass(frozen=True)
class Release:
    """One published form of the loss; the defaults are those of v5.0 to v7.0.

    Args:
        iou_kind: overlap measure of the box term.
        iou_eps: keeps its denominators from zero.
        balance_3: weight of each level's objectness, finest first, of a network of three levels.
        balance_more: the same of networks of other depths.
        border_counts_twice: a centre exactly on a border between cells gets neighbours on both sides of it.
        per_level_outside: gains that are multiplied by 3 / levels when they are scaled for a run.
        per_level_inside: gains that are multiplied by 3 / levels in every loss.
        objectness_of_more: extra factor of the objectness gain with four levels or more.
        objectness_by_area: the objectness gain grows with the area of the network input when scaled for a run.
    """

    iou_kind: IouKind = "ciou"
    iou_eps: float = 1e-7
    balance_3: tuple[float, ...] = (4.0, 1.0, 0.4)
    balance_more: tuple[float, ...] = (4.0, 1.0, 0.25, 0.06, 0.02)
    border_counts_twice: bool = True
    per_level_outside: tuple[str, ...] = ("box", "cls", "obj")
    per_level_inside: tuple[str, ...] = ()
    objectness_of_more: float = 1.0
    objectness_by_area: bool = True


_BALANCE_V2 = (4.0, 1.0, 0.4, 0.1)
_BALANCE_V4 = (4.0, 1.0, 0.3, 0.1, 0.03)
_ALL = ("box", "cls", "obj")
RELEASES: dict[str, Release] = {
    "v1.0": Release("giou", 1e-16, (1.0,) * 3, (1.0,) * 5, False, (), (), 1.0, False),
    "v2.0": Release("giou", 1e-16, _BALANCE_V2[:3], _BALANCE_V2, False, (), _ALL, 1.4, False),
    "v3.0": Release("ciou", 1e-16, _BALANCE_V2[:3], _BALANCE_V2, True, (), _ALL, 1.4, False),
    "v3.1": Release("ciou", 1e-9, _BALANCE_V2[:3], _BALANCE_V2, True, (), _ALL, 1.4, False),
    "v4.0": Release("ciou", 1e-9, _BALANCE_V4[:3], _BALANCE_V4, True, ("obj",), ("box", "cls")),
    "v5": Release(),
}
