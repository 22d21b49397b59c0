"""One door for every weight file: what it holds is found from its content, not from its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native
from boxwright.checkpoints.yolov5_pt import read_published
from boxwright.errors import UserError
from boxwright.models.build import build_model, read_spec
from boxwright.models.detection import DetectionModel, DetectionSpec


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
    source: Literal["native", "yolov5"]
    path: Path


def read_weights(path: str | Path) -> Weights:
    """Read our own checkpoint or a published YOLOv5 `.pt`; nothing in the file is executed.

    Raises:
        UserError: missing, not a checkpoint, damaged, or refused (the message names what the file asks for).
    """
    path = Path(path)
    content = read_archive(path)
    if is_native(content):
        return _read_native(cast(dict[str, Any], content), path)
    published = read_published(content, str(path))
    return Weights(
        published.state_dict, published.spec, published.names, published.strides, published.hyp, "yolov5", path
    )


def load_model(path: str | Path) -> DetectionModel:
    """Build the network that a file describes and give it its weights; in eval mode, on the CPU.

    Raises:
        UserError: as `read_weights`, or weights and description of the file do not belong together.
    """
    weights = read_weights(path)
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
    model = cast(dict[str, Any], model)
    state_dict = {key: value for key, value in cast(dict[str, Any], state).items() if isinstance(value, Tensor)}
    try:
        spec = read_spec(model["spec"], f"the model in {path}")
        names, strides = tuple(map(str, model["names"])), tuple(map(int, model["strides"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description of the model is malformed ({error})") from error
    float32 = {key: t.float() if t.is_floating_point() else t for key, t in state_dict.items()}
    return Weights(float32, spec, names, strides, None, "native", path)
