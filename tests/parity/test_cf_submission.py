"""Boxes in the global frame, and the submission of them, against recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.nuscenes.structures import Detections3d, ImageAnnotations, ImageRecord
from boxwright.nuscenes.submission import read_submission, to_global, write_submission
from tests.golden import golden_cases, read_case

FILES = golden_cases("", "submission*.json", family="centerfusion")
NOTHING = ImageAnnotations(*(np.empty(0) for _ in range(11)))


def image_record(image: dict[str, Any], tokens: list[str]) -> ImageRecord:
    return ImageRecord(
        path=Path("none.jpg"),
        width=1600,
        height=900,
        sensor=image["sensor_id"],
        sample=tokens.index(image["sample_token"]),
        calib=np.eye(3, 4),
        global_from_cam=np.array(image["trans_matrix"]),
        annotations=NOTHING,
    )


def golden_detections(arrays: dict[str, np.ndarray], image: int) -> Detections3d:
    own = arrays["det/image_id"] == image

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"det/{name}"][own])

    return Detections3d(
        scores=read("score")[:, 0],
        labels=read("class")[:, 0].long() - 1,
        boxes=torch.zeros(int(own.sum()), 4),
        locations=read("loc"),
        dims=read("dim"),
        rotation_y=read("rot_y")[:, 0],
        alpha=read("rot_y")[:, 0],
        velocity=read("velocity"),
        attributes=read("nuscenes_att"),
    )


def without_repeats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes but those that coincide with a better one: the published suppression clips the two by rounding luck."""
    seen: set[tuple[float, ...]] = set()
    return [
        row
        for row in rows
        if (key := (*row["translation"], *row["size"])) not in seen and not seen.add(key)  # type: ignore[func-returns-value]
    ]


@pytest.mark.parametrize("file", FILES)
def test_submission(file: Path, tmp_path: Path) -> None:
    arrays, meta = read_case(file)
    expected = meta["submission"]["results"]
    tokens = list(expected)
    images = [image for image in meta["images"] if image["id"] in meta["images_with_results"]]
    boxes = to_global(
        [golden_detections(arrays, image["id"]) for image in images],
        [image_record(image, tokens) for image in images],
        fixed=False,
        iou_thresh=meta["iou_thresh"],
    )
    path = tmp_path / "results.json"
    write_submission(path, boxes, tokens, use_radar=True)
    found = json.loads(path.read_text())
    assert found["meta"] == meta["submission"]["meta"]
    assert list(found["results"]) == tokens
    for token, rows in expected.items():
        compare(found["results"][token], without_repeats(rows) if meta["iou_thresh"] > 0 else rows)
    back = read_submission(path, tokens)
    for name in ("samples", "labels", "centers", "sizes", "rotations", "velocities", "attributes", "scores"):
        np.testing.assert_array_equal(getattr(back, name), getattr(boxes, name))


def compare(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for key in (
        "sample_token",
        "detection_name",
        "attribute_name",
        "tracking_name",
        "tracking_id",
        "sensor_id",
        "det_id",
    ):
        assert [row[key] for row in found] == [row[key] for row in expected], key
    for key, tolerance in {"size": 1e-4, "velocity": 1e-4, "detection_score": 1e-4, "translation": 1e-2}.items():
        ours, theirs = (np.array([row[key] for row in rows]) for rows in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=0 if key == "translation" else 1e-4, atol=tolerance, err_msg=key)
    ours, theirs = (np.array([row["rotation"] for row in rows]) for rows in (found, expected))
    same_way = np.sign((ours * theirs).sum(axis=1, keepdims=True))  # q and -q are one rotation
    np.testing.assert_allclose(ours * same_way, theirs, rtol=1e-4, atol=1e-4)
