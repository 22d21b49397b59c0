"""Tar shards: the same index and batches as from files, and tars that are refused."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.data.check import shared_images
from boxwright.data.convert import convert_data
from boxwright.data.data_yaml import read_data_yaml
from boxwright.data.dataset import count_images, open_dataset, read_split
from boxwright.data.index import ARRAYS
from boxwright.data.shards import expand_braces, members_of, samples_of
from boxwright.data.source_images import DiskCache, SourceImages
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.inference.sources import open_source
from boxwright.reading import open_file, place_in_tar
from boxwright.settings.load import load
from boxwright.yolo.loader import make_train_loader
from boxwright.yolo.settings import RunConfig
from tests.unit.data.small_sets import voc_object, write_image, write_voc, write_yolo

LABELS = {
    "a.v1": "0 .123456789 .5 .25 .6\n1 0.1 0.1 0.3 0.1 0.2 0.4\n",  # with polygons, a box is one of two points
    "b": "1 .5 .5 .3 .4\n1 .5 .5 .3 .4\n0 .1 .1 .05 .05\n",  # a row twice: the rest is sorted
    "c ü": "",
    "d": None,
    "e": "7 .5 .5 .1 .1\n1 .2000001 .3 .1 .1\n",  # a class that is none
    "f": "2\n",  # rejected with its image
    "g": "0 .4 .4 .2 .2\n",
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A data yaml of files, and of shards of one or two images each."""
    files = write_yolo(tmp_path / "files", LABELS)
    convert_data(files, tmp_path / "shards", "shards", shard_bytes=4000)
    return files, tmp_path / "shards" / "shards.yaml"


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member, io.BytesIO(b"x" * member.size) if member.size else None)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            file.addfile(info, io.BytesIO(member[1]))
    return path


def data_of(tar: Path) -> Path:
    yaml = tar.with_name("shards.yaml")
    yaml.write_text(f"train: {tar.name}\nval: {tar.name}\nnames: [a, b]\n")
    return yaml


def picture(folder: Path, seed: int = 0, suffix: str = ".jpg") -> bytes:
    return write_image(folder / f"picture{suffix}", seed=seed).read_bytes()


def test_the_index_is_that_of_the_files(both: tuple[Path, Path]) -> None:
    files, shards = (open_dataset(data, "train") for data in both)
    assert len(list(both[1].parent.glob("train-*.tar"))) > 2
    for name in ARRAYS:
        if not name.startswith("path"):
            np.testing.assert_array_equal(getattr(shards, name), getattr(files, name), name)
    assert shards.path(0).name == "a_v1.jpg"  # webdataset ends a key at the first dot
    kinds = [sorted(p.kind for p in index.problems if p.kind != "missing label") for index in (files, shards)]
    assert set(kinds[0]) - set(kinds[1]) == {"column count"}  # the rejected image is not in the shards


@pytest.mark.parametrize(("workers", "rank"), [(0, 0), (1, 1), (2, 0)])
def test_batches_are_those_of_the_files(both: tuple[Path, Path], workers: int, rank: int) -> None:
    settings = {"data": "x", "batch_size": 4, "augment": {"mosaic": 0.5, "copy_paste": 0.5}}
    loaders = [
        make_train_loader(
            open_dataset(data, "train"),
            load(RunConfig, settings | {"workers": count}),
            imgsz=64,
            stride=32,
            world=World(rank, 2),
        )
        for data, count in zip(both, (0, workers), strict=True)
    ]
    for files, shards in zip(loaders[0].batches(3, 1), loaders[1].batches(3, 1), strict=True):
        assert torch.equal(files.images, shards.images)
        assert torch.equal(files.targets.boxes_cxcywh, shards.targets.boxes_cxcywh)
        assert torch.equal(files.indices, shards.indices)
    loaders[1].close()


def test_the_index_is_kept_until_a_shard_changes(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shards = both[1]
    first = open_dataset(shards, "train")
    read: list[Path] = []
    monkeypatch.setattr("boxwright.data.shards.samples_of", lambda shard: read.append(shard) or samples_of(shard))
    assert open_dataset(shards, "train").paths == first.paths
    assert not read
    changed = shards.with_name("train-000001.tar")
    os.utime(changed, ns=(1, 1))
    open_dataset(shards, "train")
    assert changed in read
    assert count_images(shards, "train") == len(first)


def test_shards_become_files_and_shards_again(both: tuple[Path, Path], tmp_path: Path) -> None:
    for to in ("yolo", "coco", "shards"):
        data = tmp_path / f"to {to}"
        convert_data(both[1], data, to)
        ours, theirs = open_dataset(data, "train"), open_dataset(both[1], "train")
        np.testing.assert_array_equal(ours.sizes, theirs.sizes)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-5)
        for i in range(len(ours)):
            with open_file(ours.path(i)) as one, open_file(theirs.path(i)) as other:
                assert one.read() == other.read()


def test_boxes_of_other_formats_come_back_to_the_bit(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", {"a": voc_object("x", 3, 7, 22, 31) + voc_object("y", 1, 11, 11, 15)})  # 5 of 48 pixels
    convert_data(tmp_path / "voc", tmp_path / "out", "shards")
    ours, theirs = open_dataset(tmp_path / "out", "train"), open_dataset(tmp_path / "voc", "train")
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)


def test_what_belongs_together(tmp_path: Path) -> None:
    names = (
        "./b/1.jpg",
        "./b/1.seg.png",
        "./b/1.txt",
        "b/2.PNG",
        "x.rf.1.jpg",
        "x.rf.1.txt",
        "x.rf.2.jpg",
        "x.rf.2.TXT",
    )
    others = ("._b.jpg", "__index__", "3.json", "4.txt", "b/1.cls")
    shard = tar(tmp_path / "x.tar", *((name, b"") for name in names + others))
    images, files, orphans, unread = samples_of(shard)
    assert [str(image).split("/", maxsplit=str(shard).count("/") + 2)[-1] for image in images] == [
        "b/1.jpg",
        "b/2.PNG",
        "x.rf.1.jpg",
        "x.rf.2.jpg",
    ]
    assert [file.name for file in files] == ["1.txt", "2.txt", "x.rf.1.txt", "x.rf.2.TXT"]
    assert place_in_tar(files[1]) is None  # it has no label
    assert [Path(name).name for name in orphans] == ["4.txt"]
    assert unread == {".png beside an image": 1, ".json": 1, ".cls": 1}


def test_prediction_and_caches_read_shards(both: tuple[Path, Path], tmp_path: Path) -> None:
    index = open_dataset(both[1], "train")
    frames = list(open_source(str(both[1].parent / "train-{000000..000001}.tar")))
    assert [frame.path for frame in frames if frame.path] == index.paths[: len(frames)]
    np.testing.assert_array_equal(frames[0].image, SourceImages(index, 64, reduce=False).load(0))
    cache = DiskCache(SourceImages(index, 32), tmp_path / "pixels")
    (tmp_path / "pixels").mkdir()
    np.testing.assert_array_equal(cache.load(1), cache.source.load(1))
    assert (tmp_path / "pixels" / cache.name(1)).exists()
    assert len(shared_images(index, open_dataset(both[0], "val"))) == len(index)


def info(name: str, **changes: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


GOOD = ("a.jpg", b"xyz")
HOSTILE: dict[str, tuple[tarfile.TarInfo | tuple[str, bytes], str]] = {
    "symbolic link": (info("b.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "b.jpg is a symbolic link; a shard"),
    "hard link": (info("b.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"), "b.jpg is a hard link"),
    "device": (info("b.jpg", type=tarfile.CHRTYPE), "b.jpg is a device"),
    "pipe": (info("b.jpg", type=tarfile.FIFOTYPE), "b.jpg is a pipe"),
    "unknown": (info("b.jpg", type=b"Z"), "b.jpg is of type 'Z'"),
    "absolute": (("/b.jpg", b""), "/b.jpg is a name outside of the shard"),
    "above": (("b/../../b.jpg", b""), "b/../../b.jpg is a name outside of the shard"),
    "twice": (("a.jpg", b"other"), "a.jpg is there twice"),
    "sparse": (info("b.jpg", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}), "b.jpg is a sparse file"),
    "long name": (("b" * 2000 + ".jpg", b""), "is no name for a file of a data set"),
    "control": (("b\x1b]0;x\x07/../c.jpg", b""), r"b\x1b]0;x\x07/../c.jpg is a name outside"),
    "header bomb": (info("b.jpg", pax_headers={"comment": "x" * (2 << 20)}), "a header of a member is too large"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_refused(tmp_path: Path, kind: str) -> None:
    member, text = HOSTILE[kind]
    shard = tar(tmp_path / "t.tar", GOOD, member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        read_split(data_of(shard), "train")
    assert str(shard) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, shard.with_name("shards.yaml")])


def cut(content: bytes) -> bytes:
    return content[: content.index(b"pixels") + 100]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in a member": (cut, "b.jpg has 900 bytes by its header, but the shard ends before"),
    "cut between members": (lambda content: content[:1024], "is cut off: it has no end mark"),
    "cut in a header": (lambda content: content[:1100], "is damaged: no member begins at byte 1,024"),
    "no header": (lambda content: content[:1024] + b"?" * 512 + content[1536:], "no member begins at byte 1,024"),
    "two tars": (lambda content: content + content, "it does not end there"),
    "gzip": (lambda content: b"\x1f\x8b" + content, "is compressed (gzip)"),
    "zstd": (lambda content: b"\x28\xb5\x2f\xfd" + content, "is compressed (zstd)"),
    "a negative size": (lambda content: content[:124] + b"\xff" * 12 + content[136:], "not valid tar"),
    "a huge size": (lambda content: content[:124] + b"\x80" + b"\x7f" * 11 + content[136:], "not valid tar"),
    "empty": (lambda content: b"", "not valid tar"),
    "text": (lambda content: b"train: x\n" * 200, "not valid tar"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_refused(tmp_path: Path, kind: str) -> None:
    change, text = DAMAGE[kind]
    shard = tar(tmp_path / "t.tar", GOOD, ("b.jpg", b"pixels" * 150))
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(UserError, match=re.escape(text)):
        members_of(shard)


def test_sizes_that_a_header_claims_take_no_memory(tmp_path: Path) -> None:
    """With its checksum right, a member of 2^62 bytes, or of fewer than none."""
    for size, text in ((1 << 62, "the shard ends before"), (-512, "header")):
        member = info("a.jpg", size=size)
        shard = tmp_path / "t.tar"
        shard.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(UserError, match=text):
            members_of(shard)


def test_broken_images_and_labels_are_left_out_and_named(tmp_path: Path) -> None:
    good = picture(tmp_path)
    shard = tar(tmp_path / "s" / "t.tar", ("a.jpg", good), ("a.txt", b"0 .5 .5 .1 .1"), ("b.jpg", good[:200]),
                ("c.jpg", good), ("c.txt", b"0 .5 .5 .1"), ("d.jpg", good), ("d.txt", b"\xff\xfe\0"),
                ("e.jpg", b""))  # fmt: skip
    index = read_split(data_of(shard), "train")
    assert [path.name for path in index.paths] == ["a.jpg"]
    dropped = {problem.path.name: problem.kind for problem in index.problems if problem.drops == "image"}
    assert dropped == {
        "b.jpg": "corrupt image",
        "c.txt": "column count",
        "d.txt": "unreadable label",
        "e.jpg": "corrupt image",
    }


def test_a_shard_that_changed_since_is_noticed(both: tuple[Path, Path]) -> None:
    index = open_dataset(both[1], "train")
    shard = place_in_tar(index.path(0))
    assert shard
    shard[0].write_bytes(b"")
    with pytest.raises(UserError, match="is shorter than it was when it was indexed"):
        SourceImages(index, 64).load(0)


def test_an_image_for_which_there_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_MAX_PIXELS", "10000")
    shard = tar(tmp_path / "s" / "t.tar", ("a.jpg", picture(tmp_path)), ("b.jpg", b"\xff\xd8" + bytes(2 << 20)))
    index = read_split(data_of(shard), "train")
    assert [p.path.name for p in index.problems if p.drops == "image"] == ["b.jpg"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x-{08..11}.tar", ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]),
        ("{a,b}/{2..1}.tar", ["a/2.tar", "a/1.tar", "b/2.tar", "b/1.tar"]),
        ("x-{00..1}.tar", ["x-00.tar", "x-01.tar"]),
        ("x.tar", ["x.tar"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern",
    ["{0..999999999}", "{0..9999}{0..9999}", "{0..99999999999999999999}", "{0..1", "{{0..1}}", "{}", "{a..c}"],
)
def test_other_braces_are_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=re.escape(pattern)):
        expand_braces(pattern)


def test_what_a_data_yaml_may_name(tmp_path: Path) -> None:
    good = tar(tmp_path / "t-0.tar", ("a.jpg", picture(tmp_path)))
    with pytest.raises(UserError, match="shards are named by a data yaml"):
        read_split(good, "train")
    for train, text in (
        ("t-{0..2}.tar", "t-1.tar'?, which is not there"),
        ("t-0.tar.gz", "packed files are not read"),
        ("[t-0.tar, images]", "several formats"),
        ("t-{0..999999999}.tar", "more than 100,000 shards"),
    ):
        yaml = data_of(good)
        yaml.write_text(f"train: {train}\nval: t-0.tar\nnames: [a]\n")
        with pytest.raises(UserError, match=text):
            read_split(yaml, "train")
    yaml.write_text("train: {t,t}-0.tar  # in yaml a brace begins a mapping\nval:\n- {t,t}-0.tar\nnames: [a]\n")
    assert len(read_split(yaml, "train")) == len(read_split(yaml, "val")) == 1
    yaml.write_text("train: t-0.tar\nval: t-0.tar\n")
    with pytest.raises(UserError, match="names is missing"):
        read_data_yaml(yaml)
