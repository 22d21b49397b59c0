"""Files that a prediction leaves behind."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.drawing.canvas import write_image
from boxwright.errors import UserError
from boxwright.inference.streams import Frame
from boxwright.yolo.result import Result, Speed
from boxwright.yolo.settings import PredictConfig
from boxwright.yolo.verbs.predict import PredictionWriter

IMAGE = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)


def result(names: tuple[str, ...] = ("cat", "dog"), empty: bool = False) -> Result:
    boxes = np.array([[20, 10, 120, 60], [150.5, 80, 200, 100]], np.float32)
    scores, labels = np.array([0.75, 0.5], np.float32), np.array([1, 0])
    keep = slice(0, 0) if empty else slice(None)
    return Result(boxes[keep], scores[keep], labels[keep], names, None, (100, 200), (320, 640), Speed(1, 2, 3))


def frame(path: str = "photo.png", number: int | None = None) -> Frame:
    return Frame(IMAGE, Path(path), number, 10.0, "image 1/1")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)).replace(os.sep, "/") for p in folder.rglob("*") if p.is_file())


def write(folder: Path, frames: list[Frame], found: Result | None = None, **settings: Any) -> list[str]:
    with closing(PredictionWriter(folder, PredictConfig(**settings), ("cat", "dog"))) as writer:
        for one in frames:
            writer.save(one, replace(result() if found is None else found, path=one.path, number=one.number))
    return files(folder)


def test_annotated_image_keeps_its_name(tmp_path: Path) -> None:
    assert write(tmp_path, [frame("größe.png"), frame("b.JPEG"), frame("c.pfm")]) == ["b.jpeg", "c.jpg", "größe.png"]
    image = cv2.imdecode(np.fromfile(tmp_path / "größe.png", np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == IMAGE.shape
    assert not np.array_equal(image, IMAGE)


def test_nosave_and_hidden_labels(tmp_path: Path) -> None:
    assert write(tmp_path, [frame()], nosave=True) == []
    drawings = []
    for i, settings in enumerate([{}, {"hide_labels": True}, {"hide_conf": True}, {"line_thickness": 6}]):
        (tmp_path / str(i)).mkdir()
        write(tmp_path / str(i), [frame()], **settings)
        drawings.append((tmp_path / str(i) / "photo.png").read_bytes())
    assert len(set(drawings)) == 4


def test_label_files(tmp_path: Path) -> None:
    assert write(tmp_path, [frame()], save_txt=True, nosave=True) == ["classes.txt", "labels/photo.txt"]
    assert (tmp_path / "labels" / "photo.txt").read_text() == "1 0.35 0.35 0.5 0.5\n0 0.87625 0.9 0.2475 0.2\n"


def test_label_files_with_scores_for_video_frames(tmp_path: Path) -> None:
    written = write(tmp_path, [frame("v.mp4", 1), frame("v.mp4", 2)], save_txt=True, save_conf=True, nosave=True)
    assert written == ["classes.txt", "labels/v_1.txt", "labels/v_2.txt"]
    assert (tmp_path / "labels" / "v_2.txt").read_text().splitlines()[0] == "1 0.35 0.35 0.5 0.5 0.75"


def test_no_boxes_no_label_file(tmp_path: Path) -> None:
    assert write(tmp_path, [frame()], result(empty=True), save_txt=True, save_crop=True) == ["classes.txt", "photo.png"]


def test_crops_are_a_little_larger_and_cut_at_the_border(tmp_path: Path) -> None:
    written = write(tmp_path, [frame()], save_crop=True, nosave=True)
    assert written == ["crops/cat/photo_1.jpg", "crops/dog/photo_0.jpg"]
    inner = cv2.imread(str(tmp_path / "crops/dog/photo_0.jpg"))
    assert inner.shape == (61, 112, 3)  # 50 * 1.02 + 10 and 100 * 1.02 + 10, whole pixels
    at_border = cv2.imread(str(tmp_path / "crops/cat/photo_1.jpg"))
    assert at_border.shape[0] == 100 - 74


@pytest.mark.parametrize("name", ["../../outside", "/etc/x", "..", "a/b\\c", ""])
def test_class_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, [frame()], result((name, "dog")), save_crop=True, nosave=True)
    assert len(files(folder / "crops")) == 2
    assert files(tmp_path) == [f"run/{file}" for file in files(folder)]


def test_json(tmp_path: Path) -> None:
    write(tmp_path, [frame("000000000139.jpg"), frame("v.mp4", 4)], save_json=True, nosave=True)
    rows = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert rows[0] == {
        "image_id": 139,
        "file_name": "000000000139.jpg",
        "category_id": 1,
        "category": "dog",
        "bbox": [20.0, 10.0, 100.0, 50.0],
        "score": 0.75,
    }
    assert rows[2]["frame"] == 4
    assert len(rows) == 4


def test_equal_names_from_two_folders_do_not_overwrite(tmp_path: Path) -> None:
    frames = [frame("x/a.png"), frame("y/a.png"), frame("y/a.jpg")]
    written = write(tmp_path, frames, save_txt=True)
    assert written == ["a.png", "a_2.png", "a_3.jpg", "classes.txt", "labels/a.txt", "labels/a_2.txt", "labels/a_3.txt"]


def test_videos(tmp_path: Path) -> None:
    frames = [frame("x/v.avi", i) for i in (1, 2, 3)] + [frame("y/v.avi", i) for i in (1, 2)]
    assert write(tmp_path, frames) == ["v.mp4", "v_2.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == 200


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*no such file or directory"):
        write_image(tmp_path / "gone" / "a.png", IMAGE)
