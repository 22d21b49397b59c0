"""nuScenes records against the golden conversion of nuscenes-tiny: every image and every annotation of both splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.nuscenes.convert import write_published
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from tests.golden import golden_cases, nuscenes_tiny, read_case


def close(found: Any, expected: Any) -> None:
    """The tolerance of the conversion; JSON null is NaN."""
    expected = np.array(expected, object)
    expected[expected == None] = np.nan  # noqa: E711  elementwise
    np.testing.assert_allclose(np.asarray(found, np.float64), expected.astype(np.float64), rtol=0, atol=1e-3)


def _cases(pattern: str) -> list[Any]:
    """One parameter a file and a split of it."""
    files = golden_cases("", pattern, family="centerfusion")
    return [
        pytest.param(file.values[0], split, id=f"{file.id}-{split}")
        for file in files
        for split in read_case(file.values[0])[1]
    ]


def tiny(file: Path, split: str, sweeps: int, cache: Path) -> NuscenesSplit:
    return NuscenesSplit(open_nuscenes(nuscenes_tiny(file.parent), "v1.0-mini", cache_dir=cache), split, sweeps)


def by_image(records: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(record["image_id"], []).append(record)
    return found


@pytest.mark.parametrize(("file", "split"), _cases("convert_3sweeps.json"))
def test_records_are_those_of_the_published_conversion(file: Path, split: str, tmp_path: Path) -> None:
    golden = read_case(file)[1][split]
    source = tiny(file, split, 0, tmp_path)
    images = {image["id"]: image for image in golden["images"]}
    annotations = by_image(golden["annotations"])
    assert sorted(source.image_ids) == sorted(images)
    tokens = source.sample_tokens
    for position, image_id in enumerate(source.image_ids.tolist()):
        record, image = source.record(position), images[image_id]
        assert record.path == nuscenes_tiny(file.parent) / image["file_name"]
        assert (record.width, record.height, record.sensor) == (image["width"], image["height"], image["sensor_id"])
        assert tokens[record.sample] == image["sample_token"]
        close(record.calib, image["calib"])
        close(record.global_from_cam, image["trans_matrix"])
        shown, expected = record.annotations, annotations.get(image_id, [])
        assert shown.labels.tolist() == [entry["category_id"] - 1 for entry in expected]
        assert shown.attributes.tolist() == [entry["attributes"] - 1 for entry in expected]
        assert shown.is_crowd.tolist() == [bool(entry["iscrowd"]) for entry in expected]
        if not expected:
            continue
        close(shown.boxes_xywh, [entry["bbox"] for entry in expected])
        close(shown.dims, [entry["dim"] for entry in expected])
        close(shown.locations, [entry["location"] for entry in expected])
        close(shown.depths, [entry["depth"] for entry in expected])
        close(shown.rotation_y, [entry["rotation_y"] for entry in expected])
        close(shown.alpha, [entry["alpha"] for entry in expected])
        close(shown.amodel_centers, [entry["amodel_center"] for entry in expected])
        close(shown.velocity_cam, [entry["velocity_cam"][:3] for entry in expected])


@pytest.mark.parametrize(("file", "split"), _cases("convert_*sweeps.json"))
def test_radar_of_the_published_conversion(file: Path, split: str, tmp_path: Path) -> None:
    arrays, golden = read_case(file)
    source = tiny(file, split, int(file.stem.removeprefix("convert_").removesuffix("sweeps")), tmp_path)
    counts = golden[split].get("radar_points_per_image", {})
    prefix = f"{split}/radar_pc/"
    stored = {int(key.removeprefix(prefix)): array for key, array in arrays.items() if key.startswith(prefix)}
    assert counts or stored
    for position, image_id in enumerate(source.image_ids.tolist()):
        points = source.radar(position)
        if str(image_id) in counts:
            assert points.shape == (18, counts[str(image_id)])
        if image_id in stored:
            close(points, stored[image_id])


@pytest.mark.parametrize(("file", "split"), _cases("convert_3sweeps.json"))
def test_the_written_file_is_the_published_one(file: Path, split: str, tmp_path: Path) -> None:
    arrays, golden = read_case(file)
    written = tmp_path / "annotations.json"
    counts = write_published(tiny(file, split, 3, tmp_path), written)
    found, expected = json.loads(written.read_text()), golden[split]
    assert list(found) == list(expected)
    assert counts == (len(expected["images"]), len(expected["annotations"]))
    for part in ("categories", "videos", "attributes", "pointclouds"):
        assert found[part] == expected[part]
    for image, other in zip(found["images"], expected["images"], strict=True):
        close(image.pop("radar_pc"), arrays[f"{split}/radar_pc/{other['id']}"])
        same_record(image, other)
    for annotation, other in zip(found["annotations"], expected["annotations"], strict=True):
        same_record(annotation, other)


def same_record(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, str | int):
            assert found[key] == value, key
        else:
            close(found[key], value)
