"""What a module or a model costs: parameters, operations, memory, and the time of forward and backward pass."""

import ast
import difflib
import inspect
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.yolo import layers
from boxwright.yolo.settings import BenchConfig
from boxwright.yolo.verbs.info import count_gflops, count_parameters, open_network


def build_module(text: str) -> nn.Module:
    """Build the module that a text describes, with random weights. Our blocks take SiLU where none is named.

    Raises:
        UserError: no such module, arguments that are no plain values, or that the module does not take.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read the module '{text}': write it like Conv2d(64, 128, 3, padding=1)") from error
    if not isinstance(tree, ast.Call):
        raise UserError(f"'{text}' is no module with arguments; write it like Conv2d(64, 128, 3, padding=1)")
    return build_value(tree, text)


def build_value(call: ast.expr, text: str) -> Any:
    """Build the module of a call, whose arguments may be calls themselves, or read a plain value."""
    if not isinstance(call, ast.Call):
        try:
            return ast.literal_eval(call)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            shown = ast.unparse(call)
            raise UserError(
                f"'{text}': {shown} is no plain value (numbers, texts, lists, True, False, None)"
            ) from error
    name = ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")
    if not name.isidentifier():
        raise UserError(f"'{text}': {name} is no name of a module")
    known = {key: kind for home in (nn, layers) for key, kind in vars(home).items() if isinstance(kind, type)}
    kind = known.get(name)
    if kind is None or not issubclass(kind, nn.Module) or name.startswith("_"):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"neither torch.nn nor Boxwright has a module {name}{hint}")
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        raise UserError(f"'{text}': arguments are written out, not unpacked with a star")
    args = [build_value(arg, text) for arg in call.args]
    named = {keyword.arg: build_value(keyword.value, text) for keyword in call.keywords if keyword.arg}
    if kind.__module__ == layers.__name__ and "activation" in inspect.signature(kind).parameters:
        named.setdefault("activation", nn.SiLU())
    try:
        return kind(*args, **named)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"'{text}' cannot be built: {str(error).splitlines()[0] or type(error).__name__}") from error


_WARM_UP = 2  # passes before the clock counts: memory is allocated and kernels are chosen in them
_COLUMNS = ("parameters", "GFLOPs", "MiB", "forward ms", "backward ms")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one module took."""

    num_parameters: int
    gflops: float  # of the forward pass, see `count_gflops`
    memory: int  # bytes; on a GPU the peak of both passes, on the CPU what the forward keeps for the backward pass
    forward: float  # median ms
    backward: float | None  # the same; None where nothing can be differentiated
    in_shape: tuple[int, ...]
    out_shape: tuple[tuple[int, ...], ...]  # one a tensor

    def __str__(self) -> str:
        backward = "-" if self.backward is None else f"{self.backward:.2f}"
        sizes = (f"{self.num_parameters:,}", f"{self.gflops:.3f}", f"{self.memory / 2**20:.1f}")
        cells = "".join(f"{cell:>14}" for cell in (*sizes, f"{self.forward:.2f}", backward))
        into, *out = ("x".join(map(str, shape)) or "number" for shape in (self.in_shape, *self.out_shape))
        return f"{cells}  {into} -> {', '.join(out)}"


def bench_op(config: BenchConfig) -> int:
    """Measure modules and print one line each, then the model if one is named; 1 if one does not run, else 0.

    Raises:
        UserError: nothing to measure, a text that describes no module, or no such device.
    """
    if not config.op and not config.model:
        raise UserError('bench op needs --op "Conv2d(64, 128, 3, padding=1)" or --model yolov5n')
    place = select_device(config.device)
    modules: list[tuple[str, nn.Module]] = [(op, build_module(op)) for op in config.op]
    modules += [(config.model, open_network(config.model))] if config.model else []
    wide = max(len(name) for name, _ in modules) + 2
    print(f"{place}, {config.repeats} repeats")
    print(f"{'':<{wide}}" + "".join(f"{title:>14}" for title in _COLUMNS) + "  input -> output")
    code = 0
    for name, module in modules:
        try:
            row = str(measure(module.to(place), config.shape, place, config.repeats))
        except UserError as error:
            code, row = 1, f"  {error}"
        print(f"{name:<{wide}}{row}", flush=True)
    return code


def measure(module: nn.Module, shape: Sequence[int], device: torch.device, repeats: int) -> Cost:
    """Run a module, on the device, forward and backward on random numbers of this shape, in training mode.

    Raises:
        UserError: it does not run on this input.
    """
    module.train()
    images = torch.randn(*shape, device=device, requires_grad=True)
    try:
        outputs, memory = measure_memory(module, images)
        forward, backward = time_passes(module, images, repeats)
        gflops = count_gflops(module, shape)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise UserError(f"does not run: {' '.join(str(error).split())[:200]}") from error
    shapes = tuple(tuple(output.shape) for output in outputs)
    return Cost(count_parameters(module), gflops, memory, forward, backward, tuple(shape), shapes)


def time_passes(module: nn.Module, images: Tensor, repeats: int) -> tuple[float, float | None]:
    """Return median milliseconds of the forward and of the backward pass."""
    forward: list[float] = []
    backward: list[float] = []
    for number in range(_WARM_UP + repeats):
        fresh = images.clone()  # a module may work in place, which a leaf does not allow
        start = _clock(images.device)
        outputs = _tensors(module(fresh))
        middle = _clock(images.device)
        forward.append(middle - start)
        differentiable = [output.float().sum() for output in outputs if output.requires_grad]
        if differentiable:
            middle = _clock(images.device)
            torch.stack(differentiable).sum().backward()
            backward.append(_clock(images.device) - middle)
        if number == _WARM_UP - 1:
            forward.clear()
            backward.clear()
    return 1e3 * statistics.median(forward), 1e3 * statistics.median(backward) if backward else None


def measure_memory(module: nn.Module, images: Tensor) -> tuple[list[Tensor], int]:
    """Measure what one pass gives and how many bytes it needs; see `Cost`."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    on_gpu = images.device.type == "cuda"
    before = torch.cuda.memory_allocated(images.device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(images.device)
    fresh = images.clone()
    with saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = _tensors(module(fresh))
    if not on_gpu:
        # Parameters are kept for the backward pass too, but they are there without it.
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        return outputs, sum(size for pointer, size in kept.items() if pointer not in own)
    for output in outputs:
        if output.requires_grad:
            output.float().sum().backward(retain_graph=True)
    return outputs, torch.cuda.max_memory_allocated(images.device) - before


def _tensors(output: Any) -> list[Tensor]:
    """Return all tensors of an output that may be a tensor, or a list or tuple of them."""
    if isinstance(output, Tensor):
        return [output]
    items = cast(list[Any], output) if isinstance(output, list | tuple) else []
    return [tensor for item in items for tensor in _tensors(item)]


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # waits on purpose: else a pass would be timed before it has run
    return time.perf_counter()
