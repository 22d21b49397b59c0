"""Load the compiled operators of torchvision (NMS, deformable convolution) without importing torchvision itself.

Importing `torchvision.ops` costs 1.4 s of CPU, nearly as much as torch: its RoI align imports the compiler of torch.
The operators lie in a library of their own, whose file name differs between releases (`_C.so`, `_C_stable.so`, `.pyd`).

Source: torchvision's extension.py (BSD-3-Clause) loads the same file through the same function.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import torch

from boxwright.errors import UserError


def load_operators() -> None:
    """Register `torch.ops.torchvision`; do nothing where it is registered already.

    Raises:
        UserError: torchvision is not installed, or was built for another torch.
    """
    if "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms"):
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.origin:
        raise UserError("torchvision is not installed; install it together with torch, in one command")
    failed = ""
    for library in sorted(Path(found.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            failed = f" ({error})"
        if hasattr(torch.ops.torchvision, "nms"):
            return
    torchvision = importlib.metadata.version("torchvision")
    raise UserError(
        f"torchvision {torchvision} does not fit torch {torch.__version__}{failed}; "
        "install both anew in one command: pip install --force-reinstall torch torchvision"
    )
