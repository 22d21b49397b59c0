"""Samples of camera + radar: edge cases, draws, what a mirrored image's velocities are, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.centerfusion.draws import Placement, centered, draw_placement
from boxwright.centerfusion.sample_settings import SampleSettings
from boxwright.centerfusion.samples import Augmentation, SampleArrays, SampleMaker, empty_sample, make_sample
from boxwright.centerfusion.warp import affine_map, from_reduced, map_points, read_warped, reduction_of
from boxwright.data.sampler import sample_generator
from boxwright.errors import UserError
from tests.unit.centerfusion.scenes3d import SMALL, Scenes, objects, points, record, write_image, write_scenes


def placed(source: Scenes, settings: SampleSettings, placement: Placement) -> SampleArrays:
    sample = empty_sample(settings)
    SampleMaker(source, settings).write_augmented(0, source.record(0), Augmentation(placement), sample)
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
    without = make_sample(source, 0, replace(SMALL, radar=False), sample_generator(0, 0, 0))
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
    settings = replace(SMALL, fixed=fixed)
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
        sample = make_sample(source, 0, replace(SMALL, max_crop=hw[0] < hw[1]), rng)
        assert sample.image.shape == (96, 160, 3)
        assert np.isfinite(sample.image).all()


def test_input_sizes_are_multiples_of_32() -> None:
    with pytest.raises(UserError, match="450 x 800 pixels, but both must be multiples of 32"):
        SampleSettings(input_hw=(450, 800))


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


def test_reduction_follows_the_magnification() -> None:
    def at(scale: float) -> int:
        return reduction_of(affine_map(np.array([800.0, 450.0]), scale, 3.0, (448, 800)))

    assert [at(1500.0), at(1600.0), at(3100.0), at(3200.0), at(20000.0)] == [1, 2, 2, 4, 8]
    matrix = affine_map(np.array([800.0, 450.0]), 1600.0, 0.0, (448, 800))
    reduced = map_points(np.array([[10.0, 20.0]]), from_reduced(matrix, 2))
    np.testing.assert_allclose(reduced, map_points(np.array([[20.5, 40.5]]), matrix))


def test_random_crops_keep_the_border_and_take_eight_sizes() -> None:
    settings = replace(SMALL, crop="random", flip=0.5, aug_rot=0.5, rotate=10.0)
    drawn = [draw_placement(sample_generator(0, 0, i), (900, 1600), 1600.0, settings) for i in range(400)]
    centers = np.array([placement.center for placement in drawn])
    assert (centers >= 128).all()
    assert (centers < (1600 - 128, 900 - 128)).all()
    assert {round(placement.factor, 6) for placement in drawn} == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}
    assert 0.4 < np.mean([placement.flip for placement in drawn]) < 0.6
    assert 0.4 < np.mean([placement.rotation != 0 for placement in drawn]) < 0.6
    assert max(abs(placement.rotation) for placement in drawn) <= 20.0
    tiny = draw_placement(sample_generator(0, 0, 0), (1, 3), 3.0, settings)
    assert (tiny.center < (3, 1)).all()
