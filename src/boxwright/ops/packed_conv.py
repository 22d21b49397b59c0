"""Convolution and activation in one call of oneDNN, its weights laid out beforehand: float32 inference on CPUs.

Measured with yolov5n at 640 px on one thread of an AMD EPYC (AVX-512): 8 % of the network's time.

Source: the operators are those that torch's own compiler calls for a frozen network (`torch.ops.mkldnn`). They are not
public, so that each is tried once; where one is missing or gives something else, `nn.Conv2d` runs as before.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Name of the activation for oneDNN, its numbers, its algorithm.
_Attribute = tuple[str, list[float | None], str]
_NONE: _Attribute = ("none", [], "")
_ATTRIBUTES: dict[type[nn.Module], Callable[[Any], _Attribute]] = {
    nn.Identity: lambda _: _NONE,
    nn.SiLU: lambda _: ("swish", [], ""),
    nn.ReLU: lambda _: ("relu", [], ""),
    nn.LeakyReLU: lambda act: ("leaky_relu", [act.negative_slope], ""),
    nn.Hardswish: lambda _: ("hardswish", [], ""),
    nn.Sigmoid: lambda _: ("sigmoid", [], ""),
    nn.Tanh: lambda _: ("tanh", [], ""),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0], ""),
}


class PackedConv2d(nn.Conv2d):
    """A convolution and its activation, with the parameters of the convolution that it takes the place of.

    It can be trained, exported, copied and saved as that: the packed weights are made when images first pass without
    gradient, and made anew where the weights have changed.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        super().__init__(*sizes, conv.groups, conv.bias is not None, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = activation
        self._attribute = _ATTRIBUTES[type(activation)](activation)
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self._packed: tuple[tuple[int, int], Tensor] | None = None  # address and version of the weights; what was made

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the packed weights, which can neither be copied nor saved."""
        return self.__dict__ | {"_packed": None}

    def forward(self, input: Tensor) -> Tensor:
        if not self._can_pack(input):
            return self.activation(super().forward(input))
        x = input.contiguous(memory_format=torch.channels_last)
        weight = self._packed_weight(x)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self._geometry, *self._attribute)

    def _can_pack(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and type(x) is Tensor  # no tensor that stands for one, while a graph is captured
            and x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and not self.weight.is_inference()  # its changes are not counted
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
            and not torch.compiler.is_compiling()
        )

    def _packed_weight(self, x: Tensor) -> Tensor:
        state = self.weight.data_ptr(), self.weight._version
        if self._packed is None or self._packed[0] != state:
            # With the size of the images oneDNN knows which layout its kernel for them wants.
            size = list(x.shape)
            made = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *self._geometry, size)
            self._packed = state, made
        return self._packed[1]


def packed(conv: nn.Conv2d, activation: nn.Module | None = None) -> PackedConv2d | None:
    """Return a convolution and its activation as one module that shares the parameters; None where that cannot be."""
    activation = activation or nn.Identity()
    plain = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
    if not plain or type(activation) not in _ATTRIBUTES or not _works(type(activation)):
        return None
    return PackedConv2d(conv, activation)


@functools.cache
@torch.no_grad()
def _works(kind: type[nn.Module]) -> bool:
    """Try the operators of this build of torch once, with one activation."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    conv, activation = nn.Conv2d(2, 2, 1, bias=False), kind()
    conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    x = torch.tensor([-8.0, -2.0, -0.5, 0.0, 0.5, 2.0, 4.0, 8.0]).view(1, 2, 2, 2)
    try:
        found = PackedConv2d(conv, activation)(x)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):  # of another signature, or of no kernel
        return False
    return torch.allclose(found, activation(conv(x)), atol=1e-5)
