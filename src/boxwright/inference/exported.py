"""Exported files as networks: an ONNX, TorchScript or OpenVINO file in the place of a checkpoint.

What a file says of itself travels in it (`ExportInfo`). Nothing in a file is executed but the network's own operators.
"""

from __future__ import annotations

import importlib
import json
import warnings
from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.errors import UserError
from boxwright.yolo.detection import Network

METADATA_KEY = "boxwright"
ONNX_SUFFIX, TORCHSCRIPT_SUFFIX, OPENVINO_SUFFIX = ".onnx", ".torchscript", "_openvino_model"
ROWS, DETECTIONS = "rows", "detections"


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file says of itself.

    Args:
        names: one name a class.
        strides: input pixels a cell of each level.
        input_size: height and width where they are fixed.
        output: "rows": (B, R, 5 + classes) as `Network.decode` gives them; "detections": (N, 7) after NMS in the graph,
            image number, cxcywh in input pixels, score, class.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int] | None
    output: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, where: Path) -> ExportInfo:
        """Read it back.

        Raises:
            UserError: the file was not exported by Boxwright.
        """
        try:
            fields: dict[str, Any] = json.loads(text or "")
            size = fields["input_size"]
            return cls(
                tuple(map(str, fields["names"])),
                tuple(map(int, fields["strides"])),
                None if size is None else (int(size[0]), int(size[1])),
                str(fields["output"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where} does not say its class names and strides: it was not made by `boxwright export`"
            ) from error


class ExportedNetwork(Network):
    """A file that has been opened. Its rows come decoded; `decode` hands them on.

    Args:
        info: what the file says.
    """

    def __init__(self, info: ExportInfo) -> None:
        super().__init__()
        self.names = info.names
        self.input_size = info.input_size
        self.info = info

    @property
    def strides(self) -> tuple[int, ...]:
        return self.info.strides

    @abstractmethod
    def run(self, images: Tensor) -> Tensor:
        """What the file gives for (B, 3, H, W) float32 images in 0..1."""

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.input_size is not None and tuple(images.shape[2:]) != self.input_size:
            height, width = self.input_size
            raise UserError(f"this file takes images of {width}x{height} pixels only: it was exported with --static")
        found = self.run(images.float())
        if self.info.output == DETECTIONS:
            found = _rows_of_detections(found, len(images), self.num_classes)
        return [found.to(images.device)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


def _rows_of_detections(found: Tensor, num_images: int, num_classes: int) -> Tensor:
    """(N, 7) detections as (B, R, 5 + classes) rows, objectness the score, class scores 1 and 0; unused rows are 0."""
    image = found[:, 0].long()
    counts = torch.bincount(image, minlength=num_images)
    order = torch.argsort(image, stable=True)
    image = image[order]
    place = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    rows = torch.zeros(num_images, int(counts.max()) if len(found) else 0, 5 + num_classes)
    rows[image, place, :5] = found[order, 1:6]
    rows[image, place, 5 + found[order, 6].long()] = 1
    return rows


class OnnxNetwork(ExportedNetwork):
    """Run by ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exception types share no base
            raise UserError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
        super().__init__(ExportInfo.from_json(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path))
        self._session = session

    def run(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(None, {"images": images.cpu().numpy()})[0])


class TorchScriptNetwork(ExportedNetwork):
    """Run by PyTorch, on the device of its images."""

    def __init__(self, path: Path, device: torch.device) -> None:
        extra = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that TorchScript is deprecated is no news to who chose it
                script = torch.jit.load(str(path), map_location=device, _extra_files=extra)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path} cannot be read as TorchScript: {str(error).splitlines()[0]}") from error
        text: str | bytes = extra[METADATA_KEY]
        super().__init__(ExportInfo.from_json(text.decode() if isinstance(text, bytes) else text, path))
        self._script = script

    def run(self, images: Tensor) -> Tensor:
        return self._script(images)


class OpenVinoNetwork(ExportedNetwork):
    """Run by OpenVINO, on the CPU."""

    def __init__(self, path: Path) -> None:
        openvino = require("openvino")
        file = path if path.suffix == ".xml" else next(iter(sorted(path.glob("*.xml"))), path / "model.xml")
        core = openvino.Core()
        try:
            model = core.read_model(str(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before name places in its own source
            raise UserError(f"{file} cannot be read as an OpenVINO model: {reason}") from error
        text = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else ""
        super().__init__(ExportInfo.from_json(text, file))
        # Without the hint it computes in bf16 where the CPU has it, which moves boxes by pixels.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._model = core.compile_model(model, "CPU", settings | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    def run(self, images: Tensor) -> Tensor:
        found: NDArray[np.float32] = self._model(images.cpu().numpy())[0]
        return torch.from_numpy(found.copy())  # the next call writes into the same memory


def is_exported(path: str | Path) -> bool:
    """Whether a name means an exported file rather than a checkpoint."""
    path = Path(path)
    return path.suffix in (ONNX_SUFFIX, TORCHSCRIPT_SUFFIX, ".xml") or path.name.endswith(OPENVINO_SUFFIX)


def open_exported(path: str | Path, device: torch.device) -> ExportedNetwork:
    """Open an exported file by its suffix.

    Args:
        path: `.onnx`, `.torchscript`, `.xml` or a folder `*_openvino_model`.
        device: where TorchScript runs; the other two run on the CPU.

    Raises:
        UserError: missing, unreadable, not exported by Boxwright, or its library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no weights at {path}")
    if path.suffix == TORCHSCRIPT_SUFFIX:
        return TorchScriptNetwork(path, device)
    if device.type != "cpu":
        raise UserError(f"{path} runs on the CPU here: leave out --device, or export to TorchScript for a GPU")
    return OnnxNetwork(path) if path.suffix == ONNX_SUFFIX else OpenVinoNetwork(path)


def require(library: str) -> Any:
    """Import a library of the extra `export`.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        name = library.partition(".")[0]
        raise UserError(f"{name} is not installed: pip install 'boxwright[export]'") from error
