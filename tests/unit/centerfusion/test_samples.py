"""Samples of camera and radar: edge cases, draws, errors; batches: equal for any number of workers and ranks."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from boxwright.centerfusion.augment import (
    Placement,
    affine_map,
    centered,
    draw_placement,
    from_reduced,
    map_points,
    read_warped,
    reduction_of,
)
from boxwright.centerfusion.samples import (
    SampleArrays,
    SampleMaker,
    balanced_weights,
    make_train_loader,
    make_val_loader,
)
from boxwright.centerfusion.settings import FusionAugmentConfig, FusionConfig
from boxwright.centerfusion.structures import Batch3d
from boxwright.data.loader import TrainLoader
from boxwright.data.sampler import sample_generator
from boxwright.errors import UserError
from tests.unit.centerfusion.scenes3d import (
    SMALL,
    Scenes,
    empty_sample,
    make_sample,
    objects,
    points,
    record,
    write_grain,
    write_image,
    write_scenes,
)


def placed(source: Scenes, settings: FusionConfig, placement: Placement) -> SampleArrays:
    sample = empty_sample(settings)
    SampleMaker(source, settings).write_placed(0, source.record(0), placement, None, sample, reduce=True)
    return sample


def one(tmp_path: Path, num_objects: int, num_points: int = 40, hw: tuple[int, int] = (180, 320)) -> Scenes:
    source = write_scenes(tmp_path, 1, hw, num_objects)
    return Scenes(source.records, [points(num_points)])


def test_an_image_without_annotations_has_no_valid_slot(tmp_path: Path) -> None:
    sample = make_sample(one(tmp_path, 0), 0, SMALL, sample_generator(0, 0, 0))
    assert not sample.targets.valid.any()
    assert not sample.targets.heatmap.any()
    assert sample.radar.any()


def test_an_image_without_radar_has_an_empty_map(tmp_path: Path) -> None:
    sample = make_sample(one(tmp_path, 3, 0), 0, SMALL, sample_generator(0, 0, 0))
    assert not sample.radar.any()
    assert sample.targets.valid.any()


def test_without_radar_none_is_read(tmp_path: Path) -> None:
    source = one(tmp_path, 3)
    with_radar = make_sample(source, 0, SMALL, sample_generator(0, 0, 0))
    assert source.radar_reads == [0]
    without = make_sample(source, 0, SMALL.model_copy(update={"no_radar": True}), sample_generator(0, 0, 0))
    assert source.radar_reads == [0]
    assert not without.radar.any()
    assert np.array_equal(with_radar.image, without.image)  # radar draws nothing


def test_one_object_has_its_peak_in_its_cell(tmp_path: Path) -> None:
    source = one(tmp_path, 1)
    sample = make_sample(source, 0, SMALL, None)
    targets, label = sample.targets, source.records[0].annotations.labels[0]
    assert targets.valid.tolist() == [True] + [False] * 127
    assert targets.heatmap[label].flatten()[targets.cell[0]] == 1.0
    assert (sample.targets.heatmap == 1.0).sum() == 1


def test_of_many_objects_the_first_ones_are_taken(tmp_path: Path) -> None:
    hw = (180, 320)
    source = one(tmp_path, 0)
    source.records[0] = replace(source.records[0], annotations=objects(150, hw))
    sample = make_sample(source, 0, SMALL, None)
    first = replace(source.records[0], annotations=_first(objects(150, hw), 128))
    expected = make_sample(Scenes([first], source.radars), 0, SMALL, None)
    assert np.array_equal(sample.targets.heatmap, expected.targets.heatmap)
    assert np.array_equal(sample.targets.cell, expected.targets.cell)
    assert sample.targets.valid.sum() > 100


def _first(annotations, count: int):
    return replace(
        annotations, **{name: getattr(annotations, name)[:count] for name in annotations.__dataclass_fields__}
    )


def test_a_crowd_is_painted_and_has_no_slot(tmp_path: Path) -> None:
    source = one(tmp_path, 2)
    annotations = replace(source.records[0].annotations, is_crowd=np.array([True, False]))
    source.records[0] = replace(source.records[0], annotations=annotations)
    targets = make_sample(source, 0, SMALL, None).targets
    assert targets.valid.tolist()[:2] == [False, True]
    box = annotations.boxes_xywh[0] / 8  # 320 pixels to 40 cells
    assert (targets.heatmap[annotations.labels[0]] == 1).sum() >= np.floor(box[2]) * np.floor(box[3])


@pytest.mark.parametrize("fixed", [False, True])
def test_velocity_of_a_mirrored_image(tmp_path: Path, fixed: bool) -> None:
    """Published: the image is mirrored, its velocities are not. Fixed: velocity along x is."""
    source = one(tmp_path, 6)
    settings = SMALL.model_copy(update={"compat": "fixed" if fixed else "faithful"})
    plain = placed(source, settings, centered((180, 320))).targets
    flipped = placed(source, settings, replace(centered((180, 320)), flip=True)).targets
    shared = plain.velocity_valid & flipped.velocity_valid
    assert shared.any()
    sign = np.array([-1.0 if fixed else 1.0, 1.0, 1.0])
    assert np.array_equal(flipped.velocity[shared], (plain.velocity * sign)[shared].astype(np.float32))


def test_mirroring_twice_is_nothing_and_the_map_leads_back_to_the_original(tmp_path: Path) -> None:
    source = one(tmp_path, 6)
    placement = replace(centered((180, 320)), flip=True)
    sample = placed(source, SMALL, placement)
    kept = sample.targets.valid
    cells = np.stack([sample.targets.cell[kept] % 40, sample.targets.cell[kept] // 40], axis=1)
    found = map_points(cells + sample.targets.amodel_offset[kept], sample.image_from_grid.astype(np.float64))
    expected = source.records[0].annotations.amodel_centers[kept[:6]]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("hw", [(901, 1601), (333, 517), (400, 300), (64, 64)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_of_any_size(tmp_path: Path, hw: tuple[int, int], suffix: str) -> None:
    path = tmp_path / f"snímek{suffix}"
    write_image(path, hw, 0)
    source = Scenes([record(path, hw, objects(5, hw))], [points(40)])
    for rng in (None, sample_generator(0, 0, 0)):
        sample = make_sample(
            source, 0, SMALL.model_copy(update={"augment": FusionAugmentConfig(max_crop=hw[0] < hw[1])}), rng
        )
        assert sample.image.shape == (96, 160, 3)
        assert np.isfinite(sample.image).all()


def test_a_missing_image_and_one_of_another_size_are_named(tmp_path: Path) -> None:
    source = one(tmp_path, 1)
    path = source.records[0].path
    source.records[0] = replace(source.records[0], width=300)
    with pytest.raises(UserError, match="was 300 x 180 pixels") as caught:
        make_sample(source, 0, SMALL, None)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="cannot be opened") as caught:
        make_sample(source, 0, SMALL, None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reduced_decoding_shows_everything_where_full_decoding_does(tmp_path: Path) -> None:
    """A white disc keeps its centre to a tenth of a pixel; without the shift it would move by a quarter."""
    pixels = np.zeros((360, 640, 3), np.uint8)
    cv2.circle(pixels, (300, 170), 60, (255, 255, 255), -1, cv2.LINE_AA)
    path = tmp_path / "disc.jpg"
    assert cv2.imwrite(str(path), pixels)
    item = record(path, (360, 640), objects(0, (360, 640)))
    matrix = affine_map(np.array([320.0, 180.0]), 640.0, 0.0, (192, 320))
    assert reduction_of(matrix) == 2
    centers = []
    for reduce in (False, True):
        out = np.empty((192, 320, 3), np.uint8)
        read_warped(item, matrix, out, reduce=reduce)
        weights = out[..., 0].astype(np.float64)
        y, x = np.mgrid[:192, :320]
        centers.append([(x * weights).sum() / weights.sum(), (y * weights).sum() / weights.sum()])
    np.testing.assert_allclose(centers[0], map_points(np.array([300.0, 170.0]), matrix), atol=0.05)
    np.testing.assert_allclose(centers[0], centers[1], atol=0.1)


def test_training_and_validation_read_images_alike(tmp_path: Path) -> None:
    """A training sample of which nothing is drawn is that of validation; decoded at half scale it is less sharp."""
    source = one(tmp_path, 3, hw=(192, 320))
    write_grain(source.records[0].path, (192, 320))
    still = FusionAugmentConfig(flip=0.0, shift=0.0, color=False)
    sharpness: list[float] = []
    for reduced in (False, True):
        augment = still.model_copy(update={"reduced_decoding": reduced})
        config = SMALL.model_copy(update={"augment": augment})
        trained, validated = (make_sample(source, 0, config, rng) for rng in (sample_generator(0, 0, 0), None))
        assert np.array_equal(trained.image, validated.image) is not reduced
        sharpness.append(cv2.Laplacian(trained.image, cv2.CV_32F).var())
    assert sharpness[1] < 0.7 * sharpness[0]


def test_classes_are_drawn_about_equally_often() -> None:
    """Of a hundred images ninety show class 0, one class 7 and 0, nine nothing: these keep their share."""
    labels, images = np.array([0] * 90 + [0, 7, 7]), np.array([*range(90), 90, 90, 90])
    weights = balanced_weights(labels, images, 100)
    chances = weights / weights.sum()
    assert chances[91:].sum() == pytest.approx(0.09)
    assert chances[90] / chances[:90].sum() == pytest.approx((1 + 1 / 91) / (90 / 91))
    np.testing.assert_array_equal(balanced_weights(labels[:0], images[:0], 3), np.ones(3))


def test_reduction_follows_the_magnification() -> None:
    def at(scale: float) -> int:
        return reduction_of(affine_map(np.array([800.0, 450.0]), scale, 3.0, (448, 800)))

    assert [at(1500.0), at(1600.0), at(3100.0), at(3200.0), at(20000.0)] == [1, 2, 2, 4, 8]
    matrix = affine_map(np.array([800.0, 450.0]), 1600.0, 0.0, (448, 800))
    reduced = map_points(np.array([[10.0, 20.0]]), from_reduced(matrix, 2))
    np.testing.assert_allclose(reduced, map_points(np.array([[20.5, 40.5]]), matrix))


def test_random_crops_keep_the_border_and_take_eight_sizes() -> None:
    augment = FusionAugmentConfig(random_crop=True, flip=0.5, rotate_prob=0.5, rotate=10.0)
    drawn = [draw_placement(sample_generator(0, 0, i), (900, 1600), 1600.0, augment) for i in range(400)]
    centers = np.array([placement.center for placement in drawn])
    assert (centers >= 128).all()
    assert (centers < (1600 - 128, 900 - 128)).all()
    assert {round(placement.factor, 6) for placement in drawn} == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}
    assert 0.4 < np.mean([placement.flip for placement in drawn]) < 0.6
    assert 0.4 < np.mean([placement.rotation != 0 for placement in drawn]) < 0.6
    assert max(abs(placement.rotation) for placement in drawn) <= 20.0
    tiny = draw_placement(sample_generator(0, 0, 0), (1, 3), 3.0, augment)
    assert (tiny.center < (3, 1)).all()


TURNED = SMALL.model_copy(
    update={"augment": FusionAugmentConfig(scale=0.2, rotate_prob=0.3, rotate=5.0), "batch_size": 4, "seed": 3}
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return write_scenes(tmp_path_factory.mktemp("data") / "s mezerou – 画像", 11)


def opened(source: Scenes, workers: int = 0, **options) -> TrainLoader[Batch3d]:
    return make_train_loader(source, TURNED, workers=workers, **options)


def tensors(batch: Batch3d) -> dict[str, torch.Tensor]:
    names = ("images", "radar", "calibs", "image_from_grid", "indices")
    parts = {name: getattr(batch, name) for name in names}
    return parts | {field.name: getattr(batch.targets, field.name) for field in fields(batch.targets)}


def assert_same(first: Batch3d, second: Batch3d) -> None:
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
    only = np.eye(len(source))[2]
    first, second = (next(opened(source).batches(epoch, 0, only)) for epoch in range(2))
    assert first.indices.tolist() == second.indices.tolist() == [2, 2, 2, 2]
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
    assert batch.to(torch.device("cpu")).targets.cell.dtype == torch.int64


def test_validation_takes_every_image_in_order_unchanged(source: Scenes) -> None:
    loader = make_val_loader(source, TURNED, batch_size=4, workers=2)
    batches = list(loader)
    loader.close()
    assert len(loader) == 3
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    alone = make_val_loader(source, SMALL, batch_size=4, workers=0)
    for first, second in zip(batches, alone, strict=True):
        assert_same(first, second)
    whole = empty_sample(SMALL)
    SampleMaker(source, SMALL).write_placed(0, source.record(0), centered((180, 320)), None, whole, reduce=False)
    assert np.array_equal(batches[0].images[0].permute(1, 2, 0).numpy(), whole.image)  # decoded at full scale


def test_a_rank_without_images_gets_an_empty_batch(source: Scenes) -> None:
    for workers in (0, 1):
        loader = make_val_loader(source, SMALL, batch_size=10, workers=workers, rank=1, num_ranks=2)
        last = list(loader)[-1]
        loader.close()
        assert len(last) == 0
        assert last.images.shape == (0, 3, 96, 160)


def test_a_data_set_smaller_than_a_batch_is_refused(source: Scenes) -> None:
    with pytest.raises(UserError, match=r"11 images: too few to fill a batch of 12: take --batch-size 11 or less"):
        make_train_loader(source, SMALL.model_copy(update={"batch_size": 12}), workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_one_sentence(tmp_path: Path, workers: int) -> None:
    lost = write_scenes(tmp_path, 2)
    lost.records[1].path.unlink()
    loader = make_train_loader(lost, SMALL.model_copy(update={"batch_size": 2}), workers=workers)
    with pytest.raises(UserError, match="cannot be opened"):
        next(loader.batches(0))
    loader.close()
