"""A table of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report: title, column names, rows of words."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Lines of even columns, the first one aligned to the left."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [
            "  ".join(word.rjust(width) if column else word.ljust(width) for column, (word, width) in enumerate(cells))
            for cells in (list(zip(row, widths, strict=True)) for row in (self.header, *self.rows))
        ]
        return "\n".join([self.title, *lines, ""])
