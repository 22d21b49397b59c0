"""What a result is: arrays, boxes one by one, pictures, and the forms of other tools."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from boxwright.data.images import read_image
from boxwright.drawing.canvas import write_image
from boxwright.errors import UserError
from boxwright.yolo import result as module
from boxwright.yolo.result import Result, Speed

PICTURE = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
BOXES = np.array([[20, 10, 120, 60], [150.5, 80, 200, 100], [0, 0, 10, 10]], np.float32)


def made(path: Path | None = None, **more: Any) -> Result:
    scores, labels = np.array([0.75, 0.5, 0.25], np.float32), np.array([1, 0, 1])
    speed = Speed(1, 2.34, 3)
    return Result(BOXES, scores, labels, ("traffic light", "dog"), path, (100, 200), (320, 640), speed, **more)


def test_boxes_one_by_one() -> None:
    found = list(made())
    assert [(one.name, one.label, one.score) for one in found] == [
        ("dog", 1, 0.75),
        ("traffic light", 0, 0.5),
        ("dog", 1, 0.25),
    ]
    assert found[1].box.tolist() == [150.5, 80, 200, 100]
    assert made()[-1].score == 0.25
    with pytest.raises(IndexError):
        made()[3]


def test_a_part_is_a_result() -> None:
    whole = made()
    for part in (whole[whole.scores > 0.3], whole[:2], whole[[0, 1]]):
        assert isinstance(part, Result)
        assert part.labels.tolist() == [1, 0]
    assert len(whole[[]]) == 0
    assert whole[np.int64(1)].name == "traffic light"


def test_other_forms_of_boxes() -> None:
    result = made()
    np.testing.assert_allclose(result.boxes_cxcywh[0], [70, 35, 100, 50])
    np.testing.assert_allclose(result.boxes_norm[0], [0.1, 0.1, 0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(result.boxes_cxcywh_norm[0], [0.35, 0.35, 0.5, 0.5], rtol=1e-6)


def test_it_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert repr(made(Path("a.jpg"))) == "<Result of a.jpg, 200x100: 1 traffic light, 2 dog>"
    assert repr(made()[:0]) == "<Result of an array, 200x100: nothing found>"
    made(Path("v.mp4"), number=7).print()
    assert capsys.readouterr().out == "v.mp4, frame 7, 200x100: 1 traffic light, 2 dog, 2.3 ms\n"


@pytest.mark.parametrize(("name", "here"), [("pandas", "to_dataframe()"), ("xywhn", "boxes_cxcywh_norm")])
def test_names_of_other_tools_are_answered(name: str, here: str) -> None:
    assert not hasattr(made(), name)
    with pytest.raises(AttributeError, match=f"it is {here}".replace("(", r"\(").replace(")", r"\)")):
        getattr(made(), name)


def test_every_answer_names_something_that_is_there() -> None:
    for name, here in module._OTHER_NAMES.items():
        assert not hasattr(made(), name)
        assert hasattr(made(), here.partition("(")[0].partition(",")[0]), here


def test_coco_form() -> None:
    rows = made(Path("x/000042.jpg")).to_coco()
    assert rows[0] == {
        "image_id": 42,
        "file_name": str(Path("x/000042.jpg")),
        "category_id": 1,
        "category": "dog",
        "bbox": [20.0, 10.0, 100.0, 50.0],
        "score": 0.75,
    }
    assert made(Path("street.jpg")).to_coco()[0]["image_id"] == "street"
    rows = made(Path("street.jpg")).to_coco(7, [90, 18])
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 18), (7, 90), (7, 18)]


def test_label_studio_form() -> None:
    task = made(Path("a.jpg")).to_label_studio("/data/local-files/?d=a.jpg")
    assert task["data"] == {"image": "/data/local-files/?d=a.jpg"}
    (prediction,) = task["predictions"]
    mark = prediction["result"][0]
    assert (mark["from_name"], mark["to_name"], mark["type"]) == ("label", "image", "rectanglelabels")
    assert (mark["original_width"], mark["original_height"]) == (200, 100)
    assert mark["value"].pop("rectanglelabels") == ["dog"]
    expected = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0}
    assert mark["value"] == pytest.approx(expected, rel=1e-5)
    assert made()[:0].to_label_studio("a")["predictions"][0]["result"] == []


def test_tables_and_detections_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins that keep what they are given; docs/python.md runs the real ones where they are installed."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=dict))
    table = made().to_dataframe()
    assert list(table) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert table["name"].tolist() == ["dog", "traffic light", "dog"]
    np.testing.assert_array_equal(table["ymax"], BOXES[:, 3])
    found = made().to_supervision()
    np.testing.assert_array_equal(found["xyxy"], BOXES)
    np.testing.assert_array_equal(found["confidence"], made().scores)
    np.testing.assert_array_equal(table["confidence"], made().scores)
    assert found["class_id"].tolist() == [1, 0, 1]
    assert found["data"]["class_name"].tolist() == ["dog", "traffic light", "dog"]


@pytest.mark.parametrize(("method", "library"), [("to_dataframe", "pandas"), ("to_supervision", "supervision")])
def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, method: str, library: str) -> None:
    known = importlib.import_module

    def without(name: str) -> ModuleType:
        if name == library:
            raise ImportError
        return known(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UserError, match=rf"{method}\(\) needs {library}: pip install {library}"):
        getattr(made(), method)()


def test_crops(tmp_path: Path) -> None:
    result = made(Path("photo.png"), image=PICTURE)
    crops = result.crop(folder=tmp_path)
    assert [crop.shape for crop in crops] == [(61, 112, 3), (26, 55, 3), (15, 15, 3)]
    np.testing.assert_array_equal(crops[2], PICTURE[:15, :15])
    assert sorted(str(p.relative_to(tmp_path).as_posix()) for p in tmp_path.rglob("*.jpg")) == [
        "dog/photo_0.jpg",
        "dog/photo_2.jpg",
        "traffic light/photo_1.jpg",
    ]


def test_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photo.png", PICTURE[..., ::-1])
    result = made(tmp_path / "photo.png")
    assert result.save("drawn.jpg") == Path("drawn.jpg")
    assert result.save("some/folder") == Path("some/folder/photo.png")
    assert [result.save() for _ in range(2)] == [Path(f"runs/predict/{run}/photo.png") for run in ("exp", "exp2")]
    np.testing.assert_array_equal(read_image(Path("some/folder/photo.png"))[..., ::-1], result.draw())
    with pytest.raises(UserError, match="is the image itself"):
        result.save(tmp_path)
    assert made(Path("v.mp4"), number=3, image=PICTURE).save("frames").name == "v_3.jpg"


def test_pixels_that_are_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"comes from frame 3 of v\.mp4: give draw\(\) the image \(stream=True"):
        made(Path("v.mp4"), number=3).draw()
    with pytest.raises(UserError, match=r"comes from an array: give crop\(\) the image"):
        made().crop()
    with pytest.raises(UserError, match="needs the image of this result, 200x100"):
        made().draw(PICTURE[:50])


def test_show(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(module.ImageShow, "show", lambda picture, title: shown.append((picture, title)) or True)
    made(Path("a.jpg"), image=PICTURE).show()
    assert shown[0][1] == "a"
    assert shown[0][0].size == (200, 100)
    monkeypatch.setattr(module.ImageShow, "show", lambda picture, title: False)
    with pytest.raises(UserError, match="no program to show pictures"):
        made(image=PICTURE).show()
