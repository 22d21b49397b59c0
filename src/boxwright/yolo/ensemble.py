"""Several networks as one: the rows of all go through one NMS.

Source: published YOLOv5 behaviour (several weights are concatenated, then NMS).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.errors import UserError
from boxwright.yolo.detection import Network


class Ensemble(Network):
    """Networks of the same classes. `forward` gives the decoded rows of all, `decode` hands them on.

    Args:
        networks: in eval mode, on one device; they are not copied.
        sources: where each comes from, for messages.

    Raises:
        UserError: their classes differ, or the image sizes that they are bound to.
    """

    def __init__(self, networks: Sequence[Network], sources: Sequence[str]) -> None:
        super().__init__()
        first = networks[0]
        for network, source in zip(networks, sources, strict=True):
            _check_classes(first.names, sources[0], network.names, source)
        sizes = {source: n.input_size for n, source in zip(networks, sources, strict=True) if n.input_size is not None}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{source} {width}x{height}" for source, (height, width) in sizes.items())
            raise UserError(f"networks run together on images of one size, but these take only their own: {listed}")
        self.networks = nn.ModuleList(networks)
        self.names = first.names
        if len({network.release for network in networks}) == 1:  # else the rules of v7.0 hold for all
            self.release = first.release
        self.input_size = next(iter(sizes.values()), None)
        self._strides = max((network.strides for network in networks), key=max)

    @property
    def strides(self) -> tuple[int, ...]:
        """Those of the network with the largest, so that its multiples suit every network."""
        return self._strides

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for network in self.networks:
            assert isinstance(network, Network)
            found.append(network.decode([level.float() for level in network(images)]))
        return [torch.cat(found, dim=1)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


def _check_classes(wanted: tuple[str, ...], first: str, names: tuple[str, ...], source: str) -> None:
    """Networks that run together must speak of the same classes, in the same order."""
    rule = "networks that run together need the same classes"
    if len(names) != len(wanted):
        raise UserError(f"{source} has {len(names)} classes but {first} has {len(wanted)}: {rule}")
    for i, (theirs, ours) in enumerate(zip(names, wanted, strict=True)):
        if theirs != ours:
            raise UserError(f"class {i} is {theirs!r} in {source} but {ours!r} in {first}: {rule}")
