"""Networks to ONNX: any batch and image size in one graph, NMS behind it where it is wanted, or int8 weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.inference.exported import DETECTIONS, METADATA_KEY, ROWS, ExportInfo, require
from boxwright.yolo.export_rows import ExportRows

OPSET = 20  # what ONNX Runtime and OpenVINO of the last two years both read
_LARGEST = 1024  # images in a batch, and strides in a side, that the graph promises to take


def write_onnx(rows: ExportRows, path: Path, info: ExportInfo, images: Tensor) -> None:
    """Export by torch.export.

    Args:
        rows: the network.
        path: written to.
        info: goes into the file's metadata. Its input_size fixes height and width; the batch is always free.
        images: (B, 3, H, W) example with B > 1.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx")
    dims: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=_LARGEST)}
    if info.input_size is None:
        stride = max(info.strides)
        dims |= {i: stride * torch.export.Dim(name, min=1, max=_LARGEST) for i, name in ((2, "height"), (3, "width"))}
    _save(onnx, trace(rows, {"images": images}, {"images": dims}, [ROWS]), path, info)


def trace(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Mapping[str, dict[int, Any]], outputs: Sequence[str]
) -> Any:
    """The ONNX graph of a module, by torch.export.

    Args:
        module: in eval mode.
        inputs: examples by name, in the order of `forward`.
        dynamic: free dimensions of each.
        outputs: names, in the order in which `forward` returns them.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    require("onnx")
    require("onnxscript")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=dict(dynamic),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def append_nms(
    path: Path, info: ExportInfo, *, score_threshold: float, iou_threshold: float, max_detections: int
) -> None:
    """Put the standard NonMaxSuppression operator behind the rows of a file: one class a box, per class suppression.

    Args:
        path: an ONNX file with output "rows"; it is changed.
        info: with output "detections".
        score_threshold: lowest objectness times class score.
        iou_threshold: overlap above which the weaker box goes.
        max_detections: most boxes of a class in an image.
    """
    onnx = require("onnx")
    model = onnx.load(str(path))
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants: dict[str, Any] = {
        "nms/from_0": np.array([0]),
        "nms/from_4": np.array([4]),
        "nms/from_5": np.array([5]),
        "nms/end": np.array([2**31 - 1]),
        "nms/last": np.array([-1]),
        "nms/image_and_box": np.array([0, 2]),
        "nms/class": np.array([1]),
        "nms/zero": np.array(0, np.float32),
        "nms/most": np.array(max_detections),
        "nms/iou": np.array(iou_threshold, np.float32),
        "nms/score": np.array(score_threshold, np.float32),
    }
    model.graph.initializer.extend(array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            node("Slice", [ROWS, "nms/from_0", "nms/from_4", "nms/last"], ["nms/boxes"]),
            node("Slice", [ROWS, "nms/from_4", "nms/from_5", "nms/last"], ["nms/objectness"]),
            node("Slice", [ROWS, "nms/from_5", "nms/end", "nms/last"], ["nms/classes"]),
            node("Mul", ["nms/objectness", "nms/classes"], ["nms/scores"]),
            node("ReduceMax", ["nms/scores", "nms/last"], ["nms/best"], keepdims=1),
            node("Equal", ["nms/scores", "nms/best"], ["nms/is_best"]),
            node("Where", ["nms/is_best", "nms/scores", "nms/zero"], ["nms/one_class"]),
            node("Transpose", ["nms/one_class"], ["nms/by_class"], perm=[0, 2, 1]),
            node(
                "NonMaxSuppression",
                ["nms/boxes", "nms/by_class", "nms/most", "nms/iou", "nms/score"],
                ["nms/selected"],
                center_point_box=1,
            ),
            node("Gather", ["nms/selected", "nms/image_and_box"], ["nms/places"], axis=1),
            node("GatherND", ["nms/boxes", "nms/places"], ["nms/kept_boxes"]),
            node("GatherND", ["nms/best", "nms/places"], ["nms/kept_scores"]),
            node("Gather", ["nms/selected", "nms/from_0"], ["nms/images"], axis=1),
            node("Gather", ["nms/selected", "nms/class"], ["nms/labels"], axis=1),
            node("Cast", ["nms/images"], ["nms/image_numbers"], to=onnx.TensorProto.FLOAT),
            node("Cast", ["nms/labels"], ["nms/class_numbers"], to=onnx.TensorProto.FLOAT),
            node(
                "Concat",
                ["nms/image_numbers", "nms/kept_boxes", "nms/kept_scores", "nms/class_numbers"],
                [DETECTIONS],
                axis=1,
            ),
        ]
    )
    del model.graph.output[:]
    output = onnx.helper.make_tensor_value_info(DETECTIONS, onnx.TensorProto.FLOAT, ["found", 7])
    model.graph.output.append(output)
    _save(onnx, model, path, info)


def quantise(
    source: Path, path: Path, info: ExportInfo, batches: Iterator[Tensor], float_layers: Sequence[str]
) -> None:
    """Turn the convolutions of an ONNX file into int8 by static quantisation; decoding stays in float.

    Biases stay in float, too: as int32 in the scale of small weights they overflow.

    Args:
        source: the float file.
        path: written to.
        info: goes into the new file.
        batches: (B, 3, H, W) images in 0..1 that show the range of activations.
        float_layers: convolutions whose parameters' names begin so stay in float.
    """
    onnx, quantization = require("onnx"), require("onnxruntime.quantization")
    prefixes = tuple(f"network.{name}" for name in float_layers)
    convolutions = [node for node in onnx.load(str(source)).graph.node if node.op_type == "Conv"]
    kept = [node.name for node in convolutions if any(name.startswith(prefixes) for name in node.input)]

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            images = next(batches, None)
            return None if images is None else {"images": images.numpy()}

    with _quiet():
        quantization.quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            extra_options={"QuantizeBias": False},
        )
    _save(onnx, onnx.load(str(path)), path, info)


def _save(onnx: Any, model: Any, path: Path, info: ExportInfo) -> None:
    save_onnx(onnx, model, path, info.to_json())


def save_onnx(onnx: Any, model: Any, path: Path, info: str) -> None:
    """Check a graph and write it with what it says of itself."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: info})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@contextmanager
def _quiet() -> Generator[None]:
    """Exporters speak of their own affairs; what concerns the user is said by `verify`."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
