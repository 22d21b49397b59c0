"""Which loss a network is trained with: the one place that decides between the published recipes."""

from __future__ import annotations

from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.loss import REFERENCE_STRIDE, SumOverRanks, YoloLoss, alone
from boxwright.yolo.loss_v3 import YoloV3Loss
from boxwright.yolo.published import RELEASES, V3
from boxwright.yolo.settings import LossConfig


def check_criterion(model: DetectionModel, config: LossConfig) -> None:
    """Refuse options that the loss of this network does not have, before anything is done.

    Raises:
        UserError: there is nothing that autobalance could move.
    """
    if not config.autobalance:
        return
    if (config.recipe or model.release) == V3:
        raise UserError("--loss.autobalance: the loss of YOLOv3-SPP has no weights of levels that could be balanced")
    if REFERENCE_STRIDE not in model.strides:
        raise UserError(
            f"--loss.autobalance holds the level of stride {REFERENCE_STRIDE} fixed; this model has only the strides "
            + ", ".join(map(str, model.strides))
        )


def make_criterion(
    model: DetectionModel, config: LossConfig, imgsz: int | None = None, over_ranks: SumOverRanks = alone
) -> YoloLoss | YoloV3Loss:
    """The loss of a recipe for a network; boxes are read as the network means them, whatever the recipe.

    Args:
        model: gives anchors, strides, classes, and the recipe where the settings name none.
        config: recipe, gains and options.
        imgsz: network input side for which the gains are scaled; None takes them as they are.
        over_ranks: sums over the processes that share a batch.
    """
    rules = RELEASES[config.recipe or model.release].loss
    if rules is None:
        return YoloV3Loss(model.anchors, model.num_classes, config, imgsz, model.box_coding, over_ranks)
    return YoloLoss(model.anchors, model.strides, model.num_classes, config, imgsz, model.box_coding, rules, over_ranks)
