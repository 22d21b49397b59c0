"""Several processes that train one model: who this one is, what they exchange, and batch norm over all of them.

A process that was not started as one of several is `World()`: one process, no process group, and every method
returns what it was given. Source: PyTorch's torch.distributed and the environment that torchrun sets. What is not
here: starting processes (launch.py).
"""

import errno
import gc
import importlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from boxwright.engine.exchange import pack, unpack
from boxwright.errors import UserError
from boxwright.terminal import say

STORE_FILE = "BOXWRIGHT_STORE"  # environment: where the processes that launch.py starts meet
_CALL = "boxwright call"
_SECONDS_TO_MEET = 600.0  # that a launcher's processes have: the disk that they start from may be slow
_SECONDS_TO_TELL = 30.0  # until those that are missing are named
_PAUSE = 0.05
_MOST_NAMED = 10  # ranks in a message


def launcher_store(seconds: float = 30) -> Store | None:
    """Connect to the store of the launcher, which lives as long as the launcher itself.

    Args:
        seconds: the longest that a request waits.

    Returns:
        a file where launch.py is the launcher, PyTorch's TCPStore where torchrun is, None where there is neither.
    """
    if file := os.environ.get(STORE_FILE):
        store = FileStore(file, -1)  # -1: it is the launcher that removes the file
        store.set_timeout(timedelta(seconds=seconds))
        return store
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not host or not port:
        return None
    timeout = timedelta(seconds=seconds)
    try:
        return TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
    except RuntimeError:  # its machine is gone
        return None


def store_of_this_start(store: Store, rank: int, size: int) -> PrefixStore:
    """Return the part of the store that only the processes see that were started together with this one.

    When torchrun starts processes anew, its store still holds the addresses of those before, so that a new process may
    try to reach a dead one. Restarts are not numbered alike on all machines. So the ranks of a start agree on a name of
    their own: the first rank calls a new one, each other answers, the first lists the answers, and who is not in the
    list has answered a call of before and looks for a newer one.

    Raises:
        UserError: they do not all come.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set(_CALL, own)
        answers = {other: f"{own} {other}" for other in range(1, size)}
        _wait_for_ranks(store, answers, 0, _SECONDS_TO_MEET)
        store.set(f"{own} list", " ".join(store.get(answer).decode() for answer in answers.values()))
        return PrefixStore(own, store)
    call, first = "", lambda: [0] if rank == 1 else []  # one of those that wait says so
    while True:
        # The lambdas are called before `call` changes.
        is_new = lambda: store.check([_CALL]) and store.get(_CALL).decode() != call  # noqa: B023, E731
        _until(is_new, first, _SECONDS_TO_MEET)
        call = store.get(_CALL).decode()
        store.set(f"{call} {rank}", own)
        _until(lambda: store.check([f"{call} list"]) or is_new(), list[int], _SECONDS_TO_MEET)  # noqa: B023
        if store.check([f"{call} list"]) and own in store.get(f"{call} list").decode().split():
            return PrefixStore(call, store)


def _wait_for_ranks(store: Store, keys: Mapping[int, str], rank: int, seconds: float) -> None:
    """Wait until each rank has set its key; the lowest of those that came names the missing ones, see `_until`."""

    def missing() -> list[int]:
        came = [store.check([key]) for key in keys.values()]
        tells = rank not in keys or rank == list(keys)[came.index(True)]
        return [other for other, is_here in zip(keys, came, strict=True) if not is_here] if tells else []

    _until(lambda: store.check(list(keys.values())), missing, seconds)


def _until(done: Callable[[], bool], missing: Callable[[], Sequence[int]], seconds: float) -> None:
    """Wait for a condition, and name the ranks that it waits for before long; they may be about to come.

    Raises:
        UserError: it has not come about in time.
    """
    start, is_told = time.monotonic(), False
    while not done():
        waited = time.monotonic() - start
        if waited > seconds:
            who = _ranks(missing()) or "a rank"
            raise UserError(f"{who} of this run did not come within {seconds:.0f} seconds: was every process started?")
        if waited > _SECONDS_TO_TELL and not is_told:
            if who := _ranks(missing()):
                say(f"waiting for {who} of this run, {seconds:.0f} seconds at most: was it started?", to_stderr=True)
            is_told = True
        time.sleep(_PAUSE)


def _ranks(numbers: Sequence[int]) -> str:
    """Format as "rank 3", or "ranks 1, 2"; many are cut off."""
    names = [str(number) for number in numbers[:_MOST_NAMED]] + ["..."] * (len(numbers) > _MOST_NAMED)
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(names)}" if names else ""


T = TypeVar("T")
SECONDS_TO_REACH = 45.0  # how long the meeting place is tried: rank 0 may start later
_RETRY_SECONDS = 0.5
_SECONDS_TO_ACCEPT = 5.0  # how long rank 0 waits for its own call to the meeting place, and others for an answer
_PLACES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
TIMEOUT = timedelta(hours=2)  # others wait so long while one reads the data or measures the best weights


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, which torch calls ranks.

    Every method is called by all of them, in the same order. Host values go by gloo, also where tensors go by nccl.
    """

    rank: int = 0  # number of this process
    size: int = 1  # processes of the run
    local_rank: int = 0  # number of this process on its machine
    local_size: int = 1  # processes of this machine

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints, writes and measures."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks, without gradient; nothing waits for the device."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, number: int) -> int:
        """Return the largest of a whole number of each rank."""
        if self.size == 1:
            return number
        highest = torch.tensor(number)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

    def all(self, value: T, *classes: type) -> list[T]:
        """Gather the value of every rank, by rank; see exchange.py for what can be sent."""
        if self.size == 1:
            return [value]
        data, sizes = self._padded(pack(value, *classes))
        found = [torch.empty_like(data) for _ in range(self.size)]
        dist.all_gather(found, data)
        return [unpack(other.cpu().numpy().data[:size], *classes) for other, size in zip(found, sizes, strict=True)]

    def at_first(self, value: T, *classes: type) -> list[T]:
        """Gather the value of every rank, by rank, at the first; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        data, sizes = self._padded(pack(value, *classes))
        found = [torch.empty_like(data) for _ in range(self.size)] if self.is_first else []
        dist.gather(data, found or None)
        return [unpack(other.numpy().data[:size], *classes) for other, size in zip(found, sizes, strict=False)]

    def from_first(self, value: T, *classes: type) -> T:
        """Return the value of the first rank; those of the others may be anything."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(pack(value, *classes)), dtype=torch.uint8) if self.is_first else None
        size = torch.tensor(0 if data is None else data.numel())
        dist.broadcast(size, src=0)
        if data is None:
            data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, src=0)
        return value if self.is_first else unpack(data.numpy().data, *classes)

    def _padded(self, data: bytes) -> tuple[Tensor, list[int]]:
        """Return the bytes of this rank as a tensor as long as that of the rank with the most, and all lengths."""
        # Ours has gloo beside nccl; a group that a program of the user has opened may have nccl alone.
        place = "cuda" if dist.get_backend() == "nccl" else "cpu"
        own = torch.tensor(len(data), device=place)
        sizes = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(sizes, own)
        numbers = [int(size) for size in sizes]
        padded = torch.zeros(max(numbers), dtype=torch.uint8, device=place)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(place)
        return padded, numbers

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first rank."""
        if self.size == 1:
            return
        for tensor in tensors:
            values = tensor.contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.largest(0)

    @contextmanager
    def first_of_each_machine_first(self) -> Generator[None]:
        """Let one process of each machine do something, such as build a cache, and the others after it."""
        if self.local_rank:
            self.wait()
        try:
            yield
        finally:  # also after an error, which the others then find for themselves
            if not self.local_rank:
                self.wait()

    def loader_workers(self, wanted: int) -> int:
        """Limit the loader processes of a rank: over all ranks of this machine no more than it has cores."""
        return min(wanted, max((os.cpu_count() or 1) // self.local_size, 1))


def current_world() -> World:
    """Return the processes that have joined, also those of a group that the user's own program has opened."""
    if not dist.is_available() or not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def read_world() -> World:
    """Read who this process is from the environment that torchrun, or another launcher of its kind, has set.

    Raises:
        UserError: it contradicts itself.
    """
    given = {name: os.environ.get(name) or default for name, default in _PLACES.items()}
    for name, text in given.items():
        if not text.isascii() or not text.isdecimal():
            raise UserError(f"{name} in the environment is {text!r}; the launcher sets it to a whole number from 0 on")
    world = World(*map(int, given.values()))
    if "RANK" not in os.environ or world.size <= 1:  # batch systems number single processes too
        return World()
    for name, place, of, size in (
        ("RANK", world.rank, "WORLD_SIZE", world.size),
        ("LOCAL_RANK", world.local_rank, "LOCAL_WORLD_SIZE", world.local_size),
    ):
        if place >= size and (name == "RANK" or "LOCAL_WORLD_SIZE" in os.environ):
            raise UserError(
                f"{name} in the environment is {place}, but {of} is {size}: ranks count from 0 to {of} - 1; start as "
                "many processes as the world has"
            )
    return world


@contextmanager
def joined(world: World) -> Generator[None]:
    """Connect the processes: gloo, and nccl for tensors of a GPU. A single process does nothing.

    Raises:
        UserError: they cannot reach each other.
    """
    if world.size == 1:
        yield
        return
    _choose_interface(world)
    has_gpu = torch.cuda.is_available() and dist.is_nccl_available()
    backend, store = "cpu:gloo,cuda:nccl" if has_gpu else "gloo", launcher_store(TIMEOUT.total_seconds())
    if store is None:
        store = _meeting_place(world)
    elif STORE_FILE in os.environ:
        ranks = _keys(world)
        store.set(ranks[world.rank], "here")
        _wait_for_ranks(store, ranks, world.rank, _SECONDS_TO_MEET)
    else:
        store = store_of_this_start(store, world.rank, world.size)
    # DistributedDataParallel imports this, whose functions keep the group of that moment as a default for ever. Before
    # there is one, they keep none: the group ends here, with its threads, and not while the interpreter shuts down.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        gc.collect()  # a wrapped network that is left in a cycle would keep the group too
        dist.destroy_process_group()


def _keys(world: World) -> dict[int, str]:
    """Name what each rank sets in a store to say that it has come."""
    return {rank: f"boxwright rank {rank}" for rank in range(world.size)}


def _choose_interface(world: World) -> None:
    """Let the processes of one machine talk on its loopback interface; check the interfaces that the user has named."""
    present = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in ("lo", "lo0") if name in present), "")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if world.local_size == world.size and loopback:
            os.environ[variable] = loopback
            continue
        # NCCL takes beginnings of names, "=" before a whole one, and "^" before those to leave out.
        named = os.environ.get(variable, "")
        names = [] if named.startswith("^") else [name for name in named.removeprefix("=").split(",") if name]
        if names and not any(other.startswith(name) for name in names for other in present):
            raise UserError(
                f"{variable} in the environment is {named}, but this machine has no such network interface; it has "
                f"{', '.join(present)}"
            )


def _meeting_place(world: World) -> Store:
    """Return the store at MASTER_ADDR and MASTER_PORT, which the first rank opens, once all ranks are there."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(
            "several processes need a place to meet: set MASTER_ADDR to the machine of rank 0 and MASTER_PORT to a "
            f"free port of it, got {host!r} and {port!r}; torchrun sets both"
        )
    place, end = f"MASTER_ADDR {host}, MASTER_PORT {port}", time.monotonic() + SECONDS_TO_REACH
    listener = _listen(host, int(port), place) if world.is_first else None
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=max(end - time.monotonic(), 2) / 2):
                if listener is not None:
                    listener.accept()[0].close()
            break
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS > end or listener is not None:
                why = "does that name this machine?" if world.is_first else "was rank 0 started, is the port open?"
                raise UserError(f"rank {world.rank} cannot reach {place}: {error.strerror or error}; {why}") from error
            time.sleep(_RETRY_SECONDS)
    ranks = _keys(world)
    try:
        store = _open_store(host, int(port), listener, max(end - time.monotonic(), 2))
        store.set_timeout(TIMEOUT)
        if store.add(ranks[world.rank], 1) > 1:
            raise UserError(f"two processes of this run have the rank {world.rank}: give each its own RANK")
        _wait_for_ranks(store, ranks, world.rank, SECONDS_TO_REACH)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0][:200]
        raise UserError(f"rank {world.rank} finds no other rank of this run at {place}: {said}") from error
    return store


def _listen(host: str, port: int, place: str) -> socket.socket:
    """Open the port of the meeting place on the address that was named, not on every interface."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"{place}: there is no machine of that name ({error.strerror or error})") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            listener.bind(("", port, 0, 0)[: len(address)])  # an address that something forwards to this machine
        listener.listen()
        listener.settimeout(_SECONDS_TO_ACCEPT)
    except OSError as error:
        listener.close()
        raise UserError(
            f"rank 0 cannot listen at {place}: {error.strerror or error}; take a free port, as torchrun does by itself"
        ) from error
    return listener


def _open_store(host: str, port: int, listener: socket.socket | None, seconds: float) -> TCPStore:
    """Open or reach the store at an address; a RuntimeError tells that what answers there is none."""
    opened: list[TCPStore | RuntimeError] = []

    def open_it() -> None:
        handle = None if listener is None else listener.detach()
        limit = timedelta(seconds=seconds)
        try:
            opened.append(
                TCPStore(host, port, None, listener is not None, limit, wait_for_workers=False, master_listen_fd=handle)
            )
        except RuntimeError as error:
            opened.append(error)

    # In a thread, which is left alone: it would wait without limit for a server that takes the call and says nothing.
    thread = threading.Thread(target=open_it, daemon=True)
    with _silent_stderr():  # it logs each attempt to reach something that is no store, with frames of C++
        thread.start()
        thread.join(seconds + _SECONDS_TO_ACCEPT)
    if not opened:
        raise RuntimeError("what listens there does not answer")
    if isinstance(opened[0], RuntimeError):
        raise opened[0]
    return opened[0]


@contextmanager
def _silent_stderr() -> Generator[None]:
    """Send what C++ code writes to stderr nowhere."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_PIXELS = (0, 2, 3)  # all dimensions of (B, C, H, W) but the channels


def distribute(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """Wrap a network so that its gradients are the mean over all ranks; its weights become those of the first."""
    if world.size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def synchronise_norms(model: nn.Module, world: World, device: torch.device) -> None:
    """Replace every batch norm below a module by one over all ranks, with the same parameters and statistics."""
    if world.size == 1:
        return
    for name, module in list(model.named_children()):
        if not isinstance(module, nn.BatchNorm2d):
            synchronise_norms(module, world, device)
        elif device.type == "cpu":
            setattr(model, name, _CpuSyncNorm(module, world))
        else:
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))


class _CpuSyncNorm(nn.BatchNorm2d):
    """A batch norm that takes mean and variance of the pixels of all ranks; a rank may have no image.

    torch.nn.SyncBatchNorm has no kernel for the CPU. Source: Ioffe and Szegedy, 2015 (arXiv:1502.03167), whose gradient
    is written out with sums over all ranks; the idea as in torch.nn.SyncBatchNorm (BSD-3-Clause).
    """

    def __init__(self, norm: nn.BatchNorm2d, world: World) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)
        self.world = world

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        y, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps, self.world)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            unbiased = variance * count / (count - 1).clamp(min=1)  # of a single pixel nothing is known
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
            self.running_var.mul_(1 - self.momentum).add_(self.momentum * unbiased)
        return y


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, in float32 with sums in float64, as torch's own on the CPU.

    The gradient is that of the sum of the losses of all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, world: World
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.float()
        pixels = wide.new_tensor([x.numel() // x.shape[1]], dtype=torch.float64)
        total = world.sum(torch.cat((_per_channel(wide), pixels)))
        count = total[-1]  # differs from rank to rank: the last batch of an epoch may not be full
        mean = total[:-1] / count
        centred = wide - _spread(mean)
        variance = world.sum(_per_channel(centred.square())) / count
        inverse = (variance + eps).rsqrt()
        normal = centred.mul_(_spread(inverse))
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.world = world
        ctx.mark_non_differentiable(mean, variance, count)
        y = normal * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
        return y.to(x.dtype), mean.float(), variance.float(), count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        normal, weight, inverse, count = ctx.saved_tensors
        # x moves its own output, and through mean and variance those of all pixels of its channel: the two means
        # that are taken off.
        grad = grad_outputs[0].float()
        of_bias, of_weight = _per_channel(grad), _per_channel(grad * normal)
        along_mean, along_spread = (ctx.world.sum(torch.cat((of_bias, of_weight))) / count).chunk(2)
        of_x = (grad - _spread(along_mean) - normal * _spread(along_spread)) * _spread(inverse * weight)
        return of_x.to(grad_outputs[0].dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _per_channel(x: Tensor) -> Tensor:
    """Sum (B, C, H, W) to (C,) in float64, so that the order of ranks and pixels does not matter."""
    return x.sum(dim=_PIXELS, dtype=torch.float64)


def _spread(of_channels: Tensor) -> Tensor:
    """Shape (C,) to (1, C, 1, 1)."""
    return of_channels.float().view(1, -1, 1, 1)
