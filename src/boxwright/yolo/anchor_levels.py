"""Anchors of all levels as a model yaml writes them: width, height, width, height ... a level, or how many a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from boxwright.errors import UserError

Levels = tuple[tuple[tuple[float, float], ...], ...]  # width, height in pixels: [level][anchor]


def read_levels(value: object, num_levels: int, where: str) -> tuple[Levels, bool]:
    """Check anchors.

    Args:
        value: one list of sides a level, or a number: so many a level, which training finds.
        num_levels: of the network.
        where: names their place, for messages.

    Returns:
        the anchors, and whether they stand only for a number.

    Raises:
        UserError: they are of another form, or do not fit the levels.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        level = tuple((float(2 * i + 1), float(2 * i + 2)) for i in range(value))
        return (level,) * num_levels, True
    levels = items(value)
    if levels is None or len(levels) != num_levels:
        found = repr(value) if levels is None else str(len(levels))
        raise UserError(
            f"{where}: anchors must list {num_levels} levels, one for each input of the last layer, not {found}"
        )
    read: list[tuple[tuple[float, float], ...]] = []
    for i, level in enumerate(levels):
        sides = items(level)
        numbers = [s for s in sides or [] if isinstance(s, int | float) and not isinstance(s, bool) and s > 0]
        if sides is None or len(numbers) != len(sides) or not sides or len(sides) % 2:
            raise UserError(f"{where}: anchors of level {i} must be pairs of width and height above 0, not {level!r}")
        read.append(tuple(zip(map(float, numbers[0::2]), map(float, numbers[1::2]), strict=True)))
    if len({len(level) for level in read}) > 1:
        raise UserError(f"{where}: every level must have the same number of anchors")
    return tuple(read), False


def write_levels(levels: Levels) -> list[list[float]]:
    """As `read_levels` takes them."""
    return [[side for anchor in level for side in anchor] for level in levels]


def growth(levels: Levels) -> float:
    """Above 0 where anchors run from small to large."""
    areas = [sum(width * height for width, height in level) / len(level) for level in levels]
    return areas[-1] - areas[0]


def items(value: object) -> list[Any] | None:
    """A list or tuple as a list; None for anything else."""
    return list(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else None
