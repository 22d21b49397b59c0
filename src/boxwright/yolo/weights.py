"""One door for every weight file: what it holds is found from its content, not from its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native
from boxwright.checkpoints.safetensors_file import is_safetensors, read_safetensors
from boxwright.data.data_yaml import read_lines
from boxwright.errors import UserError
from boxwright.yolo.build import build_model, read_spec
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.darknet_weights import is_darknet, read_darknet
from boxwright.yolo.detection import DetectionModel, DetectionSpec
from boxwright.yolo.published_pt import read_published
from boxwright.yolo.zoo import DARKNET_NAMES, load_spec


@dataclass(frozen=True)
class Weights:
    """A trained network as read from a file.

    Args:
        state_dict: float32, averaged weights where the file has them.
        spec: how to build the network.
        names: class names.
        strides: input pixels per cell of each level.
        hyp: hyper-parameters it was trained with, in the published flat form, where known.
        source: kind of file.
        path: the file.
    """

    state_dict: Mapping[str, Tensor]
    spec: DetectionSpec
    names: tuple[str, ...]
    strides: tuple[int, ...]
    hyp: dict[str, Any] | None
    source: Literal["native", "yolov5", "darknet", "safetensors"]
    path: Path


def read_weights(path: str | Path, model: str = "") -> Weights:
    """Read our own checkpoint or safetensors, a published YOLOv5 `.pt` or a Darknet `.weights`; nothing is executed.

    Args:
        path: the file.
        model: name or cfg of the network that a Darknet file was written for, as the file does not say; by default the
            cfg of the same name beside it, or the published one of that name. The file may have other classes, or be
            cut off after its backbone.

    Raises:
        UserError: missing, not a checkpoint, damaged, or refused (the message names what the file asks for).
    """
    path = Path(path)
    if is_darknet(path):
        return _read_darknet(path, model, strict=False)
    if is_safetensors(path):
        return _described(*read_safetensors(path), path, "safetensors")
    content = read_archive(path)
    if is_native(content):
        return _read_native(cast(dict[str, Any], content), path)
    published = read_published(content, str(path))
    return Weights(
        published.state_dict, published.spec, published.names, published.strides, published.hyp, "yolov5", path
    )


def load_model(path: str | Path, model: str = "") -> DetectionModel:
    """Build the network that a file describes and give it its weights; in eval mode, on the CPU.

    Args:
        path: the file.
        model: what a Darknet file belongs to, see `read_weights`; here the file must hold exactly that network.

    Raises:
        UserError: as `read_weights`, or weights and description of the file do not belong together.
    """
    path = Path(path)
    weights = _read_darknet(path, model, strict=True) if is_darknet(path) else read_weights(path)
    return _build(weights, path)


def _build(weights: Weights, path: Path) -> DetectionModel:
    model = build_model(weights.spec, weights.names)
    own = model.state_dict()
    wrong = [k for k in own if k not in weights.state_dict or weights.state_dict[k].shape != own[k].shape]
    wrong += [key for key in weights.state_dict if key not in own]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} entries do not fit the network that the file describes, such as {wrong[0]}"
        )
    if model.strides != weights.strides:
        raise UserError(f"{path}: the file claims strides {weights.strides} but its network has {model.strides}")
    model.load_state_dict(dict(weights.state_dict))
    return model.eval()


def transfer(model: DetectionModel, weights: Weights, exclude: Sequence[str] = ()) -> tuple[int, int]:
    """Copy what fits: entries of equal name and shape.

    Args:
        model: receives the weights.
        weights: as read.
        exclude: entries whose name contains one of these stay as they are.

    Returns:
        entries copied, entries of the model.

    Raises:
        UserError: nothing fits.
    """
    own = model.state_dict()
    fitting = {
        key: value
        for key, value in weights.state_dict.items()
        if key in own and own[key].shape == value.shape and not any(part in key for part in exclude)
    }
    if not fitting:
        raise UserError(f"{weights.path}: none of its weights fits the model; is it of another kind?")
    model.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)


def _read_native(content: dict[str, Any], path: Path) -> Weights:
    model, state = content.get("model"), content.get("ema") or content.get("state_dict")
    if not isinstance(model, dict) or not isinstance(state, dict):
        raise UserError(f"{path} is a Boxwright checkpoint without a model")
    family = cast(dict[str, Any], model).get("family")
    if family is not None:
        raise UserError(f"{path} is a checkpoint of {family}: name its model, as --model {family}-dla34")
    state_dict = {key: value for key, value in cast(dict[str, Any], state).items() if isinstance(value, Tensor)}
    return _described(state_dict, cast(dict[str, Any], model), path, "native")


def _described(
    state_dict: dict[str, Tensor], model: dict[str, Any], path: Path, source: Literal["native", "safetensors"]
) -> Weights:
    """Entries with the description of the network that our own files hold."""
    try:
        spec = read_spec(model["spec"], f"the model in {path}")
        names, strides = tuple(map(str, model["names"])), tuple(map(int, model["strides"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description of the model is malformed ({error})") from error
    float32 = {key: t.float() if t.is_floating_point() else t for key, t in state_dict.items()}
    return Weights(float32, spec, names, strides, None, source, path)


def _read_darknet(path: Path, model: str, *, strict: bool) -> Weights:
    spec = _darknet_spec(path, model)
    read = read_darknet(path, spec, strict=strict)
    file = path.with_suffix(".names")
    names = tuple(filter(None, read_lines(file))) if file.is_file() else ()
    if len(names) != read.spec.num_classes:
        names = tuple(str(i) for i in range(read.spec.num_classes))
    return Weights(read.state_dict, read.spec, names, read.strides, None, "darknet", path)


def _darknet_spec(path: Path, model: str) -> DarknetSpec:
    """The network of a Darknet file: as named, else the cfg beside the file, else the published one of its name."""
    beside = path.with_suffix(".cfg")
    if not model:
        model = str(beside) if beside.is_file() else path.stem
        if not beside.is_file() and path.stem not in DARKNET_NAMES:
            raise UserError(
                f"{path} is a Darknet file, which does not say its network: put the cfg beside it as {beside.name} "
                f"(train, info and convert take it by --model, too: a cfg or one of {', '.join(DARKNET_NAMES)})"
            )
    spec = load_spec(model)
    if not isinstance(spec, DarknetSpec):
        raise UserError(f"{path} is a Darknet file, but {model} is no Darknet network: name its cfg")
    return spec
