"""Several networks as one, on stand-ins that find fixed rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from boxwright.errors import UserError
from boxwright.yolo.detection import Network
from boxwright.yolo.ensemble import Ensemble


class Fixed(Network):
    """A network whose decoded rows all hold one value."""

    def __init__(
        self,
        value: float,
        rows: int,
        *,
        strides: tuple[int, ...] = (8, 16, 32),
        names: tuple[str, ...] = ("a", "b"),
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.value, self.rows, self.names, self.input_size, self._strides = value, rows, names, input_size, strides

    @property
    def strides(self) -> tuple[int, ...]:
        return self._strides

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.full((len(images), self.rows, 7), self.value, dtype=torch.bfloat16)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        assert raw[0].dtype == torch.float32
        return raw[0] * 2


def test_rows_of_all_in_order() -> None:
    network = Ensemble([Fixed(1, 2), Fixed(3, 1), Fixed(5, 0)], ["x", "y", "z"])
    found = network.decode(network(torch.zeros(2, 3, 32, 32)))
    assert found.shape == (2, 3, 7)
    assert found[:, :, 0].tolist() == [[2, 2, 6]] * 2
    assert network.names == ("a", "b")
    assert network.num_classes == 2


@pytest.mark.parametrize("order", [1, -1])
def test_strides_of_the_coarsest_and_the_one_fixed_size(order: int) -> None:
    networks = [Fixed(0, 1), Fixed(0, 1, strides=(64, 32, 16, 8)), Fixed(0, 1, input_size=(64, 128))][::order]
    network = Ensemble(networks, ["x", "y", "z"])
    assert network.strides == (64, 32, 16, 8)
    assert network.input_size == (64, 128)


def test_networks_bound_to_different_sizes() -> None:
    networks = [Fixed(0, 1, input_size=size) for size in ((64, 128), None, (64, 64))]
    with pytest.raises(UserError, match="take only their own: x 128x64, z 64x64"):
        Ensemble(networks, ["x", "y", "z"])


def test_the_same_names_in_another_order_are_other_classes() -> None:
    with pytest.raises(UserError, match="class 0 is 'b' in y but 'a' in x"):
        Ensemble([Fixed(0, 1), Fixed(0, 1, names=("b", "a"))], ["x", "y"])
