"""Four samples in one image; validation images that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.data.source_images import SourceImages
from boxwright.engine.distributed import World
from boxwright.ops.arrays import Image
from boxwright.yolo import task
from boxwright.yolo.geometry import Labels
from boxwright.yolo.loader import draw_enlarged, make_train_loader, make_val_loader, write_quad
from boxwright.yolo.settings import AugmentConfig, RunConfig
from boxwright.yolo.zoo import build_model, load_spec
from tests.unit.data.scenes import write_scenes


def write(position: int, out: Image) -> Labels:
    """A grey level and a box of its own for each of the four."""
    out[:] = 50 * (position + 1)
    return Labels(np.array([position], np.int32), np.array([[0.5, 0.25, 0.2, 0.4]], np.float32))


def test_four_side_by_side() -> None:
    out = np.zeros((8, 12, 3), np.uint8)
    labels = write_quad(write, out, enlarged=False)
    assert out[::4, ::6, 0].tolist() == [[50, 100], [150, 200]]
    assert [len(np.unique(out[y : y + 4, x : x + 6])) for y in (0, 4) for x in (0, 6)] == [1, 1, 1, 1]
    assert labels.classes.tolist() == [0, 1, 2, 3]
    expected = [[0.25, 0.125, 0.1, 0.2], [0.75, 0.125, 0.1, 0.2], [0.25, 0.625, 0.1, 0.2], [0.75, 0.625, 0.1, 0.2]]
    np.testing.assert_allclose(labels.boxes, expected, atol=1e-7)


def test_the_first_enlarged() -> None:
    def ramp(position: int, out: Image) -> Labels:
        out[:] = np.arange(6, dtype=np.uint8)[:, None] * 40
        return write(position, np.empty_like(out))

    out = np.zeros((8, 12, 3), np.uint8)
    labels = write_quad(ramp, out, enlarged=True)
    assert out[3, ::2, 0].tolist() == [0, 30, 70, 110, 150, 190]
    assert labels.classes.tolist() == [0]
    np.testing.assert_allclose(labels.boxes, [[0.5, 0.25, 0.2, 0.4]])


def test_half_of_them_are_enlarged() -> None:
    draws = [draw_enlarged(0, epoch, image, repeat) for epoch in range(20) for image in range(20) for repeat in (0, 1)]
    assert 0.45 < np.mean(draws) < 0.55
    assert draws[::2] != draws[1::2]


def test_a_batch_has_a_quarter_of_the_images_and_all_labels(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, [(64, 64)] * 10, boxes=1)
    plain = AugmentConfig(mosaic=0, scale=0, translate=0)
    config = RunConfig(batch_size=8, augment=plain, workers=0, quad=True)
    loader = make_train_loader(index, config, imgsz=64, stride=32)
    batches = list(loader.batches(0))
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 128, 128), (1, 3, 128, 128)]
    counts = torch.cat([batch.targets.valid.sum(1) for batch in batches]).tolist()
    assert set(counts) <= {1, 4}
    ranks = [make_train_loader(index, config, imgsz=64, stride=32, world=World(rank, 2)) for rank in (0, 1)]
    for rank, part in enumerate(ranks):
        assert torch.equal(next(part.batches(0)).images[0], batches[0].images[rank])


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_validation_decodes_cached_images_once(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = write_scenes(tmp_path / "im", [(40, 64), (64, 40), (90, 120)], boxes=2)
    plain, kept = (make_val_loader(index, imgsz=64, batch_size=2, stride=32, workers=0, cache=c) for c in ("", cache))
    expected = list(plain)
    first = list(kept)
    monkeypatch.setattr(SourceImages, "load", lambda *_: pytest.fail("decoded again"))
    for batches in (first, list(kept)):
        for ours, theirs in zip(batches, expected, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.scales, theirs.scales)
            assert torch.equal(ours.targets.boxes_cxcywh, theirs.targets.boxes_cxcywh)


@pytest.mark.parametrize(("settings", "expected"), [({}, "ram"), ({"noval": True}, "")])
def test_a_run_keeps_its_validation_images(
    tmp_path: Path, settings: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(task, "make_val_loader", lambda *_, cache, **__: kept.append(cache))
    index = write_scenes(tmp_path, [(32, 32)], boxes=1)
    model = build_model(load_spec("yolov5n", index.num_classes), index.names)
    config = RunConfig(data="x", imgsz=(32,), batch_size=1, workers=0, cache="ram", **settings)
    task.Detect2d(model, index, index, config, torch.device("cpu"))
    assert kept == [expected]
