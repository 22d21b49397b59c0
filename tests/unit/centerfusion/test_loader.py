"""Batches of camera + radar: the same for any number of workers and ranks, and after a resume."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.centerfusion.loader import FusionTrainLoader, make_train_loader, make_val_loader
from boxwright.centerfusion.structures import FusionBatch
from boxwright.errors import UserError
from tests.unit.centerfusion.scenes3d import SMALL, Scenes, write_scenes

SETTINGS = replace(SMALL, scale=0.2, aug_rot=0.3, rotate=5.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return write_scenes(tmp_path_factory.mktemp("data") / "s mezerou – 画像", 11)


def opened(source: Scenes, workers: int = 0, **options) -> FusionTrainLoader:
    return make_train_loader(source, SETTINGS, **({"batch_size": 4, "seed": 3} | options), workers=workers)


def tensors(batch: FusionBatch) -> dict[str, torch.Tensor]:
    names = ("images", "radar", "calibs", "image_from_grid", "indices")
    parts = {name: getattr(batch, name) for name in names}
    return parts | {field.name: getattr(batch.targets, field.name) for field in fields(batch.targets)}


def assert_same(first: FusionBatch, second: FusionBatch) -> None:
    others = tensors(second)
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, others[name]), name
        assert tensor.stride() == others[name].stride(), name
    assert first.paths == second.paths


def test_batches_are_the_same_for_any_number_of_workers(source: Scenes) -> None:
    expected = [list(opened(source).batches(epoch)) for epoch in range(2)]
    assert [len(epoch) for epoch in expected] == [2, 2]
    for workers in (1, 2):
        loader = opened(source, workers)
        for epoch in range(2):
            for first, second in zip(expected[epoch], loader.batches(epoch), strict=True):
                assert_same(first, second)
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_stopped(source: Scenes, workers: int) -> None:
    whole = list(opened(source).batches(1))
    loader = opened(source, workers)
    (rest,) = loader.batches(1, 1)
    assert_same(whole[1], rest)
    loader.close()


def test_epochs_differ_in_order_and_in_what_is_drawn(source: Scenes) -> None:
    first, second = (next(opened(source, shuffle=False).batches(epoch)) for epoch in range(2))
    assert first.indices.tolist() == second.indices.tolist() == [0, 1, 2, 3]
    assert not torch.equal(first.images, second.images)
    shuffled = [next(opened(source).batches(epoch)).indices.tolist() for epoch in range(2)]
    assert shuffled[0] != shuffled[1]


def test_an_image_that_comes_twice_is_drawn_anew(source: Scenes) -> None:
    batch = next(opened(source).batches(0, 0, np.eye(len(source))[2]))
    assert batch.indices.tolist() == [2, 2, 2, 2]
    assert not torch.equal(batch.images[0], batch.images[1])


def test_ranks_together_have_the_batch_of_one(source: Scenes) -> None:
    whole = next(opened(source).batches(0))
    for rank in range(2):
        share = next(opened(source, rank=rank, num_ranks=2).batches(0))
        assert torch.equal(share.images, whole.images[rank::2])
        assert torch.equal(share.targets.heatmap, whole.targets.heatmap[rank::2])
        assert share.paths == whole.paths[rank::2]


def test_batches_have_the_shapes_and_the_memory_that_training_takes(source: Scenes) -> None:
    batch = next(opened(source).batches(0))
    assert batch.images.shape == (4, 3, 96, 160)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.float32
    assert batch.radar.shape == (4, 3, 24, 40)
    assert batch.targets.heatmap.shape == (4, 10, 24, 40)
    assert batch.targets.velocity.shape == batch.targets.velocity_valid.shape == (4, 128, 3)
    assert batch.targets.valid.dtype == torch.bool
    assert batch.targets.to(torch.device("cpu")).cell.dtype == torch.int64


def test_validation_takes_every_image_in_order_unchanged(source: Scenes) -> None:
    loader = make_val_loader(source, SETTINGS, batch_size=4, workers=2)
    batches = list(loader)
    loader.close()
    assert len(loader) == 3
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    alone = make_val_loader(source, replace(SMALL, reduce=False), batch_size=4, workers=0)
    for first, second in zip(batches, alone, strict=True):
        assert_same(first, second)


def test_a_rank_without_images_gets_an_empty_batch(source: Scenes) -> None:
    for workers in (0, 1):
        loader = make_val_loader(source, SMALL, batch_size=10, workers=workers, rank=1, num_ranks=2)
        last = list(loader)[-1]
        loader.close()
        assert len(last) == 0
        assert last.images.shape == (0, 3, 96, 160)


def test_a_data_set_smaller_than_a_batch_is_refused(source: Scenes) -> None:
    with pytest.raises(
        UserError, match=r"11 image\(s\), which do not fill a batch of 12: take --batch-size 11 or less"
    ):
        opened(source, batch_size=12)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_one_sentence(tmp_path: Path, workers: int) -> None:
    lost = write_scenes(tmp_path, 2)
    lost.records[1].path.unlink()
    loader = opened(lost, workers, batch_size=2)
    with pytest.raises(UserError, match="cannot be opened"):
        next(loader.batches(0))
    loader.close()
