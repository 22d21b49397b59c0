"""Published YOLOv5 `.pt` files: a whole pickled network, of which we take the tensors and the plain values.

Source: published YOLOv5 behaviour (what a checkpoint of each release holds).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from boxwright.checkpoints.inert import StandIn
from boxwright.errors import UserError
from boxwright.yolo import graph
from boxwright.yolo.detection import Weights
from boxwright.yolo.published import CURRENT, RELEASES
from boxwright.yolo.spec import KNOWN_KEYS, ModelSpec

HEAD = "models.yolo.Detect"
LAYERS = frozenset(
    "Model DetectionModel Detect Conv Focus Bottleneck BottleneckCSP C3 SPP SPPF Concat Sequential ModuleList Conv2d "
    "BatchNorm2d MaxPool2d ZeroPad2d Upsample "
    # of hub models
    "DWConv GhostConv GhostBottleneck CrossConv MixConv2d C3Ghost C3TR C3SPP C3x Contract Expand TransformerBlock "
    "TransformerLayer Linear MultiheadAttention NonDynamicallyQuantizableLinear "
    "ConvTranspose2d DWConvTranspose2d".split()
)
# Classes of activations, of torch.nn or of the releases' own, as a model yaml writes them.
ACTIVATIONS = {
    "Swish": "nn.SiLU()",
    "MemoryEfficientSwish": "nn.SiLU()",
    "MemoryEfficientMish": "nn.Mish()",
    **{name: f"nn.{name}()" for name in graph.ACTIVATIONS},
    "LeakyReLU": "nn.LeakyReLU({})",
}
_LONGEST_NAME = 1000  # of an entry
_DEEPEST, _MOST_MODULES = 50, 50_000  # far above any release: a network that contains itself ends here
_LEAKY_SLOPE = 0.1  # of every release that has LeakyReLU


def kind(module: StandIn) -> str:
    """Return the class without its module: `Conv`."""
    return module.class_name.rpartition(".")[2]


def children(module: StandIn) -> Mapping[str, StandIn]:
    return {name: child for name, child in _items(module, "_modules") if isinstance(child, StandIn)}


def tensors(module: StandIn) -> Mapping[str, Tensor]:
    """Return parameters, then buffers that belong to the state dict, of the module itself."""
    hidden = module.state.get("_non_persistent_buffers_set")
    hidden = cast(set[Any], hidden) if isinstance(hidden, set) else set[Any]()
    own = [*_items(module, "_parameters"), *(item for item in _items(module, "_buffers") if item[0] not in hidden)]
    return {name: tensor for name, tensor in own if isinstance(tensor, Tensor)}


def walk(module: StandIn) -> Iterator[tuple[str, StandIn]]:
    """Walk over every module with the beginning of its keys ("model.0."), in the order of the state dict.

    Raises:
        UserError: the tree has no end.
    """
    # A list instead of recursion: a hostile tree ends at the two limits, not at Python's stack.
    waiting: list[tuple[str, StandIn, int]] = [("", module, 0)]
    parents: set[int] = set()
    for _ in range(_MOST_MODULES):
        prefix, current, depth = waiting.pop()
        yield prefix, current
        below = [(f"{prefix}{name}.", child, depth + 1) for name, child in children(current).items()]
        # Activations are shared by many, but no release shares a module that has others in it.
        if below and (depth == _DEEPEST or id(current) in parents or len(prefix) > _LONGEST_NAME):
            break
        parents |= {id(current)} if below else set()
        waiting += reversed(below)
        if not waiting:
            return
    raise UserError("the checkpoint's network contains itself, or is larger than any published one")


def _items(module: StandIn, what: str) -> list[tuple[str, Any]]:
    found = module.state.get(what)
    return list(cast(dict[str, Any], found).items()) if isinstance(found, dict) else []


def find_release(network: StandIn, head: StandIn, where: str) -> tuple[str, str | None]:
    """Find the release of a network that ends in a Detect head, in the file `where`.

    Returns:
        the release: of those that give equal outputs the latest, since nothing in the file tells them apart; and the
        activation of every convolution, where it is not that of the release.

    Raises:
        UserError: a module is of a class that no release has, or the activations are mixed as in no release.
    """
    modules = list(walk(network))
    for prefix, module in modules:
        if kind(module) not in LAYERS and kind(module) not in ACTIVATIONS:
            raise UserError(
                f"{where}: {prefix.rstrip('.')} is of the class {module.class_name}, which no detection network known "
                "here has; nothing was executed"
            )
    plain, joint = (common_activation(modules, block, where) for block in ("Conv", "BottleneckCSP"))
    if "anchor_grid" not in tensors(head):
        generation = "v6.0" if joint == RELEASES["v6.0"].layers.csp_activation else CURRENT
    elif not any(kind(part) == "Conv2d" for _, part in walk(head)):
        generation = "v1.0"  # the predictors are rows of their own
    else:
        by_activation = {RELEASES[release].layers.activation: release for release in ("v3.0", "v3.1")}
        generation = by_activation.get(plain or "", "v5.0")
    facts = RELEASES[generation].layers
    if joint not in (None, facts.csp_activation):
        raise UserError(f"{where}: its BottleneckCSP blocks end in {joint}, as in no release with its layers")
    return generation, None if plain == facts.activation else plain


def common_activation(modules: list[tuple[str, StandIn]], block: str, where: str) -> str | None:
    """Return the one activation of all blocks of a kind; None where nothing says."""
    acts = (children(module).get("act") for _, module in modules if kind(module) == block)
    texts = {
        ACTIVATIONS.get(kind(act), act.class_name).format(act.state.get("negative_slope", _LEAKY_SLOPE))
        for act in acts
        if act is not None
    }
    if len(texts) > 1:  # of ghost bottlenecks some convolutions have none
        texts.discard(ACTIVATIONS["Identity"])
    if len(texts) > 1:
        raise UserError(f"{where}: its {block} blocks have several activations: {', '.join(sorted(texts))}")
    return texts.pop() if texts else None


_HALF = 2e-3  # relative error of numbers stored in half precision, with room for one rounding more
_MOST_CLASSES = 100_000


def read_published(content: object, path: Path) -> Weights:
    """Rebuild state dict, names, strides, yaml and hyper-parameters from the inert content of a file.

    The averaged weights are taken where the file has both. Attributes that an early release did not write get their
    published defaults.

    Raises:
        UserError: the file holds no detection network of this kind; a class that is not known is named.
    """
    where = str(path)
    network, head = find_network(content, where)
    generation, activation = find_release(network, head, where)
    mapping = read_model_yaml(network, where)
    count = mapping.get("nc")
    numbers = [str(i) for i in range(count)] if type(count) is int and count < _MOST_CLASSES else []
    listed = network.state.get("names", numbers)  # class numbers, as published for a network without names
    if isinstance(listed, dict):
        listed = [cast(dict[Any, Any], listed).get(i) for i in range(len(cast(dict[Any, Any], listed)))]
    if not isinstance(listed, list) or not listed or not all(isinstance(n, str) for n in cast(list[Any], listed)):
        raise UserError(f"{where} holds no class names")
    names = tuple(cast(list[str], listed))
    mapping |= {"nc": len(names), "generation": generation} | ({"activation": activation} if activation else {})
    spec = ModelSpec.from_mapping(mapping, f"the model yaml in {where}")
    stride = network.state.get("stride", head.state.get("stride"))
    if not isinstance(stride, Tensor) or stride.dim() != 1 or not len(stride) or not all(1 <= s < 1e4 for s in stride):
        raise UserError(f"{where} holds no strides")
    strides = tuple(int(pixels) for pixels in stride)
    state_dict = dict(network_entries(network, spec.layer_rules.batch_norm_eps))
    key = f"model.{len(spec.rows) - 1}.anchors"
    anchors = state_dict.get(key)
    if anchors is None or anchors.dim() != 3 or (len(anchors), anchors.shape[2]) != (len(strides), 2):
        raise UserError(f"{where} holds no anchors of a Detect head with {len(strides)} levels")
    cells = torch.tensor(strides, dtype=torch.float32).view(-1, 1, 1)
    # Stored anchors may be pixels instead of cells; the pixels that the file holds elsewhere tell.
    grid = state_dict.get(f"{key.removesuffix('anchors')}anchor_grid")
    written = torch.tensor(spec.anchors)
    pixels = written if grid is None else grid.float().flatten()
    if pixels.numel() == anchors.numel() and torch.allclose(anchors.float(), pixels.view_as(anchors), rtol=_HALF):
        state_dict[key] = anchors = anchors / cells
    # The yaml keeps its first anchors even if training fitted others: the spec gets those of the network.
    pixels = anchors * cells
    spec = replace(spec, anchors_to_find=False)
    if written.shape != pixels.shape or not torch.allclose(written, pixels, rtol=_HALF):
        spec = replace(spec, anchors=tuple(tuple((w, h) for w, h in level) for level in pixels.tolist()))
    plain = (type(None), bool, int, float, str)
    hyp = {name: value for name, value in _items(network, "hyp") if type(value) in plain}
    has_hyp = isinstance(network.state.get("hyp"), dict)
    # v7.0 wrote the options of its command line; released files have none.
    options = cast(dict[str, Any], content).get("opt") if isinstance(content, dict) else None
    side = cast(dict[str, Any], options).get("imgsz") if isinstance(options, dict) else None
    size = (side, side) if type(side) is int and side > 0 else None
    done = epochs_trained(cast(dict[str, Any], content)) if isinstance(content, dict) else 0
    return Weights(state_dict, spec, names, strides, hyp if has_hyp else None, "yolov5", path, size, done)


def epochs_trained(content: Mapping[str, Any]) -> int:
    """Count the epochs done of a file that still has its optimizer; 0: it has none."""
    epoch = content.get("epoch")
    return epoch + 1 if isinstance(content.get("optimizer"), dict) and type(epoch) is int and epoch >= 0 else 0


def parameter_roles(network: StandIn) -> dict[str, list[str]]:
    """List the names of the parameters of each group of the optimizer, in the order of the file's own modules."""
    roles: dict[str, list[str]] = {"bias": [], "weight": [], "norm": []}
    for prefix, module in walk(network):
        for name, value in _items(module, "_parameters"):
            if isinstance(value, Tensor):
                role = "bias" if name == "bias" else "norm" if kind(module) == "BatchNorm2d" else "weight"
                roles[role].append(f"{prefix}{name}")
    return roles


def find_network(content: object, where: str) -> tuple[StandIn, StandIn]:
    """Find the averaged network, else the trained one, out of its DataParallel wrapper; and its head.

    Raises:
        UserError: there is none, or it ends in something else than a Detect head.
    """
    network: object = content
    if isinstance(content, dict):
        content = cast(dict[str, Any], content)
        found = [content.get(key) for key in ("ema", "model")]
        network = next((item for item in found if isinstance(item, StandIn | dict)), None)
    while isinstance(network, StandIn) and network.class_name.endswith("DataParallel"):
        network = children(network).get("module")
    if isinstance(network, dict):
        raise UserError(f"{where} holds weights without a model description; give a whole checkpoint")
    if not isinstance(network, StandIn) or not network.class_name.startswith("models."):
        raise UserError(f"{where} is a file of torch.save but holds no YOLOv5 network and no Boxwright checkpoint")
    layers = list(children(children(network).get("model", network)).values())
    if not layers or layers[-1].class_name != HEAD:
        last = layers[-1].class_name if layers else "nothing"
        raise UserError(f"{where} ends in {last}; only detection networks ({HEAD}) are read")
    return network, layers[-1]


def network_entries(network: StandIn, batch_norm_eps: float) -> Iterator[tuple[str, Tensor]]:
    """Return the state dict as our network of the same release has it, in float32.

    A batch norm with another epsilon than the release's gives the same outputs with the difference in its variance. A
    convolution whose batch norm was folded into it gets one back that changes nothing.
    """
    folded: set[str] = set()
    for prefix, module in walk(network):
        own = {name: t.float() if t.is_floating_point() else t for name, t in tensors(module).items()}
        if kind(module) in ("Conv", "DWConv") and "bn" not in children(module):
            folded.add(f"{prefix}conv.")
        if kind(module) == "BatchNorm2d" and "running_var" in own:
            eps = module.state.get("eps", batch_norm_eps)
            if isinstance(eps, float) and eps != batch_norm_eps:
                own["running_var"] = own["running_var"] + (eps - batch_norm_eps)
        bias = own.pop("bias", None) if prefix in folded else None
        yield from ((f"{prefix}{name}", tensor) for name, tensor in own.items())
        if bias is not None:
            # A batch norm that only adds the bias: variance and epsilon sum up to 1.
            norm, one = f"{prefix.removesuffix('conv.')}bn.", torch.ones_like(bias)
            yield from ((f"{norm}weight", one), (f"{norm}bias", bias), (f"{norm}running_mean", torch.zeros_like(bias)))
            yield f"{norm}running_var", torch.full_like(bias, 1 - batch_norm_eps)
            yield f"{norm}num_batches_tracked", torch.tensor(0)


def read_model_yaml(network: StandIn, where: str) -> dict[str, Any]:
    """Read the model yaml; releases differ in its name, and in whether they filled in arguments of the head."""
    found = [network.state.get("yaml"), *network.state.values()]
    found = [cast(dict[str, Any], value) for value in found if isinstance(value, dict)]
    mapping = next((value for value in found if "backbone" in value and "head" in value), None)
    if mapping is None:
        raise UserError(f"{where} holds no model description (yaml), so the network cannot be rebuilt")
    head = mapping["head"]
    rows = cast(list[Any], head) if isinstance(head, list) else []
    last = cast(list[Any], rows[-1]) if rows and isinstance(rows[-1], list) else []
    # Some releases filled the numbers themselves into the arguments of the head.
    if len(last) == 4 and last[2] == "Detect":
        head = [*rows[:-1], [*last[:3], ["nc", "anchors"]]]
    known = {key: value for key, value in mapping.items() if key in KNOWN_KEYS}
    return known | {"head": head}
