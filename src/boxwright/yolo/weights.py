"""Weights of any kind as networks: read, transferred, and opened ready to run with their batch norms folded.

On CPUs in float32 each convolution and its activation are one call of oneDNN, its weights laid out beforehand: 9 % of
the time of yolov5n at 640 px on one thread of an AMD EPYC (AVX-512). The operators are those that torch's own compiler
calls for a frozen network (`torch.ops.mkldnn`). They are not public, so that each is tried once; where one is missing
or gives something else, `nn.Conv2d` runs as before.

Source of the folding: W' = diag(gamma / sqrt(var + eps)) W, b' = beta - gamma mean / sqrt(var + eps).
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native, warn_not_finite
from boxwright.checkpoints.safetensors_file import is_safetensors, read_safetensors
from boxwright.data.files import read_lines, refuse_url
from boxwright.errors import UserError
from boxwright.inference.exported import is_exported
from boxwright.reading import reads
from boxwright.yolo.darknet import is_darknet, read_darknet
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.detection import LARGEST_SIDE, LARGEST_STRIDE, DetectionModel, Network, Weights
from boxwright.yolo.export import ExportedNetwork
from boxwright.yolo.layers import Conv, FusedConv
from boxwright.yolo.postprocess import AugmentedNetwork, Ensemble
from boxwright.yolo.published_pt import read_published
from boxwright.yolo.zoo import DARKNET_NAMES, build_model, load_spec, read_spec


@reads("file of weights")
def read_weights(path: str | Path, model: str = "", *, fallback: str = "", strict: bool = False) -> Weights:
    """Read our own checkpoint or safetensors, a published YOLOv5 `.pt` or a Darknet `.weights`; nothing is executed.

    Args:
        path: the file.
        model: name or cfg of the network that a Darknet file was written for, as the file does not say; by default the
            cfg of the same name beside it, or the published one of that name.
        fallback: the network taken where `model` is empty and neither of these is there.
        strict: a Darknet file must hold exactly that network; else it may have other classes, or be cut off after its
            backbone.

    Raises:
        UserError: missing, not a checkpoint, damaged, or refused (the message names what the file asks for).
    """
    weights = _read_any(path, model, fallback, strict=strict)
    warn_not_finite(weights.state_dict, weights.path)
    return weights


def _read_any(path: str | Path, model: str, fallback: str, *, strict: bool) -> Weights:
    """Read weights by the format of their file, see `read_weights`."""
    refuse_url(path, "the weights")
    path = Path(path)
    if is_darknet(path):
        return _read_darknet(path, model, fallback, strict=strict)
    if model and path.exists():
        raise UserError(f"--cfg {model} is for Darknet's .weights files; {path} says its network itself: leave it out")
    if is_safetensors(path):
        return _described(*read_safetensors(path), path, "safetensors")
    return weights_in(read_archive(path), path)


def weights_in(content: object, path: Path) -> Weights:
    """Find the weights in what a file of torch.save holds: the averaged ones, where there are such."""
    if not is_native(content):
        return read_published(content, path)
    content = cast(dict[str, Any], content)
    described, state = content.get("model"), content.get("ema") or content.get("state_dict")
    if not isinstance(described, dict) or not isinstance(state, dict):
        raise UserError(f"{path} is a Boxwright checkpoint without a model")
    described = cast(dict[str, Any], described)
    if (family := described.get("family")) is not None:
        raise UserError(
            f"{path} is a checkpoint of {family}: name its model, as --model {family}-dla34; in Python, open it with "
            "bw.load"
        )
    state_dict = {key: value for key, value in cast(dict[str, Any], state).items() if isinstance(value, Tensor)}
    settings, size_is = content.get("config"), "trained at"
    if isinstance(settings, dict):  # of a run: checkpoints of before have the size there alone
        sides = cast(dict[str, Any], settings).get("imgsz")
        described = {"imgsz": sides} | described
        if isinstance(sides, list) and len(cast(list[Any], sides)) == 2:  # those of training and of validation
            size_is = "validated at"
    weights = _described(state_dict, described, path, "native")
    done = content.get("epoch") if "engine" in content else None
    return replace(weights, size_is=size_is, epochs_trained=done if isinstance(done, int) else 0)


@reads("file of weights")
def load_model(path: str | Path, model: str = "") -> DetectionModel:
    """Build the network that a file describes and give it its weights; in eval mode, on the CPU.

    Args:
        path: the file.
        model: what a Darknet file belongs to, see `read_weights`; here the file must hold exactly that network.

    Raises:
        UserError: as `read_weights`, or weights and description of the file do not belong together.
    """
    weights = read_weights(path, model, strict=True)
    network = build_model(weights.spec, weights.names)
    own = network.state_dict()
    wrong = [k for k in own if k not in weights.state_dict or weights.state_dict[k].shape != own[k].shape]
    # An entry too much is refused like one too few: it shows that the description is of another network.
    wrong += [key for key in weights.state_dict if key not in own]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} entries do not fit the network that the file describes, such as {wrong[0]}"
        )
    if weights.strides is not None and network.strides != weights.strides:
        raise UserError(f"{path}: the file claims strides {weights.strides} but its network has {network.strides}")
    network.load_state_dict(dict(weights.state_dict))
    network.trained_size, network.size_is = weights.trained_size, weights.size_is
    return network.eval()


def transfer(model: DetectionModel, weights: Weights, exclude: Sequence[str] = ()) -> tuple[int, int]:
    """Copy entries of equal name and shape, but none whose name contains one of `exclude`.

    Returns:
        entries copied, entries of the model.

    Raises:
        UserError: nothing fits.
    """
    own = model.state_dict()
    fitting = {
        key: value
        for key, value in weights.state_dict.items()
        if key in own and own[key].shape == value.shape and not any(part in key for part in exclude)
    }
    if not fitting:
        raise UserError(f"{weights.path}: none of its weights fits the model; is it of another kind?")
    model.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)


def _word(name: object) -> str:
    if not isinstance(name, str | int | float):
        raise TypeError(f"a class is called by a {type(name).__name__}")
    return str(name)


def _described(
    state_dict: dict[str, Tensor], model: dict[str, Any], path: Path, source: Literal["native", "safetensors"]
) -> Weights:
    """Return entries with the description of the network that our own files hold."""
    try:
        spec = read_spec(model["spec"], f"the model in {path}")
        names, strides = tuple(map(_word, model["names"])), tuple(map(int, model["strides"]))
        sides = model.get("imgsz") or ()
        sides = cast(Sequence[Any], sides) if isinstance(sides, list | tuple) else (sides,)
        size = (int(sides[0]), int(sides[-1])) if sides else None
        if not all(1 <= stride <= LARGEST_STRIDE for stride in strides):
            raise ValueError(f"strides {list(strides)[:10]}")
        if size and not all(1 <= side <= LARGEST_SIDE for side in size):
            raise ValueError(f"images of {size[1]} x {size[0]} pixels")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{path}: its description of the model is malformed ({error})") from error
    made: dict[int, Tensor] = {}  # a tensor that several entries share is converted once
    float32 = {key: made.setdefault(id(t), t.float() if t.is_floating_point() else t) for key, t in state_dict.items()}
    return Weights(float32, spec, names, strides, None, source, path, size)


def _read_darknet(path: Path, model: str, fallback: str, *, strict: bool) -> Weights:
    """Read a Darknet file for the network named, else for the cfg beside it, else for the published one of its name."""
    if not model:
        beside = path.with_suffix(".cfg")
        published = path.name.partition(".conv.")[0].removesuffix(".weights")  # yolov4.conv.137 is a backbone
        model = str(beside) if beside.is_file() else published if published in DARKNET_NAMES else fallback
        if not model:
            raise UserError(
                f"{path} is a Darknet file, which does not say its network: put the cfg beside it as {beside.name}, "
                f"or name it by --cfg, a file or one of {', '.join(DARKNET_NAMES)}"
            )
    spec = load_spec(model)
    if not isinstance(spec, DarknetSpec):
        raise UserError(f"{path} is a Darknet file, but {model} is no Darknet network: name its cfg")
    read = read_darknet(path, spec, strict=strict)
    file = path.with_suffix(".names")
    names = tuple(filter(None, read_lines(file))) if file.is_file() else ()
    return replace(read, names=names) if len(names) == read.spec.num_classes else read


def fuse(model: DetectionModel) -> DetectionModel:
    """Give a copy of the model, in eval mode, whose `Conv` blocks have no batch norm; the model itself is kept."""
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv):
                setattr(parent, name, FusedConv(fold(child.conv, child.bn), child.act))
        # A block of a Darknet network, which names its parts.
        if isinstance(parent, nn.Sequential) and hasattr(parent, "BatchNorm2d"):
            conv, norm = parent.get_submodule("Conv2d"), parent.get_submodule("BatchNorm2d")
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
            parent.Conv2d = fold(conv, norm)
            del parent.BatchNorm2d
    return fused


def pack(model: DetectionModel) -> DetectionModel:
    """Let the convolutions of a folded network run together with their activations, see `PackedConv2d`; in place."""
    for parent in list(model.modules()):
        # Names of a convolution and the activation that takes nothing but its output: of `FusedConv`, of Darknet's.
        pair = ("conv", "act") if isinstance(parent, FusedConv) else ("Conv2d", "activation")
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.Conv2d):
                continue
            act = getattr(parent, pair[1], None) if name == pair[0] else None
            both = packed(child, act)
            if both is not None and act is not None:
                setattr(parent, pair[1], nn.Identity())
            if (replacement := both or packed(child)) is not None:
                setattr(parent, name, replacement)
    return model


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Conv2d:
    """Fold into one convolution with bias that equals `norm(conv(x))` in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    folded.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale, requires_grad=False)
    return folded


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


def open_networks(
    paths: Sequence[str | Path], device: torch.device, model: str = "", *, half: bool = False, augment: bool = False
) -> Network:
    """Open checkpoints or exported files for inference, in eval mode on the device.

    Several files of the same classes are one network, whose rows go through one NMS. The network of a checkpoint has
    its batch norms folded, in channels_last.

    Args:
        paths: at least one.
        device: where to run.
        model: what a Darknet file belongs to, see `read_weights`.
        half: it will compute in half precision.
        augment: look at each image at three sizes, one of them mirrored.

    Raises:
        UserError: one is missing or unreadable, its library is not installed, the classes differ, or half precision or
            augment is asked of an exported file.
    """
    if not paths:
        raise UserError("no weights are given")
    of_darknet = [path for path in paths if is_darknet(Path(path))] or paths  # where there is none, it is refused
    networks: list[Network] = []
    for path in paths:
        refuse_url(path, "the weights")
        exported, described_by = is_exported(path), model if path in of_darknet else ""
        if exported and half:
            raise UserError(f"the precision of {path} is fixed: leave out --half, or export with --half")
        if exported and augment:
            needs = "--augment needs the levels of a network, which exported files do not give"
            raise UserError(f"{needs}: leave out {path}")
        if exported and not described_by:
            networks.append(ExportedNetwork(path, device))
        else:
            network = ready(load_model(path, described_by), device)
            if device.type == "cpu" and not half:
                pack(network)
            networks.append(AugmentedNetwork(network) if augment else network)
    return networks[0] if len(networks) == 1 else Ensemble(networks, [*map(str, paths)])


def ready(model: DetectionModel, device: torch.device) -> DetectionModel:
    """Return a copy of the network with its batch norms folded, on the device, in channels_last."""
    return fuse(model).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
