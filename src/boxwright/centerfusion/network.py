"""CenterFusion: an image, and radar where there is one, to maps of object centres with depth, size, heading, velocity.

DLA-34 with deformable up-sampling gives features at stride 4. First heads see objects in them; radar returns are
associated with those objects; second heads read features and associated radar. Decoding is in postprocess.
Source: Nabati and Qi, "CenterFusion", 2020 (arXiv:2011.04841); published CenterFusion behaviour and state-dict keys.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, nn

from boxwright.centerfusion.cell_head import CellHead
from boxwright.centerfusion.dla import CHANNELS, DeepTree, Dla34, DlaUp, IdaUp, NodeKind
from boxwright.centerfusion.frustum import FrustumOptions, associate
from boxwright.centerfusion.heads import raw_from_depth
from boxwright.centerfusion.structures import RawHeads
from boxwright.errors import UserError
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.settings.base import Count, Frozen

FIRST_HEADS = {"hm": 0, "reg": 2, "wh": 2, "dep": 1, "rot": 8, "dim": 3, "amodel_offset": 2}
"""Output channels by name, in published order; the heat map has one channel per class."""
SECOND_HEADS = {"dep_sec": 1, "rot_sec": 8, "nuscenes_att": 8, "velocity": 3}
"""Those that also read the associated radar."""
CAMERA_HEADS = {"nuscenes_att": 8, "velocity": 3}
"""What a network without radar has in the place of the second heads, built like the first ones."""
OPTIONAL_HEADS = ("nuscenes_att", "velocity")
"""Those that a published network of boxes alone lacks; as the published switches that add them."""
PRIOR_BIAS = -4.6  # of the heat map, which begins at sigmoid(-4.6) = 0.01 everywhere
BACKBONE = ("base.", "dla_up.", "ida_up.")
"""What the names of the parameters begin with that make the features; the others are heads."""
NUM_PEAKS = 100  # objects of the association at inference
_FIRST_LEVEL, _LAST_LEVEL = 2, 5  # strides 4 and 32
_RADAR_CHANNELS = 3
_CHANNEL_STEP = 4


class CenterFusionSpec(Frozen):
    """What the network is made of; a checkpoint holds it."""

    model_config = ConfigDict(strict=True)  # a file that holds another type was not written by this tool

    # scales all numbers of channels, those of the heads included; they stay multiples of 4
    width: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    radar: bool = True  # False, camera only: no second depth and rotation; velocity and attributes from the image
    dla_node: NodeKind = "dcn"  # convolutions of the up-sampling, deformable or ordinary 1x1 ones ("conv")
    head_conv: Count = 256  # hidden channels of a head at width 1
    num_classes: Count = len(CLASS_NAMES)  # channels of the heat map
    nuscenes_att: bool = True  # has a head of attributes
    velocity: bool = True  # has a head of velocity

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the optional heads that the network does not have."""
        return tuple(name for name in OPTIONAL_HEADS if not getattr(self, name))

    def scaled(self, channels: int) -> int:
        """Scale a number of channels to this width."""
        return channels if self.width == 1 else max(_CHANNEL_STEP * round(channels * self.width / _CHANNEL_STEP), 4)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "model") -> Self:
        """Build a spec from its plain values.

        Raises:
            UserError: a key or value is not what it should be; `where` names the place.
        """
        try:
            return cls(**mapping)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{where}: {first['loc'][0]}: {first['msg']}, not {first['input']!r}") from error


class CenterFusion(nn.Module):
    """The network of a spec, with random weights.

    Attributes:
        spec: how to build it again.
        frustum: how radar is associated at inference.
        num_peaks: objects that are associated at inference.
    """

    def __init__(self, spec: CenterFusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.frustum = FrustumOptions()
        self.num_peaks = NUM_PEAKS
        # The order in which parts are made is that in which they take random numbers: keep it, or the same seed starts
        # another network.
        channels = tuple(map(spec.scaled, CHANNELS))
        features, hidden = channels[_FIRST_LEVEL], spec.scaled(spec.head_conv)
        first = FIRST_HEADS | {"hm": spec.num_classes} | ({} if spec.radar else CAMERA_HEADS)
        second = SECOND_HEADS if spec.radar else {}
        first, second = ({n: size for n, size in heads.items() if n not in spec.lacking} for heads in (first, second))
        for name, size in first.items():
            self.add_module(name, _make_head(name, features, hidden, size, second=False))
        for name, size in second.items():
            self.add_module(name, _make_head(name, features + _RADAR_CHANNELS, hidden, size, second=True))
        self.first_heads, self.second_heads = tuple(first), tuple(second)
        self.base = Dla34(channels)
        self.dla_up = DlaUp(channels[_FIRST_LEVEL:], spec.dla_node)
        self.ida_up = IdaUp(features, channels[_FIRST_LEVEL:_LAST_LEVEL], (1, 2, 4), spec.dla_node)

    @property
    def unused_prefixes(self) -> tuple[str, ...]:
        """Return the prefixes of the parameters that no gradient reaches; they are published all the same."""
        return tuple(f"base.{name}.project." for name, part in self.base.named_children() if isinstance(part, DeepTree))

    def start_at_depth(self, depth: float) -> None:
        """Initialise the bias of the depth heads to a mean depth in metres; the published start is 1."""
        bias = raw_from_depth(torch.tensor(depth, dtype=torch.float64))
        for name in ("dep", "dep_sec"):
            if name in (*self.first_heads, *self.second_heads):
                nn.init.constant_(cast(Tensor, cast(nn.Sequential, getattr(self, name))[-1].bias), float(bias))

    def features(self, images: Tensor) -> Tensor:
        """Compute features (B, 64 x width, h / 4, w / 4) of normalised images (B, 3, h, w), sides multiples of 32."""
        levels = self.dla_up(self.base(images)[_FIRST_LEVEL:])
        return self.ida_up(levels[: _LAST_LEVEL - _FIRST_LEVEL])[-1]

    def forward(
        self,
        images: Tensor,
        radar: Tensor | None = None,
        calibs: Tensor | None = None,
        association: Tensor | None = None,
    ) -> RawHeads:
        """Compute raw outputs, in training and in evaluation alike.

        Args:
            images: (B, 3, h, w) normalised BGR, sides multiples of 32.
            radar: (B, 3, h / 4, w / 4) map of depth (m) and velocity to the right and forward (m/s); with `calibs`
                it is associated with what the first heads see. A camera-only network ignores both.
            calibs: (B, 3, 4) camera matrices of the original images.
            association: (B, 3, h / 4, w / 4) associated map, given to the second heads as it is, as in training.

        Returns:
            head name to (B, C, h / 4, w / 4); with radar also `pc_hm`, what the second heads were given.

        Raises:
            ValueError: a network with radar gets neither radar and calibs nor an association.
        """
        features = self.features(images)
        heads: RawHeads = {name: self.get_submodule(name)(features) for name in self.first_heads}
        if not self.spec.radar:
            return heads
        if association is None:
            if radar is None or calibs is None:
                raise ValueError("a network with radar needs a radar map and camera matrices, or an association")
            # Which return belongs to which object is a choice, not a function to differentiate.
            with torch.no_grad():
                association = associate(heads, radar, calibs, self.frustum, self.num_peaks)
        heads["pc_hm"] = association
        both = torch.cat((features, association.to(features.dtype)), dim=1)
        return heads | {name: self.get_submodule(name)(both) for name in self.second_heads}


def _make_head(name: str, in_channels: int, hidden: int, out_channels: int, *, second: bool) -> nn.Sequential:
    """Make a 3x3 convolution, for second heads two 1x1 convolutions, and a 1x1 convolution to raw values."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(2 if second else 0):
        layers += [nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(hidden, out_channels, 1))
    # The loss of the heat map reads every cell, all others read the objects' alone.
    head = nn.Sequential(*layers) if name == "hm" else CellHead(*layers)
    if name == "hm":
        nn.init.constant_(cast(Tensor, head[-1].bias), PRIOR_BIAS)
        return head
    # The biases of all other heads are published as 0; the heat map's hidden layer keeps PyTorch's own.
    for layer in head:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(cast(Tensor, layer.bias))
    return head
