"""Graphs written with less: constant reshapes for computed ones, and older opsets, meaning the same."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from boxwright.errors import UserError
from boxwright.inference.onnx_graph import fix_reshapes, lower_opset

FLOAT = TensorProto.FLOAT


def graph(
    nodes: list[Any], shape: list[Any], out: list[Any], constants: dict[str, Any], between: dict[str, list[Any]]
) -> Any:
    """A graph of opset 18 from x to y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info(name, FLOAT, sizes) for name, sizes in between.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: Any, x: np.ndarray[Any, Any]) -> Any:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def computed_reshape(out: list[Any], sizes: list[str], **attributes: Any) -> Any:
    """(B, 6, H, W) reshaped to sizes that are gathered from the shape of x; names of constants are their numbers."""
    nodes = [helper.make_node("Shape", ["x"], ["shape"])]
    parts: list[str] = []
    for i, size in enumerate(sizes):
        if size in ("B", "H", "W"):
            nodes.append(helper.make_node("Gather", ["shape", f"at_{'B.HW'.index(size)}"], [f"part{i}"]))
        parts.append(f"part{i}" if size in ("B", "H", "W") else f"n{size}")
    nodes.append(helper.make_node("Concat", parts, ["sizes"], axis=0))
    nodes.append(helper.make_node("Reshape", ["x", "sizes"], ["y"], **attributes))
    constants = {f"at_{i}": np.array([i]) for i in range(4)} | {f"n{n}": np.array([n]) for n in (-1, 2, 3, 6)}
    return graph(nodes, ["B", 6, "H", "W"], out, constants, {})


def test_a_computed_reshape_becomes_constant() -> None:
    model = computed_reshape(["B", 2, 3, "N"], ["B", "2", "3", "-1"], allowzero=1)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    fix_reshapes(onnx, model)
    assert [node.op_type for node in model.graph.node] == ["Reshape"]  # nothing asks for a shape any more
    for shape in ((1, 6, 2, 5), (3, 6, 4, 1)):
        x = np.random.default_rng(0).random(shape, np.float32)
        np.testing.assert_array_equal(run(model, x), run(before, x))


def test_two_unknown_sizes_stay_computed() -> None:
    model = computed_reshape(["B", "H2", "W2"], ["6", "-1", "W"])
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "Q"
    fix_reshapes(onnx, model)
    assert "Shape" in [node.op_type for node in model.graph.node]


def test_an_older_opset_means_the_same() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("ReduceMax", ["a", "last"], ["m"], keepdims=0),
        helper.make_node("Resize", ["b", "", "twice"], ["r"], mode="nearest", nearest_mode="floor", antialias=0),
        helper.make_node("ReduceMax", ["r", "last"], ["n"], keepdims=0),
        helper.make_node("Concat", ["m", "n"], ["y"], axis=2),
    ]
    constants = {"last": np.array([-1]), "twice": np.array([1, 1, 2, 2], np.float32)}
    model = graph(nodes, ["B", 4, 3, 3], ["B", 2, 9], constants, {})
    x = np.random.default_rng(0).random((2, 4, 3, 3), np.float32)
    expected = run(model, x)
    for opset, ir_version in ((18, 8), (17, 8), (13, 7), (12, 7), (11, 6)):
        older = onnx.ModelProto()
        older.CopyFrom(model)
        lower_opset(onnx, older, opset)
        assert (older.opset_import[0].version, older.ir_version) == (opset, ir_version)
        np.testing.assert_array_equal(run(older, x), expected)


@pytest.mark.parametrize("kind", ["Mish", "HardSwish"])
def test_what_the_standard_defines_by_older_words_is_written_with_them(kind: str) -> None:
    nodes = [helper.make_node(kind, ["x"], ["m"]), helper.make_node(kind, ["m"], ["y"])]
    model = graph(nodes, [1, 1, 2, 2], [1, 1, 2, 2], {}, {})
    x = np.random.default_rng(0).standard_normal((1, 1, 2, 2), np.float32)
    expected = run(model, x)
    lower_opset(onnx, model, 12)
    assert kind not in [node.op_type for node in model.graph.node]
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("BitwiseNot", ["x"], ["y"]), "no operator BitwiseNot"),
        (helper.make_node("Resize", ["x", "", "twice"], ["y"], antialias=1), "Resize has no antialias"),
    ],
)
def test_what_an_old_opset_has_no_words_for_is_refused(node: Any, reason: str) -> None:
    model = graph([node], [1, 1, 2, 2], [1, 1, "H", "W"], {"twice": np.array([1, 1, 2, 2], np.float32)}, {})
    with pytest.raises(UserError, match=rf"--opset 12 is too old for this network: .*{reason}"):
        lower_opset(onnx, model, 12)
