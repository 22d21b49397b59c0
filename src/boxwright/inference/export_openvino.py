"""ONNX files to OpenVINO: a folder with an xml of the graph and a bin of the numbers."""

from __future__ import annotations

from pathlib import Path

from boxwright.inference.exported import METADATA_KEY, ExportInfo, require


def write_openvino(source: Path, folder: Path, info: ExportInfo, *, half: bool) -> None:
    """Convert an ONNX file.

    Args:
        source: the ONNX file.
        folder: an empty folder, written to.
        info: travels in the xml.
        half: store the numbers as fp16.

    Raises:
        UserError: openvino is not installed.
    """
    openvino = require("openvino")
    model = openvino.Core().read_model(str(source))
    model.set_rt_info(info.to_json(), METADATA_KEY)
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=half)
