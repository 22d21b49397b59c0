"""The convert verbs: weights, data sets and splits. A network and its numbers stay what they are.

The Focus stem of early releases can become one 6x6 convolution of stride 2, which gives the same numbers: Focus puts
pixel (2y + r, 2x + c) of a 2x2 cell into a channel group of its own, so a 3x3 kernel over cells is a 6x6 kernel over
pixels (docs/spec/yolov5.md, B1.3).
"""

import logging
import shlex
from dataclasses import replace
from pathlib import Path

from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import halved, is_native, save_checkpoint, strip_checkpoint
from boxwright.checkpoints.safetensors_file import write_safetensors
from boxwright.data.convert import convert_data, count_lost
from boxwright.data.files import write_atomically
from boxwright.data.split import split_data
from boxwright.errors import UserError
from boxwright.terminal import counted
from boxwright.yolo.darknet import DarknetModel, write_darknet
from boxwright.yolo.darknet_cfg import read_cfg
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.layers import FOCUS_ORDER
from boxwright.yolo.settings import ConvertDataConfig, SplitConfig, WeightsConfig
from boxwright.yolo.weights import load_model
from boxwright.yolo.zoo import build_model

_FOCUS_KERNEL = 3
_log = logging.getLogger("boxwright.yolo")


def with_conv6_stem(model: DetectionModel) -> DetectionModel:
    """Return a network with a 6x6 stem that computes what this one computes; the network itself is kept.

    Raises:
        UserError: its first layer is no Focus with a 3x3 kernel.
    """
    rows = model.spec.backbone if isinstance(model, GraphModel) else ()
    if not rows or rows[0].block != "Focus" or rows[0].args[1:] != (_FOCUS_KERNEL,):
        raise UserError("only a network that begins with a 3x3 Focus can be given a 6x6 stem; this one does not")
    assert isinstance(model, GraphModel)
    stem = replace(rows[0], block="Conv", args=(rows[0].args[0], 6, 2, 2))
    made = build_model(replace(model.spec, backbone=(stem, *rows[1:])), model.names)
    state = {name.replace("model.0.conv.", "model.0.", 1): value for name, value in model.state_dict().items()}
    # Kernels (O, 4 * C, 3, 3) over cells unfold to (O, C, 6, 6) over pixels.
    weight = state["model.0.conv.weight"]
    groups = weight.chunk(len(FOCUS_ORDER), dim=1)
    unfolded = weight.new_empty(weight.shape[0], groups[0].shape[1], 2 * _FOCUS_KERNEL, 2 * _FOCUS_KERNEL)
    for (row, column), group in zip(FOCUS_ORDER, groups, strict=True):
        unfolded[:, :, row::2, column::2] = group
    state["model.0.conv.weight"] = unfolded
    made.load_state_dict(state)
    return made.train(model.training)


TARGETS = {".pt": "Boxwright checkpoint", ".safetensors": "safetensors", ".weights": "Darknet"}


def weights(config: WeightsConfig) -> DetectionModel | None:
    """Read any weight file and write its network as another kind, chosen by the suffix of the target.

    With `strip` a Boxwright checkpoint keeps its kind and may be replaced, and no network is built or returned.
    A Darknet file does not say its network nor its classes: they are written beside it as `.cfg` and `.names`, where no
    such files are yet.

    Raises:
        UserError: the source cannot be read, the target's kind is not known or cannot hold this network, or the target
            is the source.
    """
    if not config.target and not config.strip:
        raise UserError("convert weights needs OUT, a file to write; only with --strip it may be IN itself")
    source, target = Path(config.source), Path(config.target or config.source)
    suffix = target.suffix.lower()
    if suffix not in TARGETS:
        kinds = ", ".join(f"{ending} ({kind})" for ending, kind in TARGETS.items())
        raise UserError(f"{target}: unknown file type; convert weights writes {kinds}")
    is_itself = target.exists() and source.exists() and target.samefile(source)
    strips = (
        config.strip
        and suffix == ".pt"
        and not config.stem
        and source.suffix == ".pt"
        and is_native(read_archive(source))
    )
    if is_itself and not strips:
        raise UserError(f"{target} is the source itself; name another file")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}")
    if strips:
        print(strip_checkpoint(source, target))
        return None
    network = load_model(source, config.model)
    if config.stem:
        network = with_conv6_stem(network)
    state = halved(network.state_dict()) if config.strip else network.state_dict()
    if suffix == ".weights":
        if config.strip:
            raise UserError(f"{target}: Darknet files hold single precision only; leave out --strip")
        if not isinstance(network, DarknetModel):
            kinds = f"a .weights file belongs to a Darknet cfg, but {source} holds the network of a yaml"
            raise UserError(f"{target}: {kinds}")
        cfg, spec = target.with_suffix(".cfg"), network.spec
        if network.trained_size:
            spec = replace(spec, input_size=network.trained_size[::-1])
        there = read_cfg(cfg) if cfg.exists() else None
        if there not in (None, spec):
            raise UserError(
                f"{cfg} beside {target.name} is of another network; name another file, or take the cfg away"
            )
        if there and network.trained_size and there.input_size != spec.input_size:
            size = "width={} and height={}".format(*spec.input_size or ())
            _log.warning("%s stays as it is, but %s was trained at %s", cfg, source, size)
        write_darknet(target, network)
        print(
            f"{target} has no place for a checksum: damage to its numbers would not be noticed (.safetensors has one)"
        )
        # The format says neither its network nor its classes.
        beside = {cfg: spec.to_text(), target.with_suffix(".names"): "".join(f"{n}\n" for n in network.names)}
        for file, text in beside.items():
            if not file.exists():
                write_atomically(file, text)
    elif suffix == ".pt":
        save_checkpoint(target, {"model": network.describe(), "state_dict": state, "ema": None})
    else:
        write_safetensors(target, state, network.describe())
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{config.target}: {count:,} parameters, {counted(len(network.names), 'class')}, from {config.source}")
    return network


def data(config: ConvertDataConfig) -> int:
    """Convert a data set and print what each split holds; return 1 if something of the source is left out, else 0."""
    assert config.to  # the setting is required
    splits, num_unfit = convert_data(
        config.source,
        config.target,
        config.to,
        copy=config.copy_images,
        compat=config.compat,
        shard_bytes=config.shard_mb * 10**6,
    )
    for split, index in splits.items():
        print(f"{split}: {len(index)} images, {len(index.boxes)} boxes, {index.num_classes} classes")
    print(f"written to {shlex.quote(config.target)}")
    images, boxes = count_lost(problem for index in splits.values() for problem in index.problems)
    return _say_lost(images, num_unfit + boxes, config.source)


def _say_lost(images: int, boxes: int, source: str) -> int:
    """Say what of a source is not in what was written; return the exit code."""
    if images or boxes:
        lost = f"{counted(images, 'image')} and {counted(boxes, 'box')}"
        print(f"left out: {lost} of {source}, which `boxwright check` lists")
    return int(images + boxes > 0)


def split(config: SplitConfig) -> int:
    """Divide a data set into new lists of images and print their lengths; return 1 if something is left out, else 0."""
    folder, lists, lost = split_data(
        config.source, config.target, shares=config.shares, seed=config.seed, compat=config.compat
    )
    for name, images in lists.items():
        print(f"{name}: {len(images)} image{'s' * (len(images) != 1)}")
    print(f"written to {shlex.quote(str(folder))}; go on with --data {shlex.quote(str(folder / 'data.yaml'))}")
    return _say_lost(*lost, config.source)
