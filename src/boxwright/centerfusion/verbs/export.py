"""The export verb for CenterFusion: a checkpoint to ONNX, association included, checked against PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

from boxwright.centerfusion.export import CenterAgreement, export_center
from boxwright.centerfusion.weights import open_trained
from boxwright.errors import UserError
from boxwright.yolo.settings import ExportConfig

_TOLERANCE = 1e-3  # of the largest relative difference; what float32 leaves of a network of random weights is 1e-4


def fusion_export(config: ExportConfig) -> dict[Path, CenterAgreement]:
    """Write a camera and radar network beside its checkpoint; the input size is that of its training if none is given.

    Args:
        config: settings of the verb.

    Raises:
        UserError: settings that this network does not have, or the file does not agree with PyTorch: it is not kept.
    """
    refused = [name for name in ("half", "int8", "nms", "source") if getattr(config, name)]
    refused += [name for name in ("conf_thres", "iou_thres", "max_det") if name in config.model_fields_set]
    refused += [f"include {kind}" for kind in config.include if kind != "onnx"]
    if refused:
        raise UserError(
            f"{config.weights} is CenterFusion, which is written as ONNX in float32 only, its heads as they are: leave "
            f"out --{refused[0].replace('_', '-')}"
        )
    if len(config.imgsz) > 2:
        raise UserError("--imgsz takes height and width of the network input, as 448 800")
    trained = open_trained(config.weights)
    given = list(config.imgsz if "imgsz" in config.model_fields_set else trained.config.imgsz)
    target = Path(config.weights).expanduser().with_suffix(".onnx")
    temporary = target.with_name(f".{target.name}.tmp")
    start = time.perf_counter()
    try:
        agreement = export_center(trained.model, temporary, (given[0], given[-1]))
        if not agreement.largest <= _TOLERANCE:
            raise UserError(f"{target} would differ from PyTorch ({agreement}); it is not kept")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    size, seconds = target.stat().st_size / 1e6, time.perf_counter() - start
    print(f"{target}: {size:.1f} MB in {seconds:.1f} s; {agreement}")
    return {target: agreement}
