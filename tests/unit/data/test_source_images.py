"""Caches give the same pixels as the files, notice edits, and refuse what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from boxwright.data import source_images
from boxwright.data.images import read_image, resize_for_validation
from boxwright.data.source_images import SourceImages, ValidationImages, check_room, open_source_images, with_cache
from boxwright.errors import UserError
from tests.unit.data.scenes import write_scenes


@pytest.mark.parametrize("cache", ["", "ram", "disk"])
def test_every_cache_gives_the_pixels_of_the_files(tmp_path: Path, cache: str) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50), (130, 70), (65, 65)], suffix=".jpg")
    source = open_source_images(index, 32, cache, cache_folder=tmp_path / "c")
    for _ in range(2):
        for image in range(len(index)):
            expected = SourceImages(index, 32).load(image)
            assert source.size(image) == expected.shape[:2]
            np.testing.assert_array_equal(source.load(image), expected)
    assert source.size(1) == (33, 18)  # 130 x 70 at 1/4


@pytest.mark.parametrize("cache", ["", "ram", "disk"])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_validation_images_have_the_size_of_a_batch(tmp_path: Path, cache: str, shape: tuple[int, int]) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50), (130, 70), (65, 65)], suffix=".jpg")
    source = with_cache(ValidationImages(index, shape), cache, cache_folder=tmp_path / "c")
    for _ in range(2):
        for image in range(len(index)):
            expected = resize_for_validation(read_image(index.path(image)), shape)
            assert source.size(image) == expected.shape[:2]
            assert any(side in (ours, ours - 1) for side, ours in zip(expected.shape[:2], shape, strict=True))
            np.testing.assert_array_equal(source.load(image), expected)


def test_caches_of_training_and_validation_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_scenes(tmp_path / "im", [(40, 40)])
    sources = [SourceImages(index, 40), ValidationImages(index, (40, 40))]
    monkeypatch.setattr(source_images, "available_memory", lambda: int(40 * 40 * 3 * 1.5))
    for source in sources:
        check_room([source], "ram")
    with pytest.raises(UserError, match="--cache ram needs"):
        check_room(sources, "ram")


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cached_image_is_decoded_once(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50)])
    source = open_source_images(index, 32, cache, cache_folder=tmp_path / "c")
    source.load(0)
    monkeypatch.setattr(SourceImages, "load", lambda *_: pytest.fail("decoded again"))
    source.load(0)


def test_the_disk_cache_notices_an_edit_and_damage(tmp_path: Path) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50)], suffix=".bmp")
    path = index.path(0)
    source = open_source_images(index, 64, "disk", cache_folder=tmp_path / "c")
    source.load(0)
    other = write_scenes(tmp_path / "other", [(40, 50)], boxes=0, suffix=".bmp").path(0)
    assert path.stat().st_size == other.stat().st_size
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(source.load(0), read_image(other))
    for file in (tmp_path / "c").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(source.load(0), read_image(other))


def test_the_disk_cache_leaves_no_temporary_files_and_nothing_beside_the_images(tmp_path: Path) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50), (60, 40)])
    before = sorted((tmp_path / "im").iterdir())
    source = open_source_images(index, 64, "disk", cache_folder=tmp_path / "c")
    source.load(0)
    source.load(1)
    assert sorted((tmp_path / "im").iterdir()) == before
    assert [file.suffix for file in (tmp_path / "c").iterdir()] == [".npy", ".npy"]


def test_a_disk_that_takes_nothing_only_means_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50)])
    source = open_source_images(index, 64, "disk", cache_folder=tmp_path / "c")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    np.testing.assert_array_equal(source.load(0), SourceImages(index, 64).load(0))
    assert not list((tmp_path / "c").iterdir())


def test_the_disk_cache_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = write_scenes(tmp_path / "im", [(40, 50)])
    open_source_images(index, 64, "disk").load(0)
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_a_ram_cache_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_scenes(tmp_path, [(40, 50)])
    monkeypatch.setattr(source_images, "available_memory", lambda: 40 * 50 * 3)
    with pytest.raises(UserError, match=r"--cache ram needs 0.00 GB for 1 images but .* use --cache disk or none"):
        open_source_images(index, 64, "ram")
    monkeypatch.setattr(source_images, "available_memory", lambda: 40 * 50 * 3 * 2)
    open_source_images(index, 64, "ram")
    with pytest.raises(UserError, match="for 1 images in 2 processes"):
        open_source_images(index, 64, "ram", copies=2)
    monkeypatch.setattr(source_images, "available_memory", lambda: int(1.5e9))
    index.sizes.flags.writeable = True
    index.sizes[0] = 40_000, 50_000
    with pytest.raises(UserError, match=r"needs 6.60 GB for 1 images but 1.50 GB of memory are available"):
        open_source_images(index, 40_000, "ram")


def test_a_disk_cache_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_scenes(tmp_path / "im", [(40, 50), (40, 50)])
    folder = tmp_path / "c"
    open_source_images(index, 64, "disk", cache_folder=folder).load(0)
    monkeypatch.setattr(source_images, "free_disk", lambda _: 40 * 50 * 3)
    with pytest.raises(UserError, match=r"--cache disk needs 0.00 GB for 2 images but 0.00 GB are available in .*c; "):
        open_source_images(index, 64, "disk", cache_folder=folder)
    monkeypatch.setattr(source_images, "free_disk", lambda _: 40 * 50 * 3 * 1.06)
    open_source_images(index, 64, "disk", cache_folder=folder)  # one of the two is there already
    with pytest.raises(UserError, match="needs"):
        open_source_images(index, 64, "disk", cache_folder=tmp_path / "other")
