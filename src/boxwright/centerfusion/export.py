"""CenterFusion to ONNX: heads and, with radar, the association in one graph; any batch, one image size.

The deformable convolution becomes GridSample and Conv, the association standard operators; nothing is custom.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.centerfusion.frustum import FrustumOptions, associate
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import COARSEST_STRIDE, FAMILY, STRIDE
from boxwright.centerfusion.structures import RawHeads
from boxwright.errors import UserError
from boxwright.inference.export_onnx import save_onnx, trace
from boxwright.inference.exported import METADATA_KEY, require
from boxwright.nuscenes.structures import CLASS_NAMES

_LARGEST_BATCH = 1024
_FIELD_OF_VIEW = 0.75  # focal length of a made camera as part of the width of its image, about that of nuScenes


@dataclass(frozen=True, slots=True)
class CenterExportInfo:
    """What an exported file says of itself.

    Args:
        input_size: height and width of its images.
        spec: the network.
        frustum: how the file associates radar.
        num_peaks: objects that it associates.
        names: one name a class.
    """

    input_size: tuple[int, int]
    spec: CenterFusionSpec
    frustum: FrustumOptions
    num_peaks: int
    names: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps({"family": FAMILY} | asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, where: Path) -> CenterExportInfo:
        """Read it back.

        Raises:
            UserError: the file was not written by `export_center`.
        """
        try:
            fields: dict[str, Any] = json.loads(text or "")
            if fields["family"] != FAMILY:
                raise ValueError(fields["family"])
            height, width = map(int, fields["input_size"])
            return cls(
                (height, width),
                CenterFusionSpec.from_mapping(fields["spec"], str(where)),
                FrustumOptions(**fields["frustum"]),
                int(fields["num_peaks"]),
                tuple(map(str, fields["names"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where} is not an exported CenterFusion network") from error


@dataclass(frozen=True, slots=True)
class CenterAgreement:
    """How a file compares with its network.

    Args:
        heads: largest |a - b| / (1 + |b|) of each head, the second ones for equal associated radar.
        association: largest difference of the associated radar for equal first heads; 0 without radar.
    """

    heads: Mapping[str, float]
    association: float

    @property
    def largest(self) -> float:
        """The largest of all differences."""
        return max(*self.heads.values(), self.association)

    def __str__(self) -> str:
        worst = max(self.heads, key=lambda name: self.heads[name])
        return f"heads differ by at most {self.heads[worst]:.1g} ({worst}), associated radar by {self.association:.1g}"


class CenterOnnx:
    """An exported file, run by ONNX Runtime on the CPU.

    Attributes:
        info: what the file says.
    """

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exception types share no base
            raise UserError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
        self.info = CenterExportInfo.from_json(
            self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path
        )

    def __call__(self, images: Tensor, radar: Tensor | None = None, calibs: Tensor | None = None) -> RawHeads:
        """As `CenterFusion.forward`, on the CPU."""
        if tuple(images.shape[2:]) != self.info.input_size:
            height, width = self.info.input_size
            raise UserError(f"this file takes images of {width}x{height} pixels only")
        given = {"images": images, "radar": radar, "calibs": calibs} if self.info.spec.radar else {"images": images}
        if any(value is None for value in given.values()):
            raise ValueError("a network with radar needs a radar map and camera matrices")
        arrays = {name: value.cpu().float().numpy() for name, value in given.items() if value is not None}
        names = [output.name for output in self._session.get_outputs()]
        found = self._session.run(names, arrays)
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def export_center(model: CenterFusion, path: Path, input_size: tuple[int, int]) -> CenterAgreement:
    """Write a network as ONNX and compare the file with it, on made inputs.

    The file's inputs are `images` (B, 3, h, w) and, with radar, `radar` (B, 3, h / 4, w / 4) and `calibs` (B, 3, 4).
    Its outputs are named as the heads. It associates as `model.frustum` says.

    Args:
        model: float32, on the CPU; its mode is left as it is.
        path: written to.
        input_size: height and width of images.

    Raises:
        UserError: a side is no multiple of 32, or a library is not installed.
    """
    require("onnxruntime")
    if any(side < COARSEST_STRIDE or side % COARSEST_STRIDE for side in input_size):
        raise UserError(f"sides of the input must be multiples of {COARSEST_STRIDE}, not {input_size}")
    names = (
        CLASS_NAMES if model.spec.num_classes == len(CLASS_NAMES) else tuple(map(str, range(model.spec.num_classes)))
    )
    info = CenterExportInfo(input_size, model.spec, model.frustum, model.num_peaks, names)
    inputs = _made_inputs(input_size, radar=model.spec.radar)
    training = model.training
    graph = _Graph(model).eval()
    try:
        batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
        proto = trace(graph, inputs, {name: {0: batch} for name in inputs}, list(graph.output_names))
        save_onnx(require("onnx"), proto, path, info.to_json())
        return compare_center(model, CenterOnnx(path), inputs)
    finally:
        model.train(training)


@torch.no_grad()
def compare_center(model: CenterFusion, exported: CenterOnnx, inputs: Mapping[str, Tensor]) -> CenterAgreement:
    """Run both.

    Rounding may change the order of nearly equal peaks, and with it whole windows of the association. So that is
    compared for the first heads of the file, and the second heads for its association.

    Args:
        model: in eval mode.
        exported: a file of it.
        inputs: by name, as the file takes them.
    """
    found = exported(**inputs)
    if not model.spec.radar:
        return CenterAgreement(_differences(found, model(inputs["images"])), 0.0)
    expected = associate(found, inputs["radar"], inputs["calibs"], model.frustum, model.num_peaks)
    heads = model(inputs["images"], association=found["pc_hm"])
    gap = float((found.pop("pc_hm") - expected).abs().max())
    return CenterAgreement(_differences(found, heads), gap)


def _differences(found: RawHeads, heads: RawHeads) -> dict[str, float]:
    return {name: float(((found[name] - heads[name]).abs() / (1 + heads[name].abs())).max()) for name in found}


def _made_inputs(input_size: tuple[int, int], *, radar: bool) -> dict[str, Tensor]:
    """Two images of noise with different cameras, and returns of all depths."""
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
