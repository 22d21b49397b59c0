"""Rows of label files: every fault has its line; the two defects that `compat` mends, both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.data.yolo_txt import LabelFile, parse_labels

FILE = Path("a.txt")


def test_every_bad_line_of_a_rejected_file_is_named() -> None:
    labels = parse_labels("0 .5 .5 .2 .2\ncat .5 .5 .2 .2\n\n0 .5 .5 .2\n0 1.5 .5 .2 .2\n0 nan .5 .2 .2\n", FILE)
    assert labels.rejected
    assert len(labels.rows) == 0
    kinds = [(problem.line, problem.kind) for problem in labels.problems]
    assert kinds == [(2, "unreadable label"), (4, "column count"), (5, "out of range"), (6, "out of range")]


def test_lines_are_counted_from_the_top_of_the_file() -> None:
    assert parse_labels("\n  \n0 .5 .5 .2 .2\n", FILE).lines == (3,)
    assert parse_labels("0 .5 .5 .2 .2\r\n\r\n1 .5 .5 .2 .2\r\n", FILE).lines == (1, 3)


def test_limits_are_those_of_the_box_not_of_its_vertices() -> None:
    labels = parse_labels("0 .9 .1 1.05 .1 1.05 .3\n", FILE)
    assert not labels.rejected
    np.testing.assert_allclose(labels.rows, [[0, 0.975, 0.2, 0.15, 0.2]], rtol=1e-6)
    assert [note.kind for note in labels.problems] == ["out of range", "out of range"]


POLYGON = "0 .1 .1 .5 .1 .5 .6"


def both(text: str) -> tuple[LabelFile, LabelFile]:
    return parse_labels(text, FILE), parse_labels(text, FILE, "fixed")


def test_box_rows_beside_polygons() -> None:
    faithful, fixed = both(f"{POLYGON}\n1 .5 .5 .2 .3\n")
    np.testing.assert_allclose(faithful.rows[1], [1, 0.35, 0.4, 0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(fixed.rows[1], [1, 0.5, 0.5, 0.2, 0.3], rtol=1e-6)
    assert [len(points) for points in faithful.polygons] == [3, 2]
    assert [len(points) for points in fixed.polygons] == [3, 0]
    assert [note.kind for note in faithful.problems] == ["mixed rows"]
    assert not fixed.problems


def test_lines_of_blanks() -> None:
    faithful, fixed = both("0 .5 .5 .2 .2\n   \n1 .5 .5 .2 .2\n")
    assert faithful.rejected
    assert faithful.problems[0].line == 2
    assert fixed.lines == (1, 3)


def test_duplicates() -> None:
    faithful, fixed = both("1 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n")
    assert faithful.lines == (2, 1)  # sorted
    assert fixed.lines == (1, 2)
    assert [problem.line for problem in faithful.problems] == [3]


@pytest.mark.parametrize(
    ("text", "kind"), [("1.5 .5 .5 .2 .2\n", "fractional class"), ("0 .9 .5 .4 .2\n", "out of range")]
)
def test_accepted_but_odd(text: str, kind: str) -> None:
    labels = parse_labels(text, FILE)
    assert [(note.kind, note.drops) for note in labels.problems] == [(kind, "")]
