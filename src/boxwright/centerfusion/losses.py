"""The losses of CenterFusion: heat map, regression at the objects' cells, rotation in two bins, attributes.

Every part is a masked mean over slots padded to one count: shapes never depend on the batch, nothing waits for the
device, and a batch without objects costs only its heat map.

Source: Zhou et al. 2019, Objects as Points (arXiv:1904.07850) for the heat map and the rotation bins; Nabati and Qi
2020, CenterFusion (arXiv:2011.04841); published CenterFusion behaviour, docs/spec/centerfusion.md, C9. The rotation
loss is the one since October 2022: slots without a label do not count.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwright.centerfusion.heads import at_cells, at_least_float32, depth_from_raw
from boxwright.centerfusion.settings import FusionLossConfig
from boxwright.centerfusion.structures import RawHeads, Targets3d

_REFINED = ("dep", "rot")  # heads that a radar model has a second time, "dep_sec" and "rot_sec"
_EPS = 1e-4  # clamp of the heat map and, in published code, also what is added to the number of labels
_NUM_BINS = 2
_BIN_CHANNELS = 4  # not in the bin, in the bin, sine, cosine


class CenterLoss(nn.Module):
    """Weighted sum of the losses of all heads, in the order in which the published log names them.

    Args:
        config: weight of each head in the total; None: the published ones.
        radar: whether the model has second-stage depth and rotation, which weigh as much as the first.
    """

    def __init__(self, config: FusionLossConfig | None = None, *, radar: bool = True) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        for name, weight in config or FusionLossConfig():
            self.weights[name] = weight
            if radar and name in _REFINED:
                self.weights[f"{name}_sec"] = weight
        self.loss_names = ("tot", *self.weights)

    def forward(self, heads: RawHeads, targets: Targets3d[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the losses of a batch in float32 or wider whatever the precision of the heads.

        Returns:
            The total, a scalar with gradient; and the total and the unweighted losses (len(loss_names),), detached.
        """
        wanted = {
            "wh": targets.size,
            "reg": targets.offset,
            "dim": targets.dims,
            "amodel_offset": targets.amodel_offset,
        }
        losses: dict[str, Tensor] = {}
        for name in self.weights:
            head = at_least_float32(heads[name])
            values = at_cells(head, targets.cell)
            match name.removesuffix("_sec"):
                case "hm":
                    losses[name] = heatmap_loss(head, targets)
                case "rot":
                    losses[name] = rotation_loss(values, targets)
                case "nuscenes_att":
                    losses[name] = attribute_loss(values, targets.attributes, targets.attributes_valid)
                case "dep":
                    losses[name] = masked_l1(depth_from_raw(values), targets.depth, targets.depth_valid)
                case "velocity":
                    losses[name] = masked_l1(values, targets.velocity, targets.velocity_valid)
                case _:
                    losses[name] = masked_l1(values, wanted[name], targets.valid[..., None].expand_as(values))
        total = torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum()
        return total, torch.stack([total, *losses.values()]).detach()


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
