"""The index on disk: kept, taken again, made anew after an edit or damage, and never the end of a run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from boxwright.engine import console
from boxwright.errors import UserError
from boxwright.nuscenes import index as module
from boxwright.nuscenes import tables as table_module
from boxwright.nuscenes.geometry import hidden_behind_others, inverses, rotation_matrices, transforms
from boxwright.nuscenes.index import NuscenesIndex, open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from tests.unit.nuscenes.small_root import VERSION, tables, write_root


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "root", tables())


def opened(root: Path) -> NuscenesIndex:
    return open_nuscenes(root, VERSION, cache_dir=root.parent / "cache")


@pytest.fixture(name="builds")
def _builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose tables are read to build an index."""
    found: list[Path] = []
    build = module._build
    monkeypatch.setattr(module, "_build", lambda folder, made: (found.append(folder), build(folder, made))[1])
    return found


def test_a_large_table_shows_how_far_it_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_REPEATED_AFTER", 0.0)
    monkeypatch.setattr(table_module, "_BLOCK", 2)
    opened(root)
    said = capsys.readouterr().err
    assert "reading sample_data.json 0 MB" in said
    assert "projecting annotations 0/1" in said
    opened(root)  # is kept
    assert not capsys.readouterr().err


def test_an_index_is_built_once(root: Path, builds: list[Path]) -> None:
    one, other = opened(root), opened(root)
    assert len(builds) == 1
    assert one.stored == other.stored
    assert one.scenes == other.scenes == ("scene-0061", "scene-0103")
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes()
        assert not array.flags.writeable
        assert isinstance(array, np.memmap) or not array.size
    assert [path.suffix for path in (root.parent / "cache").iterdir()].count(".tmp") == 0


def test_an_edit_that_keeps_size_and_time_is_noticed(root: Path, builds: list[Path]) -> None:
    before = NuscenesSplit(opened(root), "mini_train").ground_truth()
    file = root / VERSION / "sample_annotation.json"
    status = file.stat()
    file.write_text(file.read_text().replace("[20.0,", "[21.0,", 1))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    after = NuscenesSplit(opened(root), "mini_train").ground_truth()
    assert len(builds) == 2
    assert (before.centers[0, 0], after.centers[0, 0]) == (20.0, 21.0)
    assert len(list((root.parent / "cache").iterdir())) == 1  # the one before is gone


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "meta"])
def test_a_damaged_index_is_made_again(damage: str, root: Path, builds: list[Path]) -> None:
    stored = opened(root).stored
    file = stored / "annotations.npy"
    content = bytearray(file.read_bytes())
    content[-9] ^= 0xFF
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-40])
    elif damage == "gone":
        file.unlink()
    else:
        (stored / "index.json").write_text("{")
    truth = NuscenesSplit(opened(root), "mini_train").ground_truth()
    assert len(builds) == 2
    assert truth.centers[0, 0] == 20.0
    opened(root)
    assert len(builds) == 2


def test_an_index_that_cannot_be_kept_costs_time_only(root: Path) -> None:
    (root.parent / "file").write_text("no folder")
    index = open_nuscenes(root, VERSION, cache_dir=root.parent / "file")
    assert len(NuscenesSplit(index, "mini_train")) == 18


def test_a_mistake_leaves_nothing_behind(root: Path) -> None:
    (root / VERSION / "instance.json").write_text("[")
    with pytest.raises(UserError):
        opened(root)
    assert list((root.parent / "cache").iterdir()) == []


def test_a_version_without_annotations_or_radar(tmp_path: Path) -> None:
    made = tables()
    made["sample_data"] = [record for record in made["sample_data"] if "RADAR" not in record["token"]]
    for table in ("sample_annotation", "instance"):
        made[table] = []
    index = opened(write_root(tmp_path / "root", made))
    assert len(index.arrays["radars"]) == len(index.arrays["annotations"]) == len(index.arrays["seen"]) == 0
    assert len(opened(tmp_path / "root").arrays["images"]) == 36


def test_boxes_behind_others_are_hidden() -> None:
    boxes = np.array([(0, 0, 100, 100), (10, 10, 20, 20), (10, 10, 20, 20), (0, 10, 20, 20)], np.float64)
    depths = np.array([10.0, 20.0, 12.0, 20.0])
    sizes = np.tile((4.0, 2.0, 1.5), (4, 1))
    # Behind and strictly inside; inside but not wholly behind (12 - 0.75 < 10 + 2); behind but on the edge.
    assert hidden_behind_others(boxes, depths, sizes).tolist() == [False, True, False, False]
    assert hidden_behind_others(boxes[:0], depths[:0], sizes[:0]).tolist() == []


def test_poses() -> None:
    turn = rotation_matrices(np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]))
    np.testing.assert_allclose(turn, [(0, -1, 0), (1, 0, 0), (0, 0, 1)], atol=1e-12)
    rigid = transforms(np.array([(1.0, 2.0, 3.0)]), np.array([(0.5, 0.5, -0.5, 0.5)]))
    np.testing.assert_allclose(rigid @ inverses(rigid), np.eye(4)[None], atol=1e-12)


def test_file_names_may_have_any_letters(tmp_path: Path) -> None:
    made = tables()
    for record in made["sample_data"]:
        record["filename"] = record["filename"].replace("scene-", "szene-ü ")
    index = opened(write_root(tmp_path / "root", made))
    split = NuscenesSplit(index, "mini_val", 2)
    assert split.record(0).path.name == "szene-ü 0103-0-CAM_FRONT.jpg"
    assert split.radar(0).shape[1] == 6
    assert json.loads((index.stored / "index.json").read_text())["scenes"] == list(index.scenes)


def test_every_flipped_bit_of_a_kept_index_is_noticed(root: Path, builds: list[Path]) -> None:
    good = opened(root)
    expected = {name: array.tobytes() for name, array in good.arrays.items()}
    rng = np.random.default_rng(0)
    for file in sorted(good.stored.iterdir()):
        whole = file.read_bytes()
        flips = [(int(rng.integers(len(whole))), 1 << int(rng.integers(8))) for _ in range(3)]
        for at, bit in [*flips, (max(whole.find(b"0061"), 0), 1)]:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            again = opened(root)
            assert again.scenes == good.scenes
            assert {name: array.tobytes() for name, array in again.arrays.items()} == expected
            assert file.read_bytes() == whole
    assert len(builds) > 40


def test_a_full_disk_only_costs_the_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = module._build

    def full_in_the_cache(folder: Path, made: Path) -> list[str]:
        if made.is_relative_to(root.parent / "cache"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return build(folder, made)

    monkeypatch.setattr(module, "_build", full_in_the_cache)
    assert opened(root).scenes == ("scene-0061", "scene-0103")
    assert not list((root.parent / "cache").iterdir())
    monkeypatch.setattr(module, "_build", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(UserError, match=r"cannot write the index of .*: no space left"):
        opened(root)
