"""The export verb: a checkpoint to ONNX, TorchScript or OpenVINO, each checked against PyTorch before it is kept."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.data.letterbox import letterbox
from boxwright.errors import UserError
from boxwright.inference import exported
from boxwright.inference.exported import ONNX_SUFFIX, OPENVINO_SUFFIX, TORCHSCRIPT_SUFFIX
from boxwright.inference.sources import open_source
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.export import (
    DETECTIONS,
    ROWS,
    ExportedNetwork,
    ExportRows,
    YoloAgreement,
    YoloInfo,
    append_nms,
    compare,
)
from boxwright.yolo.input_size import choose_size
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.settings import ExportConfig
from boxwright.yolo.weights import load_model, ready

SUFFIXES = {"onnx": ONNX_SUFFIX, "torchscript": TORCHSCRIPT_SUFFIX, "openvino": OPENVINO_SUFFIX}
_LIBRARIES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torchscript": (),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
}
_NUM_CHECKED, _NUM_CALIBRATION = 8, 100  # images
_CPU = torch.device("cpu")


def export(config: ExportConfig) -> Mapping[Path, YoloAgreement]:
    """Write a network as files of other runtimes, beside its checkpoint; return how each agrees with PyTorch.

    Raises:
        UserError: settings that do not go together, no such weights, or a library is missing. Nothing is left behind.
    """
    _check(config)
    model = ready(load_model(config.weights, config.model), _CPU)
    stride = max(model.strides)
    size = choose_size(config.imgsz, model, config.weights)
    if any(side < stride or side % stride for side in size):
        near = " ".join(str(max(round(side / stride), 1) * stride) for side in config.imgsz or size[:1])
        raise UserError(f"--imgsz: sides must be multiples of the largest stride {stride}, such as {near}")
    images = list(islice(_images(config, size, stride), _NUM_CALIBRATION if config.int8 else _NUM_CHECKED))
    if not images:
        raise UserError(f"no image of {config.source} could be read")
    postprocess = YoloPostprocess(config.conf_thres, config.iou_thres, config.max_det)

    def write(path: Path) -> YoloAgreement:
        write_network(path, config, model, size, images)
        return compare(model, ExportedNetwork(path, _CPU), images[:_NUM_CHECKED], postprocess, rows=not config.nms)

    weights = Path(config.weights)
    variant = ("_half" if config.half else "_int8" if config.int8 else "") + ("_nms" if config.nms else "")
    results: dict[Path, YoloAgreement] = {}
    for kind in dict.fromkeys(config.include):
        target = weights.with_name(f"{weights.stem}{variant}{SUFFIXES[kind]}")
        results[target] = exported.write_verified(target, write)
    if not any(agreement.num_detections for agreement in results.values()):
        print("nothing was found in these images, so little was compared: give --source or a lower --conf-thres")
    print(f"use one as --weights of `boxwright predict` and `boxwright val`, such as {next(iter(results))}")
    return results


def _check(config: ExportConfig) -> None:
    """Refuse what can be refused before anything is read."""
    if not config.weights:
        raise UserError("export needs --weights")
    if exported.is_exported(config.weights):
        raise UserError(f"{config.weights} is an exported file already; export starts from a checkpoint")
    if config.int8 and (config.half or config.nms):
        raise UserError(f"--{'half' if config.half else 'nms'} and --int8 do not go together: choose one")
    if "torchscript" in config.include and (config.nms or config.int8):
        raise UserError(f"--{'nms' if config.nms else 'int8'} is for ONNX and OpenVINO only: leave out torchscript")
    if config.int8 and not config.source:
        raise UserError("--int8 needs --source: images like those it will see, to measure the range of activations")
    for kind in config.include:
        for library in _LIBRARIES[kind]:
            exported.require(library)


def _images(config: ExportConfig, size: tuple[int, int], stride: int) -> Iterator[Tensor]:
    """Yield (1, 3, H, W) in 0..1: the user's images, or synthetic ones."""
    if config.source:
        found = (frame.image for frame in open_source(config.source))
    else:
        # Lazy, since who exports with images of their own does not need the synthetic world.
        from boxwright.synthetic.catalog import make_rig
        from boxwright.synthetic.render import render_view
        from boxwright.synthetic.world import WorldSettings, make_scene

        world = WorldSettings(width=640, height=384)
        camera = make_rig(np.random.default_rng(0), world.width, world.height).cameras[0]
        found = (render_view(make_scene(world, number), camera, 0.0).image for number in range(_NUM_CHECKED))
    for image in found:
        padded, _, _ = letterbox(image, size, auto=not (config.static or config.int8), stride=max(stride, 32))
        pixels = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))
        yield torch.from_numpy(pixels)[None].float().div_(255)


def write_network(
    target: Path, config: ExportConfig, model: DetectionModel, size: tuple[int, int], images: Sequence[Tensor]
) -> None:
    """Write the file that the suffix of a path names, with NMS or in int8 as the settings say.

    Args:
        target: of the file, or of the folder of OpenVINO's, which are made of an ONNX file.
        config: settings of the verb.
        model: stays as it is.
        size: height, width that the file is for, of a static one all that it takes.
        images: (1, 3, H, W) each, to calibrate int8 on.
    """
    fixed, stride = size if config.static else None, max(model.strides)
    info = YoloInfo(model.names, fixed, model.strides, DETECTIONS if config.nms else ROWS, model.release, size)
    rows = ExportRows(copy.deepcopy(model))
    if config.half:
        rows.network.half()
    height, width = fixed or (8 * stride, 10 * stride)  # two different sides: a free one must not be taken for fixed
    example = torch.zeros(2, 3, height, width)
    if target.suffix == TORCHSCRIPT_SUFFIX:
        exported.write_torchscript(rows, target, info, [example])
        return
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=exported.LARGEST)}
    if fixed is None:
        for axis, name in ((2, "height"), (3, "width")):
            dynamic[axis] = stride * torch.export.Dim(name, min=1, max=exported.LARGEST)
    onnx = target
    if target.suffix != ONNX_SUFFIX:
        target.mkdir()
        onnx = target / "model.onnx"
    exported.write_onnx(rows, onnx, info, {"images": example}, {"images": dynamic}, [ROWS])
    if config.nms:
        thresholds = {"score_threshold": config.conf_thres, "iou_threshold": config.iou_thres}
        append_nms(onnx, info, **thresholds, max_detections=config.max_det)
    if config.int8:
        full = onnx.rename(onnx.with_name(f"float_{onnx.name}"))
        float_layers = [f"network.{prefix}" for prefix in model.predictor_prefixes]
        exported.quantise_onnx(full, onnx, info, ({"images": one} for one in images), float_layers)
        full.unlink()
    if onnx != target:
        exported.write_openvino(onnx, target, info, half=config.half)
        onnx.unlink()
