"""What a runtime is not given: operators of no standard, data outside of the folder, numbers that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.errors import UserError
from boxwright.inference.admission import check_ncnn, check_onnx, check_openvino

CONSTANT = (
    '<layer id="0" name="w" type="Const" version="{version}"><data element_type="f32" shape="{shape}" {place}/></layer>'
)
NCNN = "7767517\n3 3\nInput in0 0 1 a\nConvolution c 1 1 a b 0=2 1=1 6=6\nSwish s 1 1 b c\n"


def write_onnx(path: Path, weight: TensorProto, node: Any = None) -> Path:
    node = node or helper.make_node("Add", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("other.maker", 1)]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight]), opset_imports=imports)
    path.write_bytes(model.SerializeToString())
    return path


def external(**entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_onnx_of_the_standard_is_taken(tmp_path: Path) -> None:
    check_onnx(onnx, write_onnx(tmp_path / "a.onnx", numpy_helper.from_array(np.ones(4, np.float32), "w")))
    (tmp_path / "weights").write_bytes(bytes(32))
    check_onnx(onnx, write_onnx(tmp_path / "b.onnx", external(location="weights", offset=16, length=16)))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "/etc/hostname"}, "outside of its folder"),
        ({"location": "../weights"}, "outside of its folder"),
        ({"location": "a\\..\\..\\weights"}, "outside of its folder"),
        ({"location": "link"}, "outside of its folder"),
        ({}, "outside of its folder"),
        ({"location": "missing"}, "which is no file"),
        ({"location": "weights", "offset": 0, "length": 999}, "beyond the end"),
        ({"location": "weights", "offset": -8}, "beyond the end"),
        ({"location": "weights", "offset": "x"}, "no number"),
        ({"location": "weights", "offset": 31}, "claims 4 numbers in 1 bytes"),
    ],
)
def test_external_data_lies_beside_the_file(tmp_path: Path, entries: dict[str, object], says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "weights", folder / "weights"):
        path.write_bytes(bytes(32))
    (folder / "link").symlink_to(tmp_path / "weights")
    with pytest.raises(UserError, match=says):
        check_onnx(onnx, write_onnx(folder / "a.onnx", external(**entries)))


def test_operators_of_no_standard_and_numbers_that_are_not_there(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    foreign = helper.make_node("Odd", ["x", "w"], ["y"], domain="other.maker")
    inner = helper.make_graph([foreign], "inner", [], [])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    for node in (foreign, branch):
        with pytest.raises(UserError, match=r"the operator other\.maker\.Odd, none of ONNX"):
            check_onnx(onnx, write_onnx(tmp_path / "a.onnx", weight, node))
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20], raw_data=b"1234")
    with pytest.raises(UserError, match="claims 1099511627776 numbers in 4 bytes"):
        check_onnx(onnx, write_onnx(tmp_path / "a.onnx", huge))
    (tmp_path / "a.onnx").write_bytes(b"\0\1nothing")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        check_onnx(onnx, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"version": "extension"}, "'extension' is none of OpenVINO"),
        ({"place": 'offset="8" size="16"'}, "not in model.bin, of 16 bytes"),
        ({"place": 'offset="-1" size="16"'}, "not in model.bin"),
        ({"place": 'offset="a" size="16"'}, "no number"),
        ({"shape": "1000,1000"}, "not in model.bin"),
        ({"head": '<!DOCTYPE net [<!ENTITY a "b">]>'}, "document type or an entity"),
        ({"root": "other"}, "begins with <other>"),
        ({"depth": 99}, "nested too deeply"),
    ],
)
def test_openvino(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    parts = {"version": "opset1", "shape": "2, 2", "place": 'offset="0" size="16"'} | change
    depth, root = change.get("depth", 0), change.get("root", "net")
    layers = "<a>" * depth + CONSTANT.format_map(parts) + "</a>" * depth
    (tmp_path / "model.xml").write_text(f"{change.get('head', '')}<{root}><layers>{layers}</layers></{root}>")
    (tmp_path / "model.bin").write_bytes(bytes(16))
    if not says:
        check_openvino(tmp_path / "model.xml")
        return
    with pytest.raises(UserError, match=says):
        check_openvino(tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", ""),
        ("7767517", "7767518", "does not begin with 7767517"),
        ("3 3", "4 3", "counts of layers and values"),
        ("3 3", "3 99999999", "counts of layers and values"),
        ("6=6", "6=999999", "more weights than the 32 bytes"),
        ("1 1 b c", "1 1 z c", "reads 'z', which no layer before it writes"),
        ("1 1 b c", "9 9 b c", "which"),
        ("1 1 b c", "1", "malformed"),
        ("Swish", "Sw\xefsh", "no text"),
        ("Swish s 1 1 b c", "MemoryData s 0 1 c 0=1000 1=1000", "more weights"),
    ],
)
def test_ncnn(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "m.param").write_text(NCNN.replace(old, new, 1) if old else NCNN, encoding="latin1")
    (tmp_path / "m.bin").write_bytes(bytes(32))
    if not says:
        check_ncnn(tmp_path / "m.param", tmp_path / "m.bin")
        return
    with pytest.raises(UserError, match=says):
        check_ncnn(tmp_path / "m.param", tmp_path / "m.bin")
