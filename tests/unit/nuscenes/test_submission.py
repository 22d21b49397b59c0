"""Submissions: empty splits, the two known defects and their mending, what the reader refuses and how it says so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from boxwright.errors import UserError
from boxwright.nuscenes import tables
from boxwright.nuscenes.structures import Detections3d, GlobalBoxes, ImageAnnotations, ImageRecord
from boxwright.nuscenes.submission import SeenBoxes, read_submission, to_global, write_submission

TOKENS = ["first", "second", "third"]
# A camera 1.5 m above the ground that looks along x of the global frame: right is -y, down is -z.
LOOKS_ALONG_X = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def image(sample: int = 0, sensor: int = 1) -> ImageRecord:
    nothing = ImageAnnotations(*(np.empty(0) for _ in range(11)))
    return ImageRecord(Path("x.jpg"), 1600, 900, sensor, sample, np.eye(3, 4), LOOKS_ALONG_X, nothing)


def cars(
    scores: list[float], locations: list[list[float]] | None = None, labels: list[int] | None = None
) -> Detections3d:
    """Cars of 1.5 x 2 x 4 m that stand on the ground; their length points to the right of the camera."""
    count = len(scores)
    return Detections3d(
        scores=torch.tensor(scores),
        labels=torch.tensor(labels or [0] * count, dtype=torch.int64),
        boxes=torch.zeros(count, 4),
        locations=torch.tensor(locations or [[0.0, 1.5, 10]] * count).reshape(count, 3),
        dims=torch.tensor([[1.5, 2.0, 4.0]] * count).reshape(count, 3),
        rotation_y=torch.zeros(count),
        alpha=torch.zeros(count),
        velocity=torch.tensor([[1.0, 0, 2]] * count).reshape(count, 3),
        attributes=torch.arange(8.0).expand(count, 8),
    )


def submitted(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    """A right file of two boxes, changed."""
    boxes = to_global([cars([0.5, 0.25])], [image()], fixed=True)
    path = tmp_path / "results.json"
    write_submission(path, boxes, TOKENS, use_radar=False)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_height_is_that_of_the_top_face_as_published_and_of_the_centre_when_fixed() -> None:
    published = to_global([cars([0.5])], [image()], fixed=False)
    mended = to_global([cars([0.5])], [image()], fixed=True)
    np.testing.assert_allclose(published.centers, [[10, 0, 1.5]], atol=1e-6)
    np.testing.assert_allclose(mended.centers, [[10, 0, 0.75]], atol=1e-6)
    np.testing.assert_allclose(mended.sizes, [[2, 4, 1.5]])
    np.testing.assert_allclose(mended.velocities, [[2, -1]], atol=1e-6)


def test_boxes_lie_on_their_side_as_published_and_stand_when_fixed() -> None:
    for fixed, up in ((False, [1, 0, 0]), (True, [0, 0, 1])):
        boxes = to_global([cars([0.5])], [image()], fixed=fixed)
        turn = Rotation.from_quat(boxes.rotations, scalar_first=True)
        np.testing.assert_allclose(turn.apply([1, 0, 0]), [[0, -1, 0]], atol=1e-6)
        np.testing.assert_allclose(turn.apply([0, 0, 1]), [up], atol=1e-6)


def test_boxes_of_all_cameras_stand_by_key_frame_and_score_and_the_best_stay() -> None:
    records = [image(1, 1), image(0, 2), image(1, 3)]
    boxes = to_global([cars([0.5, 0.25]), cars([0.125]), cars([0.5, 0.75])], records, fixed=True, max_boxes=3)
    assert boxes.samples.tolist() == [0, 1, 1, 1]
    assert boxes.scores.tolist() == [0.125, 0.75, 0.5, 0.5]
    assert boxes.sensors.tolist() == [2, 3, 1, 3]


def test_attributes_are_of_the_family_of_the_class() -> None:
    boxes = to_global([cars([0.9, 0.8, 0.7, 0.6], labels=[0, 5, 7, 9])], [image()], fixed=True)
    assert boxes.attributes.tolist() == [7, 4, 1, -1]


@pytest.mark.parametrize("fixed", [False, True])
def test_suppression_removes_the_weaker_of_two_classes(fixed: bool) -> None:
    near = [[0.0, 1.5, 10], [0.2, 1.5, 10.2], [0, 1.5, 13], [0.1, 1.5, 10]]
    found = cars([0.9, 0.8, 0.7, 0.6], near, [0, 1, 0, 2])
    boxes = to_global([found, found], [image(0), image(1)], fixed=fixed, iou_thresh=0.1)
    np.testing.assert_allclose(boxes.scores, [0.9, 0.7, 0.9, 0.7], rtol=1e-6)


def test_suppression_compares_heights_as_published_and_widths_when_fixed() -> None:
    side_by_side = cars([0.9, 0.8], [[0.0, 1.5, 10], [0, 1.5, 11.6]])  # 1.6 m apart: higher than 1.5, not wider than 2
    assert len(to_global([side_by_side], [image()], fixed=False, iou_thresh=0.05)) == 2
    assert len(to_global([side_by_side], [image()], fixed=True, iou_thresh=0.05)) == 1


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_found_gives_a_whole_file(images: int, tmp_path: Path) -> None:
    boxes = to_global([cars([])] * images, [image()] * images, fixed=False, iou_thresh=0.1)
    path = tmp_path / "new" / "results.json"
    write_submission(path, boxes, TOKENS, use_radar=True)
    assert json.loads(path.read_text())["results"] == {token: [] for token in TOKENS}
    assert len(read_submission(path, TOKENS)) == 0


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rotations = random.normal(size=(50, 4))
    boxes = GlobalBoxes(
        samples=np.sort(random.integers(3, size=50)),
        labels=random.integers(10, size=50),
        centers=random.normal(size=(50, 3)) * 1e3,
        sizes=random.random((50, 3)) + 1e-9,
        rotations=rotations / np.linalg.norm(rotations, axis=1, keepdims=True),
        velocities=np.where(random.random((50, 1)) < 0.5, math.nan, random.normal(size=(50, 2))),
        attributes=random.integers(-1, 8, size=50),
        scores=random.random(50),
        num_points=np.full(50, -1),
    )
    path = tmp_path / "results.json"
    write_submission(path, boxes, TOKENS, use_radar=False)
    back = read_submission(path, TOKENS)
    assert np.isnan(back.velocities).any()
    for name in GlobalBoxes.__slots__:
        np.testing.assert_array_equal(getattr(back, name), getattr(boxes, name))
    assert "sensor_id" not in path.read_text()


def test_a_file_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = submitted(tmp_path)
    whole = read_submission(path, TOKENS)
    for chunk in (1, 7, 100):
        monkeypatch.setattr(tables, "_CHUNK", chunk)
        np.testing.assert_array_equal(read_submission(path, TOKENS).centers, whole.centers)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = submitted(tmp_path)
    before = path.read_text()
    with pytest.raises(IndexError):
        write_submission(path, to_global([cars([0.5], labels=[99])], [image()], fixed=True), TOKENS, use_radar=True)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*results\.json"):
        write_submission(tmp_path / "results.json", SeenBoxes(*_none()), TOKENS, use_radar=True)


def test_too_many_boxes_are_not_written(tmp_path: Path) -> None:
    many = to_global([cars([0.5] * 501)], [image()], fixed=True, max_boxes=600)
    with pytest.raises(ValueError, match="501 boxes"):
        write_submission(tmp_path / "results.json", many, TOKENS, use_radar=True)


def _none() -> list[np.ndarray]:
    boxes = to_global([], [], fixed=True)
    return [getattr(boxes, name) for name in (*GlobalBoxes.__slots__, "sensors")]


def first_box(entry: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["results"]["first"][0].__setitem__(entry, value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content["results"].update(other=[]), "key frame other, which is not in this split of 3"),
        (lambda content: content["results"].pop("second"), "lacks 1 of the 3 key frames of the split, second first"),
        (lambda content: content.pop("results"), 'it has no "results"'),
        (first_box("detection_name", "tram"), "key frame first: detection_name 'tram' is not known; it may be 'car'"),
        (first_box("attribute_name", "flying"), "attribute_name 'flying' is not known"),
        (first_box("size", [1, 2]), "each size should be 3 numbers"),
        (first_box("size", [1, 2, 0]), "each size should be three lengths above 0"),
        (first_box("size", "large"), "each size should be 3 numbers"),
        (first_box("translation", [1, 2, math.nan]), "each translation should be finite"),
        (first_box("rotation", [0, 0, 0, 0]), "a rotation of length 0"),
        (first_box("detection_score", None), "each detection_score should be finite"),
        (first_box("detection_score", [1]), "each detection_score should be a number"),
        (first_box("sample_token", "second"), "a box names another sample_token, 'second'"),
        (lambda content: content["results"]["first"][0].pop("velocity"), "each box needs the entries"),
        (lambda content: content["results"].update(first=[1]), "each box needs the entries"),
        (lambda content: content["results"].update(first={}), "a list of at most 500 boxes"),
        (lambda content: content["results"].update(first=[{}] * 501), "a list of at most 500 boxes"),
        (lambda content: content.update(results=[]), "'\\[' stands where '{' should"),
    ],
)
def test_a_wrong_file_is_told(change: Callable[[dict[str, Any]], object], told: str, tmp_path: Path) -> None:
    path = submitted(tmp_path, change)
    with pytest.raises(UserError, match=told) as caught:
        read_submission(path, TOKENS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_file_cut_off_is_told(share: float, tmp_path: Path) -> None:
    path = submitted(tmp_path)
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(UserError, match=r"results\.json cannot be read: it is cut off"):
        read_submission(path, TOKENS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"results": {"first": [], "first": []}}', "key frame first twice"),
        (b'{"results": {}} more', "text follows its end"),
        (b'{"results": {1: []}}', "1 is no key"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"meta": ' + b"[" * 200_000 + b', "results": {}}', "cannot be read"),
    ],
)
def test_what_is_no_such_json_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_submission(path, TOKENS)


def test_a_mistake_early_in_a_long_file_is_found_without_reading_all(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"results": {"first": [oops' + " " * 200_000 + "]}}")
    with pytest.raises(UserError, match="cannot be read: Expecting value"):
        read_submission(path, TOKENS)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.json: No such file"):
        read_submission(tmp_path / "none.json", TOKENS)
