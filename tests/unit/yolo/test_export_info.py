"""What an exported file says about itself is checked before anything is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from boxwright.errors import UserError
from boxwright.inference.exported import ExportedFile
from boxwright.yolo.export import ExportedNetwork, YoloInfo

GOOD = {"names": ["a", "b"], "strides": [8, 16, 32], "input_size": None, "output": "rows"}


def test_good_metadata_are_read() -> None:
    assert YoloInfo.from_json(json.dumps(GOOD), Path("x.onnx")).names == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": []}, "0 class names"),
        ({"strides": []}, "its strides are"),
        ({"strides": [10**8]}, "its strides are"),
        ({"strides": [0]}, "its strides are"),
        ({"input_size": [-1, -1]}, "-1 pixels wide"),
        ({"input_size": [10**6, 10**6]}, "1000000 pixels wide"),
        ({"imgsz": [0, 0]}, "0 pixels wide"),
        ({"batch": 10**9}, "1000000000 at a time"),
        ({"output": "other"}, "its output is 'other'"),
        ({"output": "maps"}, "do not agree"),
        ({"release": "v9"}, "'v9' is not known"),
        ({"names": 3}, "not an exported YOLO network"),
    ],
)
def test_wrong_metadata_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as told:
        YoloInfo.from_json(json.dumps(GOOD | changes), Path("x.onnx"))
    assert "x.onnx" in str(told.value)


@pytest.mark.parametrize(
    ("output", "rows"),
    [
        ("detections", torch.zeros(1, 1, 7)),
        ("detections", torch.full((1, 7), 1e12)),
        ("detections", torch.full((1, 7), -1.0)),
        ("rows", torch.zeros(7)),
        ("rows", torch.zeros(1, 1, 3)),
        ("rows", None),
    ],
)
def test_outputs_of_another_shape_are_told(
    output: str, rows: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object) -> dict[str, torch.Tensor]:
        if rows is None:
            raise RuntimeError("the network\nfails")
        return {"rows": rows}

    info = json.dumps(GOOD | {"output": output})
    monkeypatch.setattr("boxwright.yolo.export.open_exported", lambda *_: ExportedFile(run, info))
    network = ExportedNetwork("x.onnx", torch.device("cpu"))
    with pytest.raises(UserError, match=r"x\.onnx"):
        network(torch.zeros(1, 3, 64, 64))


class _Constant(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("rows", torch.full((1, 1, 7), value))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.rows.expand(images.shape[0], -1, -1)


@pytest.mark.parametrize("value", [0.5, float("inf"), float("nan")])
def test_rows_that_are_not_finite_are_told_once(value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "x.torchscript"
    torch.jit.save(torch.jit.script(_Constant(value)), file, _extra_files={"boxwright": json.dumps(GOOD).encode()})
    network = ExportedNetwork(file, torch.device("cpu"))
    for _ in range(2):
        network(torch.zeros(1, 3, 64, 64))
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" gives numbers that are not finite")[0] for line in told] == [str(file)] * (value != 0.5)


def test_class_names_of_a_file_stay_in_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    info = json.dumps(GOOD | {"names": ["a", "b\nPASS\x1b[1m"]})
    monkeypatch.setattr("boxwright.yolo.export.open_exported", lambda *_: ExportedFile(dict, info))
    assert ExportedNetwork("x.onnx", torch.device("cpu")).names == ("a", r"b\x0aPASS\x1b[1m")


@pytest.mark.parametrize("name", ["x.onnx", "x.torchscript", "x.xml", "x_openvino_model/x.bin", "x_ncnn_model/x.param"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    os.mkfifo(file)
    with pytest.raises(UserError, match="it is a pipe, not a file"):
        ExportedNetwork(file if file.parent == tmp_path else file.parent, torch.device("cpu"))


@pytest.mark.parametrize(
    ("second", "says"),
    [("0=8 1=3 2=5 6=576", "do not fit together$"), ("0=8 1=3 11=1 6=576", "do not fit together, and NCNN crashes")],
)
def test_layers_of_ncnn_that_do_not_fit_together(second: str, says: str, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    folder = tmp_path / "x_ncnn_model"
    folder.mkdir()
    layers = ("in0 a 0=8 1=3 4=1 6=216", f"a b {second}", "b out0 0=8 1=3 4=1 6=576")
    rows = "\n".join(f"Convolution c{i} 1 1 {layer}" for i, layer in enumerate(layers))
    (folder / "x.param").write_text(f"7767517\n4 4\nInput i 0 1 in0\n{rows}\n")
    (folder / "x.bin").write_bytes(bytes(4 * (216 + 576 + 576 + 12)))
    info = GOOD | {"strides": [1], "imgsz": [8, 8], "anchors": [[[1.0, 1.0]]], "output": "maps"}
    info["codings"] = [{"scale_xy": 2.0, "squared": True}]
    (folder / "boxwright.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=says):
        ExportedNetwork(folder, torch.device("cpu"))(torch.zeros(1, 3, 8, 8))
