"""The export verb for CenterFusion: a checkpoint to ONNX, association included, checked against PyTorch."""

from pathlib import Path

from boxwright.centerfusion.export import CenterAgreement, export_center
from boxwright.centerfusion.settings import FusionExportConfig
from boxwright.centerfusion.weights import open_trained
from boxwright.errors import UserError
from boxwright.inference.exported import write_verified


def fusion_export(config: FusionExportConfig) -> dict[Path, CenterAgreement]:
    """Write a camera and radar network beside its checkpoint; the input size is that of its training if none is given.

    Args:
        config: settings of the verb.

    Raises:
        UserError: no weights, or the file does not agree with PyTorch: it is not kept.
    """
    if not config.weights:
        raise UserError("export needs --weights")
    trained = open_trained(config.weights)
    given = config.imgsz or trained.config.imgsz
    target = Path(config.weights).expanduser().with_suffix(".onnx")
    return {target: write_verified(target, lambda path: export_center(trained.model, path, (given[0], given[-1])))}
