"""The compiled operators of torchvision (NMS, deformable convolution), loaded without importing torchvision itself.

Importing `torchvision.ops` costs 1.4 s of CPU, nearly as much as torch: its RoI align imports the compiler of torch.
The operators lie in a library of their own, whose file name differs between releases (`_C.so`, `_C_stable.so`, `.pyd`).

torchvision is an extra, `gpu`: its wheel fits one build of one release of torch, and what a CPU needs of it is here.

Source: torchvision's extension.py (BSD-3-Clause) loads the same file through the same function.
"""

import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boxwright.errors import UserError
from boxwright.extras import not_installed, torch_installer
from boxwright.terminal import say_once

_BLOCK = 256  # boxes that are compared with all at a time: 30,000 boxes then take 100 MB and not 7 GB


def load_operators() -> bool:
    """Register `torch.ops.torchvision`, unless it is registered already; return False where there is no torchvision.

    Raises:
        UserError: torchvision was built for another torch.
    """
    if sys.modules.get("torchvision") or hasattr(torch.ops.torchvision, "nms"):
        return True
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.origin:
        return False
    failed = ""
    for library in sorted(Path(found.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            failed = f" ({error})"
        if hasattr(torch.ops.torchvision, "nms"):
            return True
    torchvision = importlib.metadata.version("torchvision")
    raise UserError(
        f"torchvision {torchvision} does not fit torch {torch.__version__}{failed}; install both anew in one command: "
        f"{torch_installer()} --force-reinstall torch torchvision; or do without it, as a CPU can: "
        "pip uninstall torchvision"
    )


def find_nms(device: torch.device) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return torchvision's NMS, or `plain_nms` where there is no torchvision; a GPU is slower with that, which is said.

    Raises:
        UserError: torchvision was built for another torch.
    """
    if load_operators():
        return torch.ops.torchvision.nms
    if device.type != "cpu":
        missed_on_gpu()
    return plain_nms


def missed_on_gpu() -> None:
    """Warn once that a GPU does without torchvision."""
    say_once(f"{not_installed('full speed on a GPU', 'torchvision', 'gpu')}; going on", logging.WARNING)


def plain_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress each box that overlaps a better one by more than a threshold; the best of equal scores is the first.

    On x86 processors the same bits as torchvision's operator: overlaps in float32, compared in float64. 600 boxes take
    1.5 ms on one core, with torchvision 1.0 ms.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        iou_threshold: 0..1.

    Returns:
        indices of the boxes that are kept, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    x0, y0, x1, y1 = boxes[order].cpu().T.contiguous()
    areas = (x1 - x0) * (y1 - y0)
    dropped = np.zeros(len(order), bool)
    for first in range(0, len(order), _BLOCK):
        left, top, right, bottom, own = (side[first : first + _BLOCK, None] for side in (x0, y0, x1, y1, areas))
        shared = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp_(min=0)
        shared *= (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp_(min=0)
        overlaps = shared / (own + areas - shared)
        for index, row in enumerate((overlaps.double() > iou_threshold).numpy(), first):
            if not dropped[index]:
                dropped[index + 1 :] |= row[index + 1 :]
    return order[torch.from_numpy(~dropped).to(order.device)]
