"""CenterFusion to ONNX: heads and, with radar, the association in one graph; any batch, one image size.

The deformable convolution becomes GridSample and Conv, the association standard operators; nothing is custom.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from boxwright.centerfusion.frustum import FrustumOptions, associate
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.postprocess import decode
from boxwright.centerfusion.settings import STRIDE, FusionExportConfig
from boxwright.centerfusion.structures import RawHeads
from boxwright.centerfusion.weights import open_trained
from boxwright.errors import UserError
from boxwright.inference.exported import (
    LARGEST,
    ExportInfo,
    largest_difference,
    open_exported,
    require,
    write_onnx,
    write_verified,
)
from boxwright.inference.onnx_graph import EXPORTED_OPSET
from boxwright.nuscenes.structures import CLASS_NAMES

_log = logging.getLogger("boxwright.export")
_TOLERANCE = 1e-3  # of the largest relative difference; what float32 leaves of a network of random weights is 1e-4
_ROUNDINGS, _TRIALS = 8, 16  # reach of the trials that find what rounding decides, and how many there are
_BOX_FIELDS = ("scores", "boxes", "depth", "rotation", "dims", "amodel_offset", "attributes", "velocity")
_FIELD_OF_VIEW = 0.75  # focal length of an example camera as part of the width of its image, about that of nuScenes


@dataclass(frozen=True, slots=True)
class CenterExportInfo(ExportInfo):
    """What an exported file says about itself; images always have one size."""

    system: ClassVar[str] = "CenterFusion"

    spec: CenterFusionSpec  # the network
    frustum: FrustumOptions  # how the file associates radar
    num_peaks: int  # objects that it associates


@dataclass(frozen=True, slots=True)
class CenterAgreement:
    """How a file compares with its network."""

    heads: Mapping[str, float]  # largest |a - b| / (1 + |b|) of each, the second ones for equal associated radar
    association: float  # the same of the associated radar for equal first heads; 0 without radar
    boxes: float  # the same of the decoded boxes that both find: those of one class and cell
    num_boxes: int  # of the network
    num_same: int  # found by the file, too
    num_rounded: int  # of those, boxes that differ as rounding alone decides which return they get: not in `boxes`

    @property
    def fault(self) -> str:
        """Return why the file must not be kept; empty where it may."""
        differences = (*self.heads.values(), self.association, self.boxes)
        agrees = all(difference <= _TOLERANCE for difference in differences)  # false for what is no number, too
        return "" if agrees else f"it differs from PyTorch ({self})"

    def __str__(self) -> str:
        worst = max(self.heads, key=lambda name: (math.isnan(self.heads[name]), self.heads[name]))
        text = (
            f"heads differ by at most {self.heads[worst]:.1g} ({worst}), associated radar by {self.association:.1g}, "
            f"boxes by {self.boxes:.1g}; {self.num_same} of {self.num_boxes} boxes found by both"
        )
        if self.num_rounded:
            text += f", {self.num_rounded} of them with another radar return, where rounding decides which"
        return text


class CenterOnnx:
    """An exported file, run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        file = open_exported(path, torch.device("cpu"))
        self._run, self.info = file.run, CenterExportInfo.from_json(file.metadata, path)

    def __call__(self, images: Tensor, radar: Tensor | None = None, calibs: Tensor | None = None) -> RawHeads:
        """Compute what `CenterFusion.forward` does, on the CPU."""
        if tuple(images.shape[2:]) != self.info.input_size:
            height, width = self.info.input_size or (0, 0)
            raise UserError(f"this file takes images of {width}x{height} pixels only")
        if not self.info.spec.radar:
            return self._run({"images": images})
        if radar is None or calibs is None:
            raise ValueError("a network with radar needs a radar map and camera matrices")
        return self._run({"images": images, "radar": radar, "calibs": calibs})


def fusion_export(config: FusionExportConfig) -> dict[Path, CenterAgreement]:
    """Write a camera and radar network beside its checkpoint; the input size is that of its training if none is given.

    Args:
        config: settings of the verb.

    Raises:
        UserError: no weights, or the file does not agree with PyTorch: it is not kept.
    """
    if not config.weights:
        raise UserError("export needs --weights")
    model, trained = open_trained(config.weights)
    given = config.imgsz or trained.imgsz
    if (given[0], given[-1]) != trained.imgsz:
        _log.warning("imgsz %d %d, but %s was trained at %d %d", given[0], given[-1], config.weights, *trained.imgsz)
    target = Path(config.weights).expanduser().with_suffix(".onnx")
    return {target: write_verified(target, lambda path: export_center(model, path, (given[0], given[-1])))}


def export_center(model: CenterFusion, path: Path, input_size: tuple[int, int]) -> CenterAgreement:
    """Write a network as ONNX and compare the file with it, on example inputs.

    The file's inputs are `images` (B, 3, h, w) and, with radar, `radar` (B, 3, h / 4, w / 4) and `calibs` (B, 3, 4).
    Its outputs are named as the heads. It associates as `model.frustum` says.

    Args:
        model: float32, on the CPU; its mode is left as it is.
        path: written to.
        input_size: height and width of images.

    Raises:
        UserError: a library is not installed.
    """
    require("onnxruntime")
    names = (
        CLASS_NAMES if model.spec.num_classes == len(CLASS_NAMES) else tuple(map(str, range(model.spec.num_classes)))
    )
    info = CenterExportInfo(names, input_size, model.spec, model.frustum, model.num_peaks)
    inputs = _example_inputs(input_size, radar=model.spec.radar)
    training = model.training
    graph = _Graph(model).eval()
    try:
        free = {0: torch.export.Dim("batch", min=1, max=LARGEST)}
        write_onnx(
            graph,
            path,
            info,
            inputs,
            dict.fromkeys(inputs, free),
            {name: {0: "batch"} for name in graph.output_names},
            opset=EXPORTED_OPSET,
        )
        return compare_center(model, CenterOnnx(path), inputs)
    finally:
        model.train(training)


@torch.no_grad()
def compare_center(
    model: CenterFusion, exported: Callable[..., RawHeads], inputs: Mapping[str, Tensor]
) -> CenterAgreement:
    """Run a network and a file of it, and measure how far what a user gets of them differs: heads, radar and boxes.

    Which return an object gets is a choice: cells of nearly equal score compete, a depth lies near the end of a range,
    an edge near that of a cell. Where rounding alone makes the choice, neither answer is wrong.

    Args:
        model: in eval mode.
        exported: a file of it, called as the network is.
        inputs: by name, as the file takes them.
    """
    found, own = exported(**inputs), model(**inputs)
    association = found.get("pc_hm")
    heads = own if association is None else model(inputs["images"], association=association)
    differences = {
        name: largest_difference(found[name], heads[name], relative=True) for name in found if name != "pc_hm"
    }
    theirs, ours = decode(found, model.num_peaks), decode(own, model.num_peaks)
    same_cell = (theirs.cells[:, :, None] == ours.cells[:, None]).all(-1)
    same = same_cell & (theirs.labels[:, :, None] == ours.labels[:, None])
    image, row, other = same.nonzero(as_tuple=True)
    a, b = (
        torch.cat([getattr(peaks, name)[image, at][..., None].flatten(1) for name in _BOX_FIELDS], dim=1)
        for peaks, at in ((theirs, row), (ours, other))
    )
    # A network without a head of attributes has none in both.
    apart = torch.where(a.isnan() & b.isnan(), 0.0, (a - b).abs() / (1 + b.abs()))
    of_boxes = apart.nan_to_num(torch.inf).amax(1)
    gap, excused = 0.0, torch.zeros_like(of_boxes, dtype=torch.bool)
    if association is not None:
        expected = associate(found, inputs["radar"], inputs["calibs"], model.frustum, model.num_peaks)
        gaps = ((association - expected).abs() / (1 + expected.abs())).nan_to_num(torch.inf).amax(1)
        if (gaps > _TOLERANCE).any() or (of_boxes > _TOLERANCE).any():
            trials = [own["pc_hm"], expected, *_moved_associations(model, found, own, inputs)]
            least, most = torch.aminmax(torch.stack(trials), dim=0)
            rounded = (most - least > _TOLERANCE * (1 + least.abs())).any(1)
            gaps = torch.where(rounded, 0.0, gaps)
            # The second heads see the cells around theirs.
            near = max_pool2d(rounded[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
            excused = (of_boxes > _TOLERANCE) & near[image, theirs.cells[image, row, 1], theirs.cells[image, row, 0]]
        gap = float(gaps.max())
    worst = float(of_boxes[~excused].max()) if (~excused).any() else 0.0
    return CenterAgreement(differences, gap, worst, ours.scores.numel(), len(image), int(excused.sum()))


def _moved_associations(
    model: CenterFusion, found: RawHeads, own: RawHeads, inputs: Mapping[str, Tensor]
) -> Iterator[Tensor]:
    """Associate with first heads that are moved at random, by a few times what the file and the network differ.

    Cells (B, 3, H, W) that are not the same in all of them are decided by rounding.
    """
    generator = torch.Generator().manual_seed(0)
    first = {name: found[name] for name in model.first_heads}
    reach = {
        name: _ROUNDINGS * max(largest_difference(value, own[name], relative=True), torch.finfo(torch.float32).eps)
        for name, value in first.items()
    }
    for _ in range(_TRIALS):
        heads = {
            name: value + reach[name] * (1 + value.abs()) * (2 * torch.rand(value.shape, generator=generator) - 1)
            for name, value in first.items()
        }
        yield associate(heads, inputs["radar"], inputs["calibs"], model.frustum, model.num_peaks)


def _example_inputs(input_size: tuple[int, int], *, radar: bool) -> dict[str, Tensor]:
    """Make two images of noise with different cameras, and returns of all depths."""
    generator = torch.Generator().manual_seed(0)
    height, width = input_size
    inputs = {"images": torch.randn(2, 3, height, width, generator=generator)}
    if not radar:
        return inputs
    returns = torch.randn(2, 3, height // STRIDE, width // STRIDE, generator=generator)
    returns[:, 0] = (60 * returns[:, 0]).clamp(min=0)
    focal = torch.tensor((1.0, 1.2)) * _FIELD_OF_VIEW * 2 * width
    calibs = torch.zeros(2, 3, 4)
    calibs[:, 0, 0], calibs[:, 1, 1], calibs[:, 2, 2] = focal, focal, 1
    calibs[:, 0, 2], calibs[:, 1, 2] = width, height  # the original image has twice the size
    return inputs | {"radar": returns, "calibs": calibs}


class _Graph(nn.Module):
    """What is traced: heads in a fixed order."""

    def __init__(self, model: CenterFusion) -> None:
        super().__init__()
        self.network = model
        associated = ("pc_hm",) if model.spec.radar else ()
        self.output_names = (*model.first_heads, *associated, *model.second_heads)

    def forward(self, images: Tensor, radar: Tensor | None = None, calibs: Tensor | None = None) -> tuple[Tensor, ...]:
        heads = self.network(images, radar, calibs)
        return tuple(heads[name] for name in self.output_names)
