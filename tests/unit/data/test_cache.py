"""The index cache: it is used, notices every edit, and never stops a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boxwright.data import dataset
from boxwright.data.cache import cached_index
from boxwright.data.dataset import open_dataset
from boxwright.data.index import ARRAYS, DataIndex, Problem
from tests.unit.data.small_sets import voc_object, write_image, write_voc, write_yolo
from tests.unit.data.test_index import random_records


def never() -> DataIndex:
    raise AssertionError("the cache was passed over")


def test_what_is_kept_comes_back_equal(tmp_path: Path) -> None:
    problems = [Problem("duplicate", tmp_path / "ö\udcff.txt", 3, "twice", "row")]
    records = random_records([[0, 3], [], [4]], 1)
    index = DataIndex.from_records(
        records, ["x"] * 9, category_ids=range(9), annotations=tmp_path / "gt.json", problems=problems
    )
    for _ in range(2):
        cached_index("one", lambda: "key", lambda: index, tmp_path)
    again = cached_index("one", lambda: "key", never, tmp_path)
    for name in ARRAYS:
        ours, theirs = getattr(again, name), getattr(index, name)
        np.testing.assert_array_equal(ours, theirs)
        assert (ours.dtype, ours.shape, ours.flags.writeable) == (theirs.dtype, theirs.shape, False)
    assert (again.names, again.category_ids, again.annotations) == (index.names, index.category_ids, index.annotations)
    assert again.problems == index.problems
    assert len(list(tmp_path.iterdir())) == 1
    assert not again.boxes.flags.owndata


def test_an_empty_index_is_kept_too(tmp_path: Path) -> None:
    cached_index("none", lambda: "key", lambda: DataIndex.from_records([], ["x"]), tmp_path)
    assert len(cached_index("none", lambda: "key", never, tmp_path)) == 0


def test_a_second_run_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    voc = write_voc(tmp_path / "voc", {"a": voc_object("cell", 1, 1, 9, 9)})
    for data in (yaml, voc):
        open_dataset(data, "train")
    monkeypatch.setattr(dataset, "read_yolo", lambda *_, **__: never())
    monkeypatch.setattr(dataset, "read_voc", lambda *_, **__: never())
    assert [len(open_dataset(data, "train").boxes) for data in (yaml, voc)] == [1, 1]


def edit_label(root: Path) -> None:
    label = root / "labels/train/a.txt"
    before = label.stat()
    label.write_text("1 .5 .5 .2 .2\n")  # the same size, and the old time
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_names(root: Path) -> None:
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("[a, b]", "[b, a]"))


EDITS: dict[str, Callable[[Path], object]] = {
    "label": edit_label,
    "names": swap_names,
    "new image": lambda root: write_image(root / "images/train/c.jpg"),
    "image gone": lambda root: (root / "images/train/a.jpg").unlink(),
    "image changed": lambda root: write_image(root / "images/train/a.jpg", 96, 64),
    "new label": lambda root: (root / "labels/train/b.txt").write_text("0 .5 .5 .2 .2\n"),
    "label gone": lambda root: (root / "labels/train/a.txt").unlink(),
}


def content(index: DataIndex) -> str:
    """All that an index says, as text."""
    arrays = {name: getattr(index, name).tolist() for name in ARRAYS}
    return json.dumps([index.names, arrays, [str(problem) for problem in index.problems]])


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_edit_is_noticed(tmp_path: Path, own_cache: Path, edit: Callable[[Path], object]) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": None})
    before = content(open_dataset(yaml, "train"))
    assert content(open_dataset(yaml, "train")) == before
    edit(tmp_path)
    after = content(open_dataset(yaml, "train"))
    assert after != before
    assert after == content(open_dataset(yaml, "train", cache_dir=tmp_path / "other"))
    assert len([file for file in own_cache.rglob("*") if file.is_file()]) == 1  # old ones are replaced


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "empty"])
def test_a_broken_cache_is_made_again(tmp_path: Path, own_cache: Path, damage: str) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    open_dataset(yaml, "train")
    (cache,) = own_cache.rglob("*.index")
    whole = cache.read_bytes()
    flipped = whole[:-70] + bytes([whole[-70] ^ 1]) + whole[-69:]
    cache.write_bytes({"cut": whole[:-200], "flipped": flipped, "garbage": b"\0" * 500, "empty": b""}[damage])
    assert open_dataset(yaml, "train").classes.tolist() == [0]
    assert cache.read_bytes() == whole


def test_no_place_for_a_cache(tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_cache.write_text("a file where the folder should be")
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    caplog.set_level("INFO", "boxwright.data")
    assert len(open_dataset(yaml, "train")) == 1
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the index is not kept"]


def test_nothing_is_written_beside_the_data(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path / "set", {"a": "0 .5 .5 .2 .2\n"})
    before = sorted((tmp_path / "set").rglob("*"))
    open_dataset(yaml, "train")
    assert sorted((tmp_path / "set").rglob("*")) == before
