"""The heads of the centre networks: which there are, in published order, and how one is built.

Source: Zhou et al., "Objects as Points", 2019 (arXiv:1904.07850); Nabati and Qi, "CenterFusion", 2020
(arXiv:2011.04841); published CenterFusion behaviour.
"""

from __future__ import annotations

from torch import nn

FIRST_HEADS = {"hm": 0, "reg": 2, "wh": 2, "dep": 1, "rot": 8, "dim": 3, "amodel_offset": 2}
"""Output channels by name; the heat map has one a class."""
SECOND_HEADS = {"dep_sec": 1, "rot_sec": 8, "nuscenes_att": 8, "velocity": 3}
"""Those that also read the associated radar."""
CAMERA_HEADS = {"nuscenes_att": 8, "velocity": 3}
"""What a network without radar has in the place of the second heads, built like the first ones."""
PRIOR_BIAS = -4.6  # a heat map that begins at 0.01 everywhere
_SECOND_DEPTH = 3


def make_head(name: str, in_channels: int, hidden: int, out_channels: int, *, second: bool) -> nn.Sequential:
    """A 3x3 convolution, for second heads two 1x1 convolutions, and a 1x1 convolution to raw values."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(_SECOND_DEPTH - 1 if second else 0):
        layers += [nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True)]
    last = nn.Conv2d(hidden, out_channels, 1)
    head = nn.Sequential(*layers, last)
    if name == "hm":
        assert last.bias is not None
        nn.init.constant_(last.bias, PRIOR_BIAS)
        return head
    for layer in head:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return head
