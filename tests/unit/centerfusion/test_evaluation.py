"""A pass over a split: what annotations make of themselves, batches of any size, several processes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion.evaluation import DecodeSettings, evaluate_fusion
from boxwright.centerfusion.heads import raw_from_depth
from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.postprocess import run_network
from boxwright.centerfusion.samples import make_val_loader
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.structures import Batch3d, RawHeads
from boxwright.data.loader import ValLoader
from boxwright.engine.evaluate import Found
from boxwright.engine.task import ValWatch
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import GlobalBoxes
from tests.integration.fusion_runs import VERSION, write_root

CPU = torch.device("cpu")
CONFIG = FusionConfig(imgsz=(64, 128))
ALL = DecodeSettings(num_peaks=20)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> NuscenesSplit:
    """One scene of two key frames: twelve images of six cameras, which differ in focal length."""
    index = open_nuscenes(write_root(tmp_path_factory.mktemp("root")), VERSION)
    return NuscenesSplit(index, "val", num_sweeps=1)


@pytest.fixture(scope="module")
def network() -> CenterFusion:
    """Random weights; objects have a size, so that they are kept."""
    torch.manual_seed(0)
    model = CenterFusion(CenterFusionSpec(width=0.125))
    with torch.no_grad():
        dict(model.named_parameters())["dim.2.bias"].fill_(2.0)
        dict(model.named_parameters())["wh.2.bias"].fill_(9.0)
        model.start_at_depth(20.0)
    return model.eval()


def loader(split: NuscenesSplit, batch_size: int, config: FusionConfig = CONFIG, rank: int = -1) -> ValLoader[Batch3d]:
    first, count = (0, 1) if rank < 0 else (rank, 2)
    return make_val_loader(split, config, batch_size=batch_size, workers=0, rank=first, num_ranks=count)


def some_of(split: NuscenesSplit, count: int) -> NuscenesSplit:
    """The same with its first images only."""
    less = copy(split)
    less.image_rows = split.image_rows[:count]
    return less


def assert_same_boxes(ours: GlobalBoxes, theirs: GlobalBoxes) -> None:
    """Up to rounding, which a batch has its own of."""
    assert np.array_equal(ours.samples, theirs.samples)
    for name in ("scores", "centers", "sizes", "rotations", "velocities"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=2e-3, err_msg=name)


class Knows(nn.Module):
    """Says what is annotated, whatever it is shown; `batches` tells it which images come next."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Batch3d | None = None

    def batches(self, loader: ValLoader[Batch3d]) -> Iterator[Batch3d]:
        for self.batch in loader:
            yield self.batch

    def forward(self, images: Tensor, radar: Tensor | None, calibs: Tensor) -> RawHeads:
        assert self.batch is not None
        targets = self.batch.targets
        bins, residuals = targets.rot_bins.float(), targets.rot_residuals
        rotation = torch.stack((1 - bins, bins, residuals.sin(), residuals.cos()), -1).flatten(2)
        values = {
            "reg": targets.offset,
            "wh": targets.size,
            "dep": raw_from_depth(targets.depth),
            "rot": rotation,
            "dim": targets.dims,
            "amodel_offset": targets.amodel_offset,
            "nuscenes_att": targets.attributes,
            "velocity": targets.velocity,
        }
        heads: RawHeads = {"hm": targets.heatmap.logit(1e-4)}
        for name, value in values.items():
            head = torch.zeros(len(images), value.shape[2], *targets.heatmap.shape[2:])
            for image, slot in targets.valid.nonzero().tolist():
                head.flatten(2)[image, :, targets.cell[image, slot]] = value[image, slot]
            heads[name] = head
        return heads


def test_annotations_said_by_a_network_are_what_the_metric_wants(split: NuscenesSplit) -> None:
    """Targets, decoding, global frame and metric undo each other."""
    large, knows = FusionConfig(imgsz=(448, 800)), Knows()
    found = evaluate_fusion(
        knows,
        knows.batches(loader(split, 6, large)),
        split,
        device=CPU,
        settings=DecodeSettings(num_peaks=30, score_threshold=0.9, radar=False),
    )
    metrics = found.metrics
    assert metrics is not None
    there = metrics.num_truth > 0
    assert there.sum() >= 5
    # Some objects share a cell or are cut by the image; all scores are equal, so that wrong boxes may come first.
    assert metrics.class_aps[there].mean() > 0.85
    translation, scale, orientation, velocity, attribute = metrics.errors[there].T
    assert translation.max() < 0.3
    assert orientation[~np.isnan(orientation)].max() < 0.25  # the ray leads to the middle of a cut box
    for exact in (scale, velocity, attribute):
        assert exact[~np.isnan(exact)].max() < 1e-5


@pytest.mark.parametrize("flip", [False, True])
def test_the_size_of_batches_changes_nothing(split: NuscenesSplit, network: CenterFusion, flip: bool) -> None:
    settings, key_frame = replace(ALL, flip_test=flip), some_of(split, 6)
    alone, together = (
        evaluate_fusion(
            network, loader(key_frame, size), key_frame, device=CPU, settings=settings, measures=False
        ).predictions
        for size in (1, 6)
    )
    assert len(alone) == 6 * ALL.num_peaks
    assert_same_boxes(together, alone)


def test_two_processes_find_what_one_finds(split: NuscenesSplit, network: CenterFusion) -> None:
    """The second has no image of the last batch."""
    less = some_of(split, 3)
    shares: list[list[Found]] = []

    def second(share: list[Found]) -> list[list[Found]]:
        shares.append(share)
        return []

    def first(share: list[Found]) -> list[list[Found]]:
        return [share, *shares]

    of_second = evaluate_fusion(network, loader(less, 2, rank=1), less, device=CPU, settings=ALL, gather=second)
    of_first = evaluate_fusion(network, loader(less, 2, rank=0), less, device=CPU, settings=ALL, gather=first)
    whole = evaluate_fusion(network, loader(less, 2), less, device=CPU, settings=ALL)
    assert of_second.metrics is None
    assert len(of_second.predictions) == 0
    assert [indices for indices, _ in shares[0]] == [[1]]
    assert_same_boxes(of_first.predictions, whole.predictions)
    assert of_first.metrics is not None


def test_losses_are_the_mean_of_the_batches_and_the_mode_is_kept(split: NuscenesSplit, network: CenterFusion) -> None:
    criterion, told, less = CenterLoss(), list[tuple[int, int]](), some_of(split, 3)
    network.train()
    found = evaluate_fusion(
        network,
        loader(less, 2),
        less,
        device=CPU,
        settings=ALL,
        criterion=criterion,
        watch=ValWatch(after=lambda batch, boxes: told.append((len(batch), len(boxes)))),
    )
    assert network.training
    network.eval()
    with torch.no_grad():
        items = [
            criterion(network(batch.images, batch.radar, batch.calibs), batch.targets)[1] for batch in loader(less, 2)
        ]
    assert found.losses == pytest.approx(torch.stack(items).mean(0).tolist(), rel=1e-6)
    assert told == [(2, 2), (1, 1)]


def test_the_flip_test_shows_the_mirror_images_too(split: NuscenesSplit, network: CenterFusion) -> None:
    batch = next(iter(loader(some_of(split, 2), 2)))
    given: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[:2]))
    try:
        heads = run_network(network, batch.images, batch.radar, batch.calibs, flip_test=True)
    finally:
        hook.remove()
    images, radar = given
    assert torch.equal(images, torch.cat((batch.images, batch.images.flip(3))))
    assert torch.equal(radar[2:, 0], batch.radar[:, 0].flip(2))
    assert heads["hm"].shape[0] == 2
