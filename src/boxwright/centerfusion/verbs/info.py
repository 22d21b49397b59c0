"""The info verb of CenterFusion: its parts, their parameters and outputs."""

from collections.abc import Sequence

import torch

from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import COARSEST_STRIDE, MODEL
from boxwright.errors import UserError
from boxwright.reporting.report import Table


def describe_fusion(model: str, imgsz: Sequence[int]) -> str:
    """Describe the network: one line per part, then the sum.

    Args:
        model: its name.
        imgsz: one side, or height and width of the image.

    Raises:
        UserError: there is no such model, or the network does not take such an image.
    """
    if model != MODEL:
        raise UserError(f"there is no model {model}; did you mean {MODEL}?")
    height, width = imgsz[0], imgsz[-1]
    if height % COARSEST_STRIDE or width % COARSEST_STRIDE or min(height, width) < COARSEST_STRIDE:
        raise UserError(f"--imgsz {height} {width}: both sides are multiples of {COARSEST_STRIDE}, as 448 800")
    network = CenterFusion(CenterFusionSpec()).eval()
    # Shapes of the outputs without computing them.
    with torch.device("meta"), torch.no_grad():
        grid = (height // 4, width // 4)
        shapes = network.to("meta")(torch.zeros(1, 3, height, width), association=torch.zeros(1, 3, *grid))
    rows: list[list[str]] = []
    for name, part in network.named_children():
        count = sum(parameter.numel() for parameter in part.parameters())
        shape = " x ".join(map(str, shapes[name].shape[1:])) if name in shapes else "features"
        rows.append([name, f"{count:,}", shape])
    total = sum(parameter.numel() for parameter in network.parameters())
    table = Table(f"{model}, image of {width} x {height}", ("part", "parameters", "output"), rows)
    return f"{table.as_text()}\n{total:,} parameters"
