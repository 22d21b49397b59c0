"""The export verb: a checkpoint to ONNX, TorchScript, OpenVINO or NCNN, each file checked before it is kept."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from boxwright.checkpoints.native import load_checkpoint
from boxwright.data.dataset import open_dataset
from boxwright.data.images import read_image
from boxwright.data.letterbox import letterbox
from boxwright.engine.device import select_device
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference import exported
from boxwright.inference.exported import NCNN_SUFFIX, ONNX_SUFFIX, OPENVINO_SUFFIX, TORCHSCRIPT_SUFFIX
from boxwright.inference.sources import open_source
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.export import (
    DETECTIONS,
    MAPS,
    OUTPUT,
    ROWS,
    ExportedNetwork,
    ExportRows,
    YoloAgreement,
    YoloInfo,
    append_nms,
    compare,
    predict_maps,
)
from boxwright.yolo.input_size import choose_size
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.settings import ExportConfig
from boxwright.yolo.weights import load_model, ready

SUFFIXES = {"onnx": ONNX_SUFFIX, "torchscript": TORCHSCRIPT_SUFFIX, "openvino": OPENVINO_SUFFIX, "ncnn": NCNN_SUFFIX}
_LIBRARIES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torchscript": (),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    "ncnn": ("ncnn", "pnnx"),
}
_NUM_CHECKED, _NUM_CALIBRATION = 8, 100  # images
_INT8_OPSET = 13  # the first that scales each channel by itself
_CPU = torch.device("cpu")
_log = logging.getLogger("boxwright.export")


def export(config: ExportConfig) -> Mapping[Path, YoloAgreement]:
    """Write a network as files of other runtimes; return how each agrees with PyTorch.

    Raises:
        UserError: settings that do not go together, no such weights, or a library is missing. Nothing is left behind.
    """
    _check(config)
    device = select_device(config.device) if config.device else _CPU
    model = ready(load_model(config.weights, config.model), _CPU)
    stride = max(model.strides)
    size = choose_size(config.imgsz, model, config.weights)
    if any(side < stride or side % stride for side in size):
        near = " ".join(str(max(round(side / stride), 1) * stride) for side in config.imgsz or size[:1])
        raise UserError(f"--imgsz: sides must be multiples of the largest stride {stride}, such as {near}")
    images = list(islice(_images(config, size, stride), _NUM_CALIBRATION if config.int8 else _NUM_CHECKED))
    if not images:
        raise UserError(f"no image of {config.source or config.data} could be read")
    postprocess = YoloPostprocess(
        config.conf_thres, config.iou_thres, config.max_det, agnostic=config.nms and config.agnostic_nms
    )

    def write(path: Path) -> YoloAgreement:
        write_network(path, config, model, size, images)
        place = device if path.suffix == TORCHSCRIPT_SUFFIX else _CPU
        checked = [image.to(place) for image in images[:_NUM_CHECKED]]
        return compare(
            copy.deepcopy(model).to(place), ExportedNetwork(path, place), checked, postprocess, rows=not config.nms
        )

    weights = Path(config.weights)
    folder = weights.parent
    if config.project or config.name:
        folder = new_run_folder(config.project or "runs/export", config.name or "exp", config.exist_ok)
    variant = ("_half" if config.half else "_int8" if config.int8 else "") + ("_nms" if config.nms else "")
    results: dict[Path, YoloAgreement] = {}
    for kind in dict.fromkeys(config.include):
        target = folder / f"{weights.stem}{variant}{SUFFIXES[kind]}"
        try:
            results[target] = exported.write_verified(target, write)
        except UserError:
            if folder != weights.parent and not results:
                with suppress(OSError):  # there may be files of an earlier run
                    folder.rmdir()
            raise
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
    if config.nms or config.int8:
        for kind in [kind for kind in config.include if kind in ("torchscript", "ncnn")]:
            raise UserError(f"--{'nms' if config.nms else 'int8'} is for ONNX and OpenVINO only: leave out {kind}")
    if config.int8 and config.opset < _INT8_OPSET:
        raise UserError(f"--int8 needs --opset {_INT8_OPSET} or newer, not {config.opset}")
    if config.agnostic_nms and not config.nms:
        raise UserError("--agnostic-nms goes with --nms: without it the file gives rows, which `predict` suppresses")
    if config.static and config.dynamic and "dynamic" in config.model_fields_set:
        raise UserError("--static fixes the image size and --dynamic frees it: choose one")
    if config.batch_size and _takes_any_batch(config):
        print("--dynamic: the files take any batch; --batch-size has no effect")
    for kind in config.include:
        for library in _LIBRARIES[kind]:
            exported.require(library)


def _takes_any_batch(config: ExportConfig) -> bool:
    """Return whether the batch is free: where none is given and, as published, with --dynamic."""
    return config.batch_size is None or (config.dynamic and "dynamic" in config.model_fields_set)


def _images(config: ExportConfig, size: tuple[int, int], stride: int) -> Iterator[Tensor]:
    """Yield (1, 3, H, W) in 0..1: the user's images, those of a data set, or synthetic ones."""
    files = [] if config.source else _validation_images(config)
    if config.source:
        found = (frame.image for frame in open_source(config.source))
    elif files:
        found = map(read_image, files)
    else:
        # Lazy, since who exports with images of their own does not need the synthetic world.
        from boxwright.synthetic.catalog import make_rig
        from boxwright.synthetic.render import render_view
        from boxwright.synthetic.world import WorldSettings, make_scene

        world = WorldSettings(width=640, height=384)
        camera = make_rig(np.random.default_rng(0), world.width, world.height).cameras[0]
        found = (render_view(make_scene(world, number), camera, 0.0).image for number in range(_NUM_CHECKED))
    for image in found:
        padded, _, _ = letterbox(image, size, auto=not (is_static(config) or config.int8), stride=max(stride, 32))
        pixels = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))
        yield torch.from_numpy(pixels)[None].float().div_(255)


def _validation_images(config: ExportConfig) -> Sequence[Path]:
    """List validation images of the data set that is named, else of the one that the network was trained on.

    Raises:
        UserError: the named one cannot be read, or --int8 has no images to calibrate on.
    """
    data = config.data or data_of_run(config.weights)
    if data:
        try:
            index = open_dataset(data, "val")
        except UserError as error:
            if config.data:
                raise
            _log.warning("the validation images of the run cannot be had: %s", error)
        else:
            # Spread over the split, whose neighbours are often alike; those with labels hold what can be found.
            labelled = np.flatnonzero(np.diff(index.box_offsets))
            places = labelled if len(labelled) else np.arange(len(index))
            wanted = _NUM_CALIBRATION if config.int8 else _NUM_CHECKED
            picked = places[np.unique(np.linspace(0, len(places) - 1, min(wanted, len(places))).astype(int))]
            print(f"checked on {len(picked)} validation images of {data}")
            return [index.path(i) for i in picked]
    if config.int8:
        raise UserError("--int8 needs --source or --data: images like those it will see, to measure activations")
    return []


def data_of_run(weights: str) -> str:
    """Return the data set that a checkpoint of ours was trained on; empty where the file does not say."""
    try:
        settings = load_checkpoint(Path(weights)).get("config")
    except UserError:
        return ""
    return str(cast("dict[str, Any]", settings).get("data") or "") if isinstance(settings, dict) else ""


def is_static(config: ExportConfig) -> bool:
    return config.static or not config.dynamic


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
    fixed, stride = size if is_static(config) else None, max(model.strides)
    output = DETECTIONS if config.nms else ROWS
    batch = None if _takes_any_batch(config) else config.batch_size
    info = YoloInfo(model.names, fixed, model.strides, output, model.release, size, batch)
    height, width = fixed or (8 * stride, 10 * stride)  # two different sides: a free one must not be taken for fixed
    if target.name.endswith(NCNN_SUFFIX):
        _write_ncnn(target, config, model, info, (height, width))
        return
    onnx = target.suffix != TORCHSCRIPT_SUFFIX
    rows = ExportRows(model, free=onnx and fixed is None)
    if config.half:
        rows.network.half()
    example = torch.zeros(batch or 2, 3, height, width)
    if not onnx:
        exported.write_torchscript(rows, target, info, [example])
        return
    _write_onnx(target, config, rows, info, example, images)


def _write_ncnn(
    target: Path, config: ExportConfig, model: DetectionModel, info: YoloInfo, size: tuple[int, int]
) -> None:
    """Write the folder of NCNN's: maps of one image of free or fixed sides, and in its json how to decode them."""
    anchors = (model.anchors * torch.tensor(model.strides).view(-1, 1, 1)).tolist()
    info = replace(info, output=MAPS, anchors=anchors, codings=model.box_codings, batch=None)
    sizes = [size] if info.input_size else [size, (size[0] * 2, size[1] * 3)]
    target.mkdir()
    maps = predict_maps(model).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    exported.write_ncnn(maps, target, info, [torch.zeros(1, 3, *sides) for sides in sizes], half=config.half)


def _write_onnx(
    target: Path,
    config: ExportConfig,
    rows: ExportRows,
    info: YoloInfo,
    example: Tensor,
    images: Sequence[Tensor],
) -> None:
    """Write an ONNX file, or of it the folder of OpenVINO's."""
    stride = max(info.strides)
    dynamic: dict[int, Any] = {}
    if info.batch is None:
        dynamic[0] = torch.export.Dim("batch", min=1, max=exported.LARGEST)
    if info.input_size is None:
        for axis, name in ((2, "height"), (3, "width")):
            dynamic[axis] = stride * torch.export.Dim(name, min=1, max=exported.LARGEST)
    onnx = target
    if target.suffix != ONNX_SUFFIX:
        target.mkdir()
        onnx = target / "model.onnx"
    append = partial(
        append_nms,
        num_classes=len(info.names),
        score_threshold=config.conf_thres,
        iou_threshold=config.iou_thres,
        max_detections=config.max_det,
        agnostic=config.agnostic_nms,
    )
    exported.write_onnx(
        rows,
        onnx,
        info,
        {"images": example},
        {"images": dynamic},
        {OUTPUT: {0: "batch", 1: "rows"}},
        opset=config.opset,
        simplify=config.simplify,
        extend=append if config.nms else None,
    )
    if config.int8:
        full = onnx.rename(onnx.with_name(f"float_{onnx.name}"))
        float_layers = [f"network.{prefix}" for prefix in rows.network.predictor_prefixes]
        exported.quantise_onnx(full, onnx, info, ({"images": one} for one in images), float_layers)
        full.unlink()
    if onnx != target:
        exported.write_openvino(onnx, target, info, half=config.half)
        onnx.unlink()
