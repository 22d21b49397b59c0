"""The export verb: a checkpoint to ONNX, TorchScript or OpenVINO, each checked against PyTorch before it is kept."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boxwright.centerfusion.export import CenterAgreement
from boxwright.centerfusion.verbs.export import fusion_export
from boxwright.centerfusion.weights import is_fusion
from boxwright.data.letterbox import Image, letterbox
from boxwright.errors import UserError
from boxwright.inference.export_onnx import append_nms, quantise, write_onnx
from boxwright.inference.export_openvino import write_openvino
from boxwright.inference.export_torchscript import write_torchscript
from boxwright.inference.exported import (
    DETECTIONS,
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    ROWS,
    TORCHSCRIPT_SUFFIX,
    ExportInfo,
    is_exported,
    open_exported,
    require,
)
from boxwright.inference.sources import open_source
from boxwright.synthetic.render import render
from boxwright.synthetic.world import make_scene
from boxwright.synthetic.write import front_camera
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.export_rows import ExportRows
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.settings import ExportConfig
from boxwright.yolo.verify import Agreement, compare
from boxwright.yolo.weights import load_model, ready

SUFFIXES = {"onnx": ONNX_SUFFIX, "torchscript": TORCHSCRIPT_SUFFIX, "openvino": OPENVINO_SUFFIX}
_LIBRARIES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torchscript": (),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
}
_NUM_CHECKED, _NUM_CALIBRATION = 8, 100  # images
_CPU = torch.device("cpu")


def export(config: ExportConfig) -> Mapping[Path, Agreement | CenterAgreement]:
    """Write a network as files of other runtimes, beside its checkpoint.

    Args:
        config: settings of the verb.

    Returns:
        each file with how well it agrees with PyTorch.

    Raises:
        UserError: settings that do not go together, no such weights, or a library is missing. Nothing is left behind.
    """
    if config.weights and not is_exported(config.weights) and is_fusion(config.weights):
        return fusion_export(config)
    _check(config)
    model = ready(load_model(config.weights), _CPU)
    size = _input_size(config, max(model.strides))
    images = list(islice(_images(config, size, max(model.strides)), _NUM_CALIBRATION if config.int8 else _NUM_CHECKED))
    if not images:
        raise UserError(f"no image of {config.source} could be read")
    writer = _Writer(config, model, size if config.static else None, images)
    checked = images[:_NUM_CHECKED]
    postprocess = YoloPostprocess(config.conf_thres, config.iou_thres, config.max_det)
    results: dict[Path, Agreement] = {}
    for kind in dict.fromkeys(config.include):
        start = time.perf_counter()
        target = _target(config, kind)
        with _replacing(target) as temporary:
            writer.write(kind, temporary)
            exported = open_exported(temporary, _CPU)
            results[target] = compare(model, exported, checked, postprocess, rows=not config.nms)
            if math.isnan(results[target].box_pixels or 0.0):
                raise UserError(f"{config.weights} gives boxes that are no numbers; nothing is written")
        seconds = time.perf_counter() - start
        print(f"{target}: {_megabytes(target):.1f} MB in {seconds:.1f} s; {results[target]}")
    if not any(agreement.num_detections for agreement in results.values()):
        print("nothing was found in these images, so little was compared: give --source or a lower --conf-thres")
    print(f"use one as --weights of `boxwright predict` and `boxwright val`, such as {next(iter(results))}")
    return results


def _check(config: ExportConfig) -> None:
    """What can be refused before anything is read."""
    if not config.weights:
        raise UserError("export needs --weights")
    if is_exported(config.weights):
        raise UserError(f"{config.weights} is an exported file already; export starts from a checkpoint")
    if config.half and config.int8:
        raise UserError("--half and --int8 do not go together: choose one")
    if "torchscript" in config.include and (config.nms or config.int8):
        raise UserError(f"--{'nms' if config.nms else 'int8'} is for ONNX and OpenVINO only: leave out torchscript")
    if config.int8 and config.nms:
        raise UserError("--nms and --int8 do not go together: choose one")
    if config.int8 and not config.source:
        raise UserError("--int8 needs --source: images like those it will see, to measure the range of activations")
    if len(config.imgsz) > 2:
        raise UserError(f"--imgsz takes one side, or height and width, not {len(config.imgsz)} numbers")
    for kind in config.include:
        for library in _LIBRARIES[kind]:
            require(library)


def _input_size(config: ExportConfig, stride: int) -> tuple[int, int]:
    height, width = config.imgsz[0], config.imgsz[-1]
    if height % stride or width % stride or min(height, width) < stride:
        near = " ".join(str(max(round(side / stride), 1) * stride) for side in config.imgsz)
        raise UserError(f"--imgsz: sides must be multiples of the largest stride {stride}, such as {near}")
    return height, width


def _images(config: ExportConfig, size: tuple[int, int], stride: int) -> Iterator[Tensor]:
    """(1, 3, H, W) in 0..1: the user's images, or made ones."""
    found = (frame.image for frame in open_source(config.source)) if config.source else _made_images()
    for image in found:
        padded, _, _ = letterbox(image, size, auto=not (config.static or config.int8), stride=max(stride, 32))
        pixels = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))
        yield torch.from_numpy(pixels)[None].float().div_(255)


def _made_images() -> Iterator[Image]:
    camera = front_camera(640, 384)
    for number in range(_NUM_CHECKED):
        yield render(make_scene(0, number), camera, 0.0).image


class _Writer:
    """Makes the files of one run; the ONNX file is the way to OpenVINO, too."""

    def __init__(
        self, config: ExportConfig, model: DetectionModel, size: tuple[int, int] | None, images: list[Tensor]
    ) -> None:
        self.config = config
        self.images = images
        self.info = ExportInfo(model.names, model.strides, size, DETECTIONS if config.nms else ROWS)
        self.predictors = model.predictor_prefixes
        self.rows = ExportRows(copy.deepcopy(model))
        if config.half:
            self.rows.network.half()
        stride = max(model.strides)
        height, width = size or (8 * stride, 10 * stride)  # two different sides: a free one must not be taken for fixed
        self.example = torch.zeros(2, 3, height, width)

    def write(self, kind: str, target: Path) -> None:
        if kind == "torchscript":
            write_torchscript(self.rows, target, self.info, self.example)
            return
        if kind == "onnx":
            self._onnx(target)
            return
        target.mkdir()
        onnx = target / "model.onnx"
        self._onnx(onnx)
        write_openvino(onnx, target, self.info, half=self.config.half)
        onnx.unlink()

    def _onnx(self, target: Path) -> None:
        config = self.config
        write_onnx(self.rows, target, self.info, self.example)
        if config.nms:
            thresholds = {"score_threshold": config.conf_thres, "iou_threshold": config.iou_thres}
            append_nms(target, self.info, **thresholds, max_detections=config.max_det)
        if config.int8:
            full = target.with_name(f"float_{target.name}")
            target.rename(full)
            quantise(full, target, self.info, iter(self.images), self.predictors)
            full.unlink()


def _target(config: ExportConfig, kind: str) -> Path:
    """best.pt to best.onnx, best_int8.onnx, best_half_openvino_model."""
    weights = Path(config.weights)
    variant = "_half" if config.half else "_int8" if config.int8 else ""
    return weights.with_name(f"{weights.stem}{variant}{'_nms' if config.nms else ''}{SUFFIXES[kind]}")


@contextmanager
def _replacing(target: Path) -> Generator[Path]:
    """A name to write to; what lies there at the end takes the place of the target, and after an error is gone."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder / target.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(folder / target.name, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
