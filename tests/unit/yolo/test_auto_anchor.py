"""The check before training: when anchors stay, when they change, and the one line about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from boxwright.data.index import DataIndex, Record
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo import anchors as auto_anchor
from boxwright.yolo.anchors import anchors_of, fit, in_levels, label_sizes, with_fitting_anchors
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import NETWORK


@pytest.fixture(autouse=True)
def few_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_anchor, "GENERATIONS", 20)


def tiny(anchors: object = None) -> DetectionModel:
    mapping = yaml.safe_load(NETWORK)
    return build_model(ModelSpec.from_mapping(mapping if anchors is None else mapping | {"anchors": anchors}))


def data_of(sides: list[float], count: int = 100) -> DataIndex:
    """Square boxes of these sides (fractions of the image), the same in every image."""
    boxes = np.array([(0.5, 0.5, side, side) for side in sides], np.float32)
    records = [Record(Path(f"{i}.jpg"), 100, 100, np.zeros(len(boxes), np.int32), boxes) for i in range(count)]
    return DataIndex.from_records(records, ["a", "b"])


def config(**settings: object) -> RunConfig:
    return load(RunConfig, {"imgsz": 64, **settings})


def test_anchors_that_fit_stay(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.2, 0.5]), config()) is model
    assert capsys.readouterr().out.startswith("anchors: they fit, best possible recall 1.0000, ")


def test_anchors_that_do_not_fit_change(capsys: pytest.CaptureFixture[str]) -> None:
    """At 640 pixels labels are 320 and 512 pixels wide, the largest anchor is 56."""
    model, data, settings = tiny(), data_of([0.5, 0.8]), config(imgsz=640)
    changed = with_fitting_anchors(model, data, settings)
    assert fit(label_sizes(data, 640), anchors_of(model), 4).recall == 0
    assert fit(label_sizes(data, 640), anchors_of(changed), 4).recall == 1
    said = capsys.readouterr().out
    assert said.startswith("anchors: best possible recall 0.0000, 0.00 anchors a label; changed (--noautoanchor keeps")
    assert said.count("\n") == 1
    again = with_fitting_anchors(model, data, settings)
    np.testing.assert_array_equal(anchors_of(again), anchors_of(changed))
    written = [side for level in changed.spec.to_mapping()["anchors"] for side in level]
    np.testing.assert_allclose(written, anchors_of(changed).ravel(), rtol=1e-6)


def test_just_at_the_published_limit_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """49 of 50 labels matched is .98: searched. 50 of 51: left alone."""
    for num_good, searched in ((49, True), (50, False)):
        with_fitting_anchors(tiny(), data_of([0.3] * num_good + [0.004]), config(imgsz=64))
        assert ("they fit" not in capsys.readouterr().out) == searched


def test_found_ones_that_recall_no_more_are_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """Sides below 2 pixels shape nothing, so they stay unmatched."""
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.3] * 9 + [0.004]), config()) is model
    said = capsys.readouterr().out
    assert said.startswith("anchors: they stay, best possible recall 0.9000")
    assert said.endswith("a search found none with more recall\n")


def test_labels_too_small_to_search_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.004]), config()) is model
    assert "the labels are too small to find better ones" in capsys.readouterr().out


def test_noautoanchor(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.8]), config(imgsz=640, noautoanchor=True)) is model
    assert capsys.readouterr().out == ""


def test_a_number_of_anchors_is_always_searched(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny(anchors=2)
    data = data_of([0.05, 0.1])
    found = with_fitting_anchors(model, data, config())
    assert not found.spec.anchors_to_find
    assert found.anchors.shape == (3, 2, 2)
    assert fit(label_sizes(data, 64), anchors_of(found), 4).recall == 1
    assert capsys.readouterr().out.startswith("anchors: [[")
    with pytest.raises(UserError, match=r"`anchors: 2` asks for anchors .* --noautoanchor forbids"):
        with_fitting_anchors(model, data, config(noautoanchor=True))
    with pytest.raises(UserError, match="no label has a side of 2 pixels or more"):
        with_fitting_anchors(model, data_of([0.004]), config())


def test_recipe_v3_changes_none_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of([0.8])
    model = build_model(load_spec("yolov3-tiny", 2).with_anchors([[2, 2], [3, 3]]), data.names)
    assert with_fitting_anchors(model, data, config(imgsz=640)) is model
    assert with_fitting_anchors(tiny(), data, config(imgsz=640, loss={"recipe": "v3"})).strides == tiny().strides
    assert capsys.readouterr().out == ""
    asked = build_model(model.spec.with_anchors(2), data.names)
    assert anchors_of(with_fitting_anchors(asked, data, config(imgsz=640))).min() > 300


def test_levels() -> None:
    anchors = np.arange(1, 13, dtype=np.float32).reshape(6, 2)
    assert in_levels(anchors, 3) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    with pytest.raises(UserError, match="6 anchors cannot be spread over the 4 levels of the model; take 4 or 8"):
        in_levels(anchors, 4)
