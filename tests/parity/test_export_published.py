"""The published yolov5n, exported: same boxes on real images, same AP, found again by ONNX Runtime and numpy alone."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import boxwright as bw
from boxwright.yolo.export import YoloAgreement
from tests.golden import SHARED

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_numpy.py"
VAL164 = SHARED / "data" / "coco_val164" / "coco_val164.yaml"
KINDS = ("onnx", "torchscript", "openvino")


@pytest.fixture(scope="module")
def files(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, YoloAgreement]:
    weights = tmp_path_factory.mktemp("exported") / "yolov5n.pt"
    shutil.copy(shared / "weights" / "yolov5n.pt", weights)
    return bw.export(weights, include=list(KINDS), source=str(VAL164.parent / "images" / "val2017"))


def test_boxes_on_real_images_and_the_published_ap(files: dict[Path, YoloAgreement], tmp_path: Path) -> None:
    assert len(files) == len(KINDS)
    for path, agreement in files.items():
        assert agreement.box_pixels is not None
        assert agreement.box_pixels < 1e-3
        assert agreement.num_same == agreement.num_detections > 30
        assert agreement.num_extra == 0
        found = bw.val(path, VAL164, workers=0, noplots=True, project=str(tmp_path))
        assert found.coco is not None
        assert found.coco[0] == pytest.approx(0.308, abs=1e-3), path
        assert found.coco[1] == pytest.approx(0.492, abs=1e-3), path


def test_example_without_pytorch(files: dict[Path, YoloAgreement], shared: Path) -> None:
    for name in ("bus", "zidane"):
        check_example(next(iter(files)), name, shared)


def check_example(file: Path, name: str, shared: Path) -> None:
    photo = shared / "weights" / f"{name}.jpg"
    recorded = json.loads((shared / "weights" / "golden_outputs.json").read_text())[name]
    expected = np.array(recorded["detections_xyxy_conf_cls"])
    blocked = "import sys; sys.modules['torch'] = sys.modules['boxwright'] = None; "
    run = f"import runpy; sys.argv = {[str(EXAMPLE), str(file), str(photo)]!r}; "
    code = f"{blocked}{run}runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    names = bw.load(shared / "weights" / "yolov5n.pt", device="cpu").names
    rows = [line.rsplit(" ", 5) for line in printed.splitlines()]
    assert [names.index(row[0]) for row in rows] == expected[:, 5].astype(int).tolist()
    found = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(found[:, 0], expected[:, 4], rtol=0, atol=0.005)
    np.testing.assert_allclose(found[:, 1:], expected[:, :4], rtol=0, atol=1)


@pytest.mark.parametrize(("asked", "shape"), [((), (1, 3, 128, 64)), ((64,), (1, 3, 64, 32))])
def test_example_takes_the_size_of_the_file(asked: tuple[int, ...], shape: tuple[int, ...]) -> None:
    info = {"names": ["a"], "output": "rows", "input_size": None, "strides": [8, 16, 32], "imgsz": [128, 192]}
    seen: list[tuple[int, ...]] = []

    def run(_: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(inputs["images"].shape)
        return [np.zeros((1, 0, 6), np.float32)]

    meta = SimpleNamespace(custom_metadata_map={"boxwright": json.dumps(info)})
    session = SimpleNamespace(get_modelmeta=lambda: meta, run=run)
    detect = runpy.run_path(str(EXAMPLE))["detect"]
    detect(session, np.zeros((200, 100, 3), np.float32), asked, 0.25, 0.45)
    assert seen == [shape]
