"""The losses of CenterFusion: heat map, regression at the objects' cells, rotation in two bins, attributes.

Every part is a masked mean over slots padded to one count: shapes never depend on the batch, nothing waits for the
device, and a batch without objects costs only its heat map.

Source: Zhou et al. 2019, Objects as Points (arXiv:1904.07850) for the heat map and the rotation bins; Nabati and Qi
2020, CenterFusion (arXiv:2011.04841); published CenterFusion behaviour, docs/spec/centerfusion.md, C9. The rotation
loss is the one since October 2022: slots without a label do not count.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwright.centerfusion.heads import at_cells, at_least_float32, depth_from_raw
from boxwright.centerfusion.structures import RawHeads, Targets3d

PUBLISHED_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "hm": 1.0,
        "wh": 0.1,
        "reg": 1.0,
        "dep": 1.0,
        "dep_sec": 1.0,
        "dim": 1.0,
        "rot": 1.0,
        "rot_sec": 1.0,
        "amodel_offset": 1.0,
        "nuscenes_att": 1.0,
        "velocity": 1.0,
    }
)
"""Weight of each head in the total, in the order in which the published log names the losses."""
SECOND_STAGE = ("dep_sec", "rot_sec")  # heads that only a radar model has
_EPS = 1e-4  # clamp of the heat map and, in published code, also what is added to the number of labels
_NUM_BINS = 2
_BIN_CHANNELS = 4  # not in the bin, in the bin, sine, cosine


class CenterLoss(nn.Module):
    """Weighted sum of the losses of all heads.

    Args:
        weights: of each head in the total; a head that is not named has its published weight.
        radar: whether the model has second-stage depth and rotation.
    """

    def __init__(self, weights: Mapping[str, float] = PUBLISHED_WEIGHTS, *, radar: bool = True) -> None:
        super().__init__()
        unknown = sorted(set(weights) - set(PUBLISHED_WEIGHTS))
        if unknown:
            raise ValueError(f"no head is named {unknown[0]}; heads are {', '.join(PUBLISHED_WEIGHTS)}")
        known = {**PUBLISHED_WEIGHTS, **weights}
        self.weights = {name: weight for name, weight in known.items() if radar or name not in SECOND_STAGE}
        self.loss_names = ("tot", *self.weights)

    def forward(self, heads: RawHeads, targets: Targets3d[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the losses of a batch in float32 or wider whatever the precision of the heads.

        Returns:
            The total, a scalar with gradient; and the total and the unweighted losses (len(loss_names),), detached.
        """
        losses = {name: self._loss(name, at_least_float32(heads[name]), targets) for name in self.weights}
        total = torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum()
        return total, torch.stack([total, *losses.values()]).detach()

    def _loss(self, name: str, head: Tensor, targets: Targets3d[Tensor]) -> Tensor:
        """Compute the loss of one head."""
        if name == "hm":
            return heatmap_loss(head, targets)
        values = at_cells(head, targets.cell)
        match name:
            case "rot" | "rot_sec":
                return rotation_loss(values, targets)
            case "nuscenes_att":
                return attribute_loss(values, targets.attributes, targets.attributes_valid)
            case "dep" | "dep_sec":
                return masked_l1(depth_from_raw(values), targets.depth, targets.depth_valid)
            case "wh":
                return masked_l1(values, targets.size, targets.size_valid)
            case "reg":
                return masked_l1(values, targets.offset, targets.offset_valid)
            case "dim":
                return masked_l1(values, targets.dims, targets.dims_valid)
            case "amodel_offset":
                return masked_l1(values, targets.amodel_offset, targets.amodel_valid)
            case _:
                return masked_l1(values, targets.velocity, targets.velocity_valid)


def heatmap_loss(raw: Tensor, targets: Targets3d[Tensor]) -> Tensor:
    """Compute the penalty-reduced focal loss of raw scores (B, C, H, W), over the batch, divided by its objects.

    Without objects only the background counts, undivided.
    """
    scores = raw.sigmoid().clamp(_EPS, 1 - _EPS)
    # Near a centre the target is below 1 but not 0: the fourth power of the gap spares the cells there.
    background = ((1 - scores).log() * scores**2 * (1 - targets.heatmap.to(raw.dtype)) ** 4).sum()
    area = raw.shape[2] * raw.shape[3]
    found = scores.flatten(1).gather(1, targets.label * area + targets.cell)
    objects = (found.log() * (1 - found) ** 2 * targets.valid).sum()
    return -(objects + background) / targets.valid.sum().clamp(min=1)


def masked_l1(values: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Average the absolute difference over the components that have a label; 0 where none has. All (B, M, C)."""
    # What is not known may be NaN: it is replaced before the difference, since NaN times 0 is NaN.
    difference = (values - wanted.masked_fill(~valid, 0)).abs()
    return (difference * valid).sum() / (valid.sum(dtype=values.dtype) + _EPS)


def attribute_loss(logits: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Average the binary cross entropy over the attributes of the object's family. All (B, M, 8)."""
    cost = functional.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    return (cost * valid).sum() / (valid.sum(dtype=logits.dtype) + _EPS)


def rotation_loss(values: Tensor, targets: Targets3d[Tensor]) -> Tensor:
    """Sum the losses of whether alpha lies in each bin, over labelled objects, and of its residual, over those inside.

    Args:
        values: (B, M, 8) for each bin two logits, then sine and cosine of the residual.
    """
    bins = values.unflatten(2, (_NUM_BINS, _BIN_CHANNELS))
    labelled = targets.rot_valid[..., None].expand_as(targets.rot_bins)
    entropy = functional.cross_entropy(bins[..., :2].movedim(-1, 1), targets.rot_bins, reduction="none")
    residuals = targets.rot_residuals.to(values.dtype)
    wanted = torch.stack((residuals.sin(), residuals.cos()), dim=-1)
    distance = functional.smooth_l1_loss(bins[..., 2:], wanted, reduction="none").sum(-1)
    inside = labelled & (targets.rot_bins > 0)
    return (_mean_by_bin(entropy, labelled) + _mean_by_bin(distance, inside)).sum()


def _mean_by_bin(cost: Tensor, counted: Tensor) -> Tensor:
    """Average a cost (B, M, 2) to (2,) over the objects that count; 0 if none does."""
    return (cost * counted).sum((0, 1)) / counted.sum((0, 1)).clamp(min=1)
