"""The Focus stem of early releases as one 6x6 convolution of stride 2, which gives the same numbers.

Source: spec B1.3. Focus puts pixel (2y + r, 2x + c) of a 2x2 cell into a channel group of its own; a 3x3 kernel over
cells is therefore a 6x6 kernel over pixels.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from boxwright.errors import UserError
from boxwright.yolo.build import build_model
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.early_layers import FOCUS_ORDER
from boxwright.yolo.graph import GraphModel

_FOCUS_KERNEL = 3


def with_conv6_stem(model: DetectionModel) -> DetectionModel:
    """A network with a 6x6 stem that computes what this one computes; the network itself is kept.

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
    state["model.0.conv.weight"] = _unfold(state["model.0.conv.weight"])
    made.load_state_dict(state)
    return made.train(model.training)


def _unfold(weight: Tensor) -> Tensor:
    """(O, 4 * C, 3, 3) over cells to (O, C, 6, 6) over pixels."""
    groups = weight.chunk(len(FOCUS_ORDER), dim=1)
    out = weight.new_empty(weight.shape[0], groups[0].shape[1], 2 * _FOCUS_KERNEL, 2 * _FOCUS_KERNEL)
    for (row, column), group in zip(FOCUS_ORDER, groups, strict=True):
        out[:, :, row::2, column::2] = group
    return out
