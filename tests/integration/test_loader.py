"""Loaders: the same batches for any number of workers and ranks, resumable, with clear errors."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.data.images import note_reading
from boxwright.data.index import DataIndex
from boxwright.data.loader import BatchPool, TrainLoader
from boxwright.data.source_images import RamCache, SourceImages
from boxwright.data.structures import Batch
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.yolo.loader import make_train_loader, make_val_loader
from boxwright.yolo.samples import TrainingSamples
from boxwright.yolo.settings import AugmentConfig, RunConfig
from tests.unit.data.scenes import write_scenes

SIZES = [(96, 72), (60, 96), (200, 300), (50, 50), (400, 210), (33, 97), (64, 64)] * 3


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DataIndex:
    return write_scenes(tmp_path_factory.mktemp("data") / "s mezerou – 画像", SIZES, polygons=True, suffix=".jpg")


def open_loader(index: DataIndex, workers: int = 0, world: World = World(), **settings) -> TrainLoader:  # noqa: B008
    augment = AugmentConfig(mixup=0.3, copy_paste=0.5, degrees=3.0, flipud=0.2)
    config = RunConfig(**({"batch_size": 4, "augment": augment, "seed": 3, "workers": workers} | settings))
    return make_train_loader(index, config, imgsz=64, stride=32, world=world)


def assert_same(first: Batch, second: Batch) -> None:
    assert torch.equal(first.images, second.images)
    assert first.images.stride() == second.images.stride()
    assert torch.equal(first.targets.boxes_cxcywh, second.targets.boxes_cxcywh)
    assert torch.equal(first.targets.labels, second.targets.labels)
    assert torch.equal(first.targets.valid, second.targets.valid)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.original_sizes, second.original_sizes)
    assert first.paths == second.paths


@pytest.mark.parametrize("options", [{}, {"rect": True}, {"cache": "ram"}], ids=["mosaic", "rect", "ram cache"])
def test_batches_are_the_same_for_any_number_of_workers(index: DataIndex, options: dict) -> None:
    expected = [list(open_loader(index, **(options | {"cache": ""})).batches(epoch)) for epoch in range(2)]
    assert [len(epoch) for epoch in expected] == [6, 6]
    for workers in (0, 1, 2):
        loader = open_loader(index, workers, **options)
        for epoch in range(2):
            for first, second in zip(expected[epoch], loader.batches(epoch), strict=True):
                assert_same(first, second)
        loader.close()


def test_the_disk_cache_changes_no_batch(index: DataIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loader = open_loader(index, cache="disk")
    assert [*tmp_path.iterdir()]
    for _ in range(2):
        for first, second in zip(open_loader(index).batches(0), loader.batches(0), strict=True):
            assert_same(first, second)


def test_weights_reach_workers_that_live_on(index: DataIndex) -> None:
    """Each epoch has weights of its own; images that come twice are changed in two ways."""
    weights = [np.eye(len(index))[4] + np.eye(len(index))[1], np.eye(len(index))[2]]
    loader, alone = open_loader(index, 2), open_loader(index)
    pids = []
    for epoch in (0, 1, 0):
        expected = list(alone.batches(epoch, 0, weights[epoch]))
        assert set(torch.cat([batch.indices for batch in expected]).tolist()) == ({4, 1}, {2})[epoch]
        assert not torch.equal(expected[0].images[0], expected[1].images[0])
        for first, second in zip(expected, loader.batches(epoch, 0, weights[epoch]), strict=True):
            assert_same(first, second)
        for first, second in zip(expected[2:], loader.batches(epoch, 2, weights[epoch]), strict=True):
            assert_same(first, second)
        pids.append({child.pid for child in multiprocessing.active_children()})
    assert pids[0] == pids[1] == pids[2]
    for first, second in zip(alone.batches(1), loader.batches(1), strict=True):  # and without weights again
        assert_same(first, second)
    loader.close()


@pytest.mark.parametrize("rect", [False, True])
def test_two_ranks_together_have_the_batches_of_one(index: DataIndex, rect: bool) -> None:
    single = open_loader(index, rect=rect)
    ranks = [open_loader(index, world=World(rank, 2), rect=rect) for rank in (0, 1)]
    for batch, *shares in zip(single.batches(1), *(rank.batches(1) for rank in ranks), strict=True):
        assert len(batch) == sum(map(len, shares))
        for row in range(len(batch)):
            share = shares[row % 2]
            assert torch.equal(batch.images[row], share.images[row // 2])
            count = int(batch.targets.valid[row].sum())
            assert count == int(share.targets.valid[row // 2].sum())
            boxes = share.targets.boxes_cxcywh[row // 2]
            assert torch.equal(batch.targets.boxes_cxcywh[row][:count], boxes[:count])


@pytest.mark.parametrize("workers", [0, 2])
def test_any_step_can_be_the_first(index: DataIndex, workers: int) -> None:
    expected = list(open_loader(index).batches(1))
    loader = open_loader(index, workers)
    for _ in islice(loader.batches(0), 2):  # stopped early
        pass
    for first, second in zip(expected[3:], loader.batches(1, start_step=3), strict=True):
        assert_same(first, second)
    for first, second in zip(expected, loader.batches(1), strict=True):
        assert_same(first, second)
    assert list(loader.batches(1, start_step=len(loader))) == []
    loader.close()


def test_workers_live_as_long_as_the_loader(index: DataIndex) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    loader = open_loader(index, 2)
    pids = []
    for epoch in (0, 1, 5):
        list(loader.batches(epoch))
        pids.append({child.pid for child in multiprocessing.active_children()} - before)
    assert len(pids[0]) == min(2, os.cpu_count() or 1)
    assert pids[0] == pids[1] == pids[2]
    loader.close()
    del loader
    gc.collect()
    assert not {child.pid for child in multiprocessing.active_children()} & pids[0]


def test_what_a_worker_caches_in_memory_is_there_for_all(index: DataIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    source = RamCache(SourceImages(index, 64))
    samples = TrainingSamples(source, 64, 32, AugmentConfig(), seed=0)
    pool = BatchPool(_FillCache(samples), 1)
    next(pool.batches([(0, 0)]))
    pool.close()
    monkeypatch.setattr(SourceImages, "load", lambda *_: pytest.fail("decoded again"))
    assert source.load(4).any()


class _FillCache:
    """Makes a batch in a worker; a plain class, as a pool wants it."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __call__(self, key: tuple[int, int]) -> Batch:
        self._samples.source.load(4)
        loader = make_val_loader(self._samples.source.index, imgsz=64, batch_size=1, stride=32, workers=0)
        return next(iter(loader))


def test_ctrl_c_does_not_end_the_workers(index: DataIndex) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    loader = open_loader(index, 1)
    batches = loader.batches(0)
    next(batches)
    for child in multiprocessing.active_children():
        if child.pid not in before:
            os.kill(child.pid, signal.SIGINT)
    assert len(list(batches)) == len(loader) - 1
    loader.close()


def test_loading_leaves_the_generator_of_the_run_alone(index: DataIndex) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loader = open_loader(index, 1)
    next(loader.batches(0))
    next(loader.batches(3))
    assert torch.equal(torch.rand(3), expected)
    loader.close()


def test_images_are_bytes_in_channels_last_memory(index: DataIndex) -> None:
    for workers in (0, 1):
        batch = next(open_loader(index, workers).batches(0))
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.boxes_cxcywh.shape[1] % 16 == 0
        valid = batch.targets.boxes_cxcywh[batch.targets.valid]
        assert ((valid >= 0) & (valid <= 1)).all()


def test_rows_are_rgb(tmp_path: Path) -> None:
    import cv2

    index = write_scenes(tmp_path, [(64, 64)], boxes=1)
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 200
    index.path(0).write_bytes(cv2.imencode(".png", red)[1].tobytes())
    plain = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, mosaic=0, scale=0, translate=0)
    for loader in (
        open_loader(index, batch_size=1, augment=plain, seed=0).batches(0),
        make_val_loader(index, imgsz=(64, 64), batch_size=1, stride=32, workers=0),
    ):
        assert next(iter(loader)).images[0, :, 32, 32].tolist() == [200, 0, 0]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("boxes", [0, 2])
def test_a_batch_larger_than_the_data_set_is_the_data_set(tmp_path: Path, count: int, boxes: int) -> None:
    index = write_scenes(tmp_path, SIZES[:count], boxes=boxes)
    batches = list(open_loader(index, batch_size=16).batches(0))
    assert [len(batch) for batch in batches] == [count]
    assert sorted(batches[0].indices.tolist()) == list(range(count))
    assert batches[0].targets.valid.shape == (count, 16)
    assert [len(batch) for batch in make_val_loader(index, imgsz=64, batch_size=16, stride=32, workers=0)] == [count]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_broke_after_indexing_is_named(tmp_path: Path, workers: int) -> None:
    index = write_scenes(tmp_path, SIZES[:4], suffix=".jpg")
    index.path(2).write_bytes(index.path(2).read_bytes()[:-40])
    loader = open_loader(index, workers)
    with pytest.raises(UserError) as caught:
        list(islice((batch for epoch in range(9) for batch in loader.batches(epoch)), 9))
    assert "002.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"002\.jpg"):
        list(make_val_loader(index, imgsz=64, batch_size=2, stride=32, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("imgsz", [96, (96, 96), (64, 128)])
def test_validation_shows_every_image_once_where_it_says(
    index: DataIndex, workers: int, imgsz: int | tuple[int, int]
) -> None:
    loader = make_val_loader(index, imgsz=imgsz, batch_size=5, stride=32, workers=workers)
    assert len(loader) == 5
    for _ in range(2):
        seen: list[int] = []
        for batch in loader:
            seen += batch.indices.tolist()
            assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
            assert isinstance(imgsz, int) or batch.images.shape[2:] == imgsz
            check_labels(batch, index)
        assert sorted(seen) == list(range(len(index)))
    loader.close()


def check_labels(batch: Batch, index: DataIndex) -> None:
    """Labels in the network frame, brought back by scale and pad, are those of the index; white pixels lie in them."""
    height, width = batch.images.shape[2:]
    for row, image in enumerate(batch.indices.tolist()):
        original = index.sizes[image]
        assert batch.original_sizes[row].tolist() == original.tolist()
        assert batch.paths[row] == index.path(image)
        valid = batch.targets.valid[row]
        boxes = batch.targets.boxes_cxcywh[row][valid].numpy() * np.array([width, height, width, height])
        scale, pad = batch.scales[row].numpy(), batch.pads[row].numpy()
        boxes[:, 0], boxes[:, 1] = (boxes[:, 0] - pad[1]) / scale[1], (boxes[:, 1] - pad[0]) / scale[0]
        boxes[:, 2], boxes[:, 3] = boxes[:, 2] / scale[1], boxes[:, 3] / scale[0]
        classes, expected = index.labels(image)
        assert batch.targets.labels[row][valid].tolist() == classes.tolist()
        np.testing.assert_allclose(boxes / original[[1, 0, 1, 0]], expected, atol=1e-4)
        middle = batch.targets.boxes_cxcywh[row][valid][:, :2].numpy() * (width, height)
        for x, y in middle.astype(int):
            assert batch.images[row, :, y, x].min() > 180


def test_validation_ranks_share_the_images(index: DataIndex) -> None:
    shares = [
        [b.indices.tolist() for b in make_val_loader(
            index, imgsz=64, batch_size=4, stride=32, workers=0, world=World(rank, 2))]
        for rank in (0, 1)
    ]  # fmt: skip
    seen = [image for share in shares for batch in share for image in batch]
    assert sorted(seen) == list(range(len(index)))
    assert len(shares[0]) == len(shares[1])


def test_a_dead_worker_is_told_where_its_batch_is_waited_for(index: DataIndex) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    loader = open_loader(index, 1)
    batches = loader.batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before  # nothing is raised in the middle of something else
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    with pytest.raises(UserError, match="a loader process died"):
        list(batches)


def test_a_worker_that_dies_while_it_hands_over_a_batch(
    index: DataIndex, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is found as a broken connection; the worker itself, if it lives for a moment, prints nothing."""
    for kind in (ConnectionResetError, EOFError, multiprocessing.AuthenticationError):

        def broken(connection: Any, key: bytes, kind: type[Exception] = kind) -> None:
            raise kind("gone")

        monkeypatch.setattr(multiprocessing.connection, "answer_challenge", broken)
        with pytest.raises(UserError, match="a loader process died"):
            list(make_val_loader(index, imgsz=64, batch_size=2, stride=32, workers=2))
    assert "Traceback" not in capfd.readouterr().err


class _Hanging:
    """Makes numbers; the fourth one hangs while it reads an image."""

    def __call__(self, key: int) -> int:
        note_reading(f"/images/{key}.jpg")
        if key == 3:
            time.sleep(1000)
        return key


def test_a_loader_that_hangs_is_ended_and_its_image_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_LOADER_TIMEOUT", "1")
    pool = BatchPool(_Hanging(), 2)
    found: list[int] = []
    with pytest.raises(UserError, match=r"gave nothing for 1 s.*was reading /images/3\.jpg: .*--loader-timeout"):
        found.extend(number for number in pool.batches(range(8)))
    assert not multiprocessing.active_children()
