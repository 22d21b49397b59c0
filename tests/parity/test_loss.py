"""The loss and assignment of every YOLOv5 release against recorded numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.data.structures import Targets
from boxwright.yolo.assignment import assign
from boxwright.yolo.loss import LossOutput, YoloLoss
from boxwright.yolo.published import RELEASES
from boxwright.yolo.settings import LossConfig
from tests.golden import golden_cases, read_case

CASES = golden_cases("loss", "v*.json")


def pad_targets(rows: np.ndarray, num_images: int) -> Targets:
    """Rows (image, class, xywh) as padded targets, order kept within an image."""
    most = max(1, int(np.bincount(rows[:, 0].astype(int), minlength=num_images).max(initial=0)) + 2)
    boxes = torch.zeros(num_images, most, 4)
    labels = torch.zeros(num_images, most, dtype=torch.int64)
    valid = torch.zeros(num_images, most, dtype=torch.bool)
    for image in range(num_images):
        own = torch.from_numpy(rows[rows[:, 0] == image])
        boxes[image, : len(own)] = own[:, 2:6]
        labels[image, : len(own)] = own[:, 1].long()
        valid[image, : len(own)] = True
    return Targets(boxes, labels, valid)


def criterion(meta: dict[str, Any]) -> YoloLoss:
    hyp, options = meta["hyp"], meta["options"]
    known = {key: value for key, value in hyp.items() if key in LossConfig.model_fields}
    if "giou" in hyp:  # the name of the box gain up to v3.0
        known["box"] = hyp["giou"]
    for key in ("autobalance", "gr", "sort_obj_iou", "label_smoothing"):
        if key in options:
            known[key] = options[key]
    anchors = torch.tensor(meta["anchors_px"]) / torch.tensor(meta["strides"], dtype=torch.float32)[:, None, None]
    rules = RELEASES[meta["version"]].loss
    assert rules is not None
    return YoloLoss(anchors, meta["strides"], meta["nc"], LossConfig(**known), rules=rules)


def maps_of(arrays: dict[str, np.ndarray]) -> list[Tensor]:
    count = sum(1 for key in arrays if key[0] == "p" and key[1:].isdigit())
    return [torch.from_numpy(arrays[f"p{i}"]).requires_grad_() for i in range(count)]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: Path) -> None:
    arrays, meta = read_case(case)
    loss = criterion(meta)
    targets = pad_targets(arrays["targets"], meta["batch"])
    maps = maps_of(arrays)
    for _ in range(max(1, len(meta.get("steps", ())))):
        for level in maps:
            level.grad = None
        output: LossOutput = loss(maps, targets)
        output.total.backward()
    expected = [meta["lbox"], meta["lobj"], meta["lcls"]]
    np.testing.assert_allclose(output.items.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.total.item(), meta["total"], rtol=1e-5, atol=1e-6)
    if "balance_after" in meta:
        np.testing.assert_allclose(loss.balance.numpy(), meta["balance_after"][: len(maps)], rtol=1e-5)
    for i, level in enumerate(maps):
        assert level.grad is not None
        np.testing.assert_allclose(level.grad.numpy(), arrays[f"grad{i}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_assignment(case: Path) -> None:
    arrays, meta = read_case(case)
    loss = criterion(meta)
    targets = pad_targets(arrays["targets"], meta["batch"])
    for i, level in enumerate(maps_of(arrays)):
        found = assign(
            targets,
            loss.anchors[i],
            (level.shape[2], level.shape[3]),
            loss.config.anchor_t,
            twice=loss.rules.border_counts_twice,
        )
        # Rows that the published list has twice (a centre on a cell border) are one candidate with a count here.
        repeats = found.counts.long()
        rank = found.order.repeat_interleave(repeats).tolist()
        place = torch.stack((found.images, found.anchors, found.rows, found.columns, found.labels), dim=1)
        place = place.repeat_interleave(repeats, dim=0).numpy()
        sizes = torch.cat((found.boxes, found.anchor_sizes.T), dim=1).repeat_interleave(repeats, dim=0).numpy()
        expected_place = np.stack([arrays[f"{key}{i}"] for key in ("b", "a", "gj", "gi", "tcls")], axis=1)
        expected_sizes = np.concatenate((arrays[f"tbox{i}"], arrays[f"anch{i}"]), axis=1)
        assert place.shape == expected_place.shape
        order, expected_order = sort_rows(place, sizes), sort_rows(expected_place, expected_sizes)
        np.testing.assert_array_equal(place[order], expected_place[expected_order])
        np.testing.assert_allclose(sizes[order], expected_sizes[expected_order], rtol=1e-5, atol=1e-6)
        by_rank = sorted(zip(rank, place.tolist(), sizes.tolist(), strict=True))
        winners = {tuple(row[:4]): box for _, row, box in by_rank}  # a dict keeps the last one put in
        published = {tuple(row[:4]): box for row, box in zip(expected_place.tolist(), expected_sizes, strict=True)}
        for cell, box in published.items():
            np.testing.assert_allclose(winners[cell], box, rtol=1e-5, atol=1e-6)


def sort_rows(place: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.lexsort((*sizes.round(4).T, *place.T))
