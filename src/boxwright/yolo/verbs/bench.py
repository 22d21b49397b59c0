"""What a module or a model costs: parameters, operations, memory, and the time of forward and backward pass."""

import ast
import copy
import difflib
import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.yolo import layers
from boxwright.yolo.settings import BenchConfig
from boxwright.yolo.verbs.info import count_gflops, count_parameters, gflops_of, open_network


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


Operation = Callable[[Tensor], Any]  # a module, too
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
    dtype = torch.float32 if not config.half else torch.float16 if place.type == "cuda" else torch.bfloat16
    modules: list[tuple[str, nn.Module]] = [(op, build_module(op)) for op in config.op]
    modules += [(config.model, open_network(config.model))] if config.model else []
    named = [(name, module.train()) for name, module in modules]
    inputs = [torch.randn(*shape).to(dtype) for shape in config.shape]
    return 1 if None in _print_costs(inputs, named, config.repeats, place) else 0


def profile(
    inputs: Tensor | Sequence[Tensor],
    ops: Operation | Sequence[Operation],
    n: int = 10,
    device: str | torch.device = "",
) -> list[Cost | None]:
    """Measure what modules or functions cost on each of some inputs: forward, backward, memory, operations.

    Args:
        inputs: one or several; what is in half precision runs the modules in it, too.
        ops: modules, which are copied and run in the mode that they are in, or functions of a tensor.
        n: timed passes.
        device: as of the verbs; empty: the first GPU, else the CPU.

    Returns:
        a cost for each input and op, all ops of the first input first; None for one that does not run.
    """
    several = list(inputs) if isinstance(inputs, list | tuple) else [cast("Tensor", inputs)]
    if n < 1 or not several or not all(isinstance(images, Tensor) for images in several):  # pyright: ignore
        raise UserError("bw.profile takes a tensor or a list of them, then modules or functions, and at least one pass")
    operations = list(ops) if isinstance(ops, list | tuple) else [cast("Operation", ops)]
    place = device if isinstance(device, torch.device) else select_device(device)
    named = [
        (type(op).__name__ if isinstance(op, nn.Module) else getattr(op, "__name__", "op"), op) for op in operations
    ]
    return _print_costs(several, named, n, place)


def _print_costs(
    inputs: Sequence[Tensor], named: Sequence[tuple[str, Operation]], repeats: int, place: torch.device
) -> list[Cost | None]:
    """Measure and print a line for each input and operation."""
    wide = max((len(name) for name, _ in named), default=0) + 2
    kinds = ", ".join(dict.fromkeys(str(images.dtype).removeprefix("torch.") for images in inputs))
    print(f"{place}, {kinds}, {repeats} repeats")
    print(f"{'':<{wide}}" + "".join(f"{title:>14}" for title in _COLUMNS) + "  input -> output")
    costs: list[Cost | None] = []
    for images in inputs:
        for name, op in named:
            try:
                costs.append(measure(op, images.to(place), repeats))
                row = str(costs[-1])
            except UserError as error:
                costs.append(None)
                row = f"  {error}"
            print(f"{name:<{wide}}{row}", flush=True)
    return costs


def measure(op: Operation, images: Tensor, repeats: int) -> Cost:
    """Run a module, of which a copy is taken to the device and type of the input, or a function, both ways.

    Raises:
        UserError: it does not run on this input.
    """
    images = images.detach().clone().requires_grad_(images.is_floating_point())
    num_parameters = 0
    try:
        if isinstance(op, nn.Module):
            op = copy.deepcopy(op).to(images.device, images.dtype if images.is_floating_point() else None)
            num_parameters = count_parameters(op)
        outputs, memory = measure_memory(op, images)
        forward, backward = time_passes(op, images, repeats)
        is_module = isinstance(op, nn.Module)
        gflops = count_gflops(op, images.shape, images.dtype) if is_module else gflops_of(op, images.detach())
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise UserError(f"does not run: {' '.join(str(error).split())[:200]}") from error
    shapes = tuple(tuple(output.shape) for output in outputs)
    return Cost(num_parameters, gflops, memory, forward, backward, tuple(images.shape), shapes)


def time_passes(module: Operation, images: Tensor, repeats: int) -> tuple[float, float | None]:
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


def measure_memory(module: Operation, images: Tensor) -> tuple[list[Tensor], int]:
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
        parameters = module.parameters() if isinstance(module, nn.Module) else ()
        own = {p.untyped_storage().data_ptr() for p in parameters}
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
