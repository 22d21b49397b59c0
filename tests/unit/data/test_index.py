"""The data index: what goes in comes out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.data.index import ARRAYS, DataIndex, Record


def random_records(counts: list[list[int]], seed: int) -> list[Record]:
    """Records whose boxes have polygons of these many vertices."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for i, vertices in enumerate(counts):
        n = len(vertices)
        polygons = tuple(rng.random((k, 2)).astype(np.float32) for k in vertices)
        classes, boxes = rng.integers(0, 9, n).astype(np.int32), rng.random((n, 4)).astype(np.float32)
        records.append(Record(Path(f"ä {i}.jpg"), 10 + i, 20, classes, boxes, polygons))
    return records


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=6), st.integers(0, 1000))
def test_records_come_back(counts: list[list[int]], seed: int) -> None:
    records = random_records(counts, seed)
    index = DataIndex.from_records(records, ["x"] * 9)
    for each in (index, pickle.loads(pickle.dumps(index))):
        assert len(each) == len(records)
        for i, record in enumerate(records):
            classes, boxes = each.labels(i)
            assert each.path(i) == record.path
            assert each.sizes[i].tolist() == [record.height, record.width]
            np.testing.assert_array_equal(classes, record.classes)
            np.testing.assert_array_equal(boxes, record.boxes)
            for ours, theirs in zip(each.polygons(i), record.polygons, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_arrays_are_read_only() -> None:
    index = DataIndex.from_records(random_records([[0, 3]], 0), ["x"] * 9)
    with pytest.raises(ValueError, match="read-only"):
        index.boxes[0] = 0
    assert len(ARRAYS) == 9


def test_no_images() -> None:
    index = DataIndex.from_records([], ["x"])
    assert len(index) == 0
    assert index.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000139.jpg", "12.jpg"], [139, 12]),
        (["a.jpg", "12.jpg"], [0, 1]),
        (["x/12.jpg", "y/12.jpg"], [0, 1]),
        (["012.jpg", "12.jpg"], [0, 1]),
    ],
)
def test_image_ids_from_file_names(names: list[str], ids: list[int]) -> None:
    none = np.zeros(0, np.int32), np.zeros((0, 4), np.float32)
    index = DataIndex.from_records([Record(Path(name), 10, 10, *none) for name in names], ["x"])
    assert index.image_ids.tolist() == ids


def test_single_class() -> None:
    index = DataIndex.from_records(random_records([[0, 0]], 0), ["x"] * 9)
    single = index.as_single_class()
    assert single.names == ("item",)
    assert single.classes.tolist() == [0, 0]
    assert DataIndex.from_records([], ["cell"]).as_single_class().names == ("cell",)


def test_class_names_stay_in_their_line() -> None:
    """So that they begin no line of a list of classes, and no table or plot."""
    assert DataIndex.from_records([], ["a", "b\nc\x1b[31m", "d\té 車"]).names == ("a", r"b\x0ac\x1b[31m", r"d\x09é 車")
