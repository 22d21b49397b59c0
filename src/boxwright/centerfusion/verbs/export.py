"""The export verb for CenterFusion: a checkpoint to ONNX, association included, checked against PyTorch."""

from pathlib import Path

from boxwright.centerfusion.export import CenterAgreement, export_center
from boxwright.centerfusion.weights import open_trained
from boxwright.errors import UserError
from boxwright.inference.exported import write_verified
from boxwright.yolo.settings import ExportConfig


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
    return {target: write_verified(target, lambda path: export_center(trained.model, path, (given[0], given[-1])))}
