"""What several processes are made of, each part in one process: norms, the launcher's store, devices, workers."""

from __future__ import annotations

import os
import re
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import TCPStore

from boxwright.engine import distributed
from boxwright.engine.device import count_processes, device_of_rank
from boxwright.engine.distributed import World, joined, read_world, store_of_this_start, synchronise_norms
from boxwright.engine.launch import folder_before_restart, remember_folder
from boxwright.engine.optim import parameter_roles
from boxwright.engine.stopping import Interrupt
from boxwright.errors import UserError
from tests.unit.engine.test_device import two_gpus

CPU = torch.device("cpu")


class Twins(World):
    """Two ranks that see the same images: every sum is twice the own one."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def network() -> nn.Sequential:
    torch.manual_seed(1)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.03), nn.SiLU()))
    nn.init.normal_(made[1][0].weight)
    return made


def test_a_single_pixel_has_no_variance_but_numbers() -> None:
    class Alone(World):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values

    made = nn.Sequential(nn.BatchNorm2d(3))
    synchronise_norms(made, Alone(size=2), CPU)
    assert made(torch.rand(1, 3, 1, 1)).isfinite().all()
    assert all(value.isfinite().all() for value in made.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_over_ranks_are_norms_over_all_images(dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain, ours = network(), network()
    plain[1][0].weight.requires_grad_(True)
    synchronise_norms(ours, Twins(size=2), CPU)
    assert type(ours[1][0]) is not nn.BatchNorm2d
    results: list[list[torch.Tensor]] = []
    for made, seen in ((plain, torch.cat((images, images))), (ours, images)):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            y = made(seen)[:2]
        (gradient,) = torch.autograd.grad((y.float() ** 3).sum(), images) if made is ours else (torch.zeros(0),)
        results.append([y, made[1][0].running_mean, made[1][0].running_var, made[1][0].num_batches_tracked, gradient])
    for one, other in zip(results[0][:4], results[1][:4], strict=True):
        torch.testing.assert_close(other, one)
    twice = plain(torch.cat((images, images)))
    (wanted,) = torch.autograd.grad((twice.float() ** 3).sum() / 2, images)
    if dtype == torch.float32:
        torch.testing.assert_close(results[1][4], wanted)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert parameter_roles(ours) == parameter_roles(plain)
    ours.eval(), plain.eval()
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(images), plain(images))


def test_alone_nothing_is_replaced() -> None:
    made = network()
    synchronise_norms(made, World(), CPU)
    assert type(made[1][0]) is nn.BatchNorm2d
    assert parameter_roles(nn.Sequential(nn.SyncBatchNorm(3)))["norm"] == ["0.weight"]


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


def meet(store: TCPStore, size: int = 3) -> list[str]:
    """What each rank of a start finds under one name, after all have left theirs there."""
    found = [""] * size

    def rank(number: int) -> None:
        own = TCPStore("localhost", store.port, is_master=False, timeout=timedelta(seconds=20))
        part = store_of_this_start(own, number, size)
        part.set(str(number), "here")
        if number == 0:
            part.set("token", os.urandom(8).hex())
        part.wait([str(other) for other in range(size)])
        found[number] = part.get("token").decode()

    threads = [threading.Thread(target=rank, args=(number,)) for number in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_each_start_has_a_part_of_the_store(store: TCPStore) -> None:
    """What an earlier start has left is never taken for an answer."""
    first, second = meet(store), meet(store)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0]
    assert first != second


def test_the_run_folder_outlives_a_start(store: TCPStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert folder_before_restart() is None
    remember_folder(tmp_path)  # without torchrun: nothing
    settings = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert folder_before_restart() is None
    remember_folder(tmp_path / "ünd")
    assert folder_before_restart() == tmp_path / "ünd"


def test_who_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    world = read_world()
    assert world == World(5, 8, 1, 4)
    assert not world.is_first
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert [world.loader_workers(wanted) for wanted in (0, 1, 8)] == [0, 1, 2]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert read_world() == World()
    assert World().loader_workers(8) == 8


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch, count=6)
    assert [count_processes(device, 1) for device in ("", "cpu", "0", "0,1", "cuda:1, cuda:3,5")] == [1, 1, 1, 2, 3]
    assert (count_processes("cpu", 3), count_processes("0,1", 2)) == (3, 2)
    for device, nproc, says in (
        ("0,1", 3, "leave out --nproc"),
        ("cpu", 100_000, "this machine has"),
        ("0,0", 1, "0,1,2"),
        ("cpu,cpu", 1, "0,1,2"),
    ):
        with pytest.raises(UserError, match=says):
            count_processes(device, nproc)
    two_gpus(monkeypatch)
    with pytest.raises(UserError, match="'2' is not there: this machine has 2 GPU"):
        count_processes("0,2", 1)


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    second = World(rank=3, size=4, local_rank=1, local_size=2)
    assert [device_of_rank(name, second).index for name in ("", "cuda", "0,1", "1,0")] == [1, 1, 1, 0]
    assert device_of_rank("cpu", second) == CPU
    for name, says in (("0", "name one for each"), ("0,1,2", "3 GPUs, but there are 2"), ("0,7", "2 GPU")):
        with pytest.raises(UserError, match=says):
            device_of_rank(name, second)
    third = World(rank=2, size=3, local_rank=2, local_size=3)
    with pytest.raises(UserError, match="device '2' is not there: this machine has 2 GPU"):
        device_of_rank("", third)
    assert device_of_rank("1", World()).index == 1
    two_gpus(monkeypatch, count=0)
    assert device_of_rank("", second) == CPU


@pytest.mark.parametrize("patient", [False, True])
def test_a_second_signal(patient: bool) -> None:
    """One of several processes hears of Ctrl-C twice: from the terminal and from its launcher."""
    import signal

    with Interrupt(patient=patient) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received is signal.SIGINT
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) is not patient


def launched(monkeypatch: pytest.MonkeyPatch, **environment: object) -> None:
    """Set the environment as a launcher of several machines does."""
    both = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1, "LOCAL_WORLD_SIZE": 1}
    for name, value in (both | environment).items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": 2}, "RANK in the environment is 2, but WORLD_SIZE is 2"),
        ({"LOCAL_RANK": 4, "LOCAL_WORLD_SIZE": 4}, "LOCAL_RANK in the environment is 4, but LOCAL_WORLD_SIZE is 4"),
        ({"RANK": "first"}, "RANK in the environment is 'first'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE in the environment is '-2'"),
        ({"GLOO_SOCKET_IFNAME": "nosuch0"}, "this machine has no such network interface; it has "),
        ({"MASTER_ADDR": ""}, "set MASTER_ADDR to the machine of rank 0"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT to a free port of it"),
        (
            {"RANK": 1},
            "rank 1 cannot reach MASTER_ADDR 127.0.0.1, MASTER_PORT 1: Connection refused; was rank 0 started",
        ),
        ({"MASTER_PORT": "taken"}, "rank 0 cannot listen at MASTER_ADDR 127.0.0.1, MASTER_PORT"),
        ({"MASTER_PORT": "taken", "RANK": 1}, "rank 1 finds no other rank of this run at MASTER_ADDR"),
        ({"MASTER_PORT": "free", "WORLD_SIZE": 4}, "ranks 1, 2, 3 of this run did not come within 1 seconds"),
    ],
)
def test_mistakes_of_a_launch_are_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(distributed, "SECONDS_TO_REACH", 1.0)
    monkeypatch.setattr(distributed, "_SECONDS_TO_ACCEPT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # something else, which never answers
        if environment.get("MASTER_PORT") == "taken":
            environment = environment | {"MASTER_PORT": server.getsockname()[1]}
        elif environment.get("MASTER_PORT") == "free":
            with socket.create_server(("127.0.0.1", 0)) as other:
                environment = environment | {"MASTER_PORT": other.getsockname()[1]}
        launched(monkeypatch, **environment)
        with pytest.raises(UserError, match=re.escape(says)), joined(read_world()):
            pass


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_that_do_not_come_are_named_long_before_the_end(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes that `--nproc` starts meet in a file; of those that are there the lowest rank speaks."""
    monkeypatch.setattr(distributed, "_SECONDS_TO_TELL", 0.0)
    monkeypatch.setattr(distributed, "_SECONDS_TO_MEET", 0.3)
    monkeypatch.setenv(distributed.STORE_FILE, str(tmp_path / "store"))
    launched(monkeypatch, RANK=rank, WORLD_SIZE=4, LOCAL_WORLD_SIZE=4)
    store = distributed.launcher_store()
    assert store is not None
    store.set("boxwright rank 1", "here")
    missing = "ranks 0, 2, 3" if rank == 1 else "ranks 2, 3" if rank == 0 else "a rank"
    with pytest.raises(UserError, match=f"{missing} of this run did not come within"), joined(read_world()):
        pass
    told = capsys.readouterr().err
    assert told == ("" if rank == 2 else f"waiting for {missing} of this run, 0 seconds at most: was it started?\n")


@pytest.mark.parametrize(("rank", "missing"), [(0, "ranks 1, 2"), (1, "rank 0"), (2, "a rank")])
def test_ranks_of_torchrun_that_do_not_come(
    rank: int, missing: str, store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_SECONDS_TO_MEET", 0.1)
    with pytest.raises(UserError, match=f"^{missing} of this run did not come"):
        store_of_this_start(store, rank, 3)


def test_ranks_of_one_machine_talk_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, LOCAL_WORLD_SIZE=2, GLOO_SOCKET_IFNAME="nosuch0", MASTER_ADDR="")
    with pytest.raises(UserError, match="MASTER_ADDR"), joined(read_world()):
        pass
    assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
