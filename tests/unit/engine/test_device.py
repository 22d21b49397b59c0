"""Names of devices, precision policies, and the settings of malloc and OpenMP."""

from __future__ import annotations

import os
import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from boxwright import machine
from boxwright.centerfusion.settings import FusionConfig
from boxwright.engine.device import (
    Policy,
    allow_tf32,
    choose_kernels,
    cpu_has_bf16,
    one_core_left,
    resolve,
    room_for_kernels,
    select_device,
    widest_floats,
)
from boxwright.errors import UserError
from boxwright.settings.base import Precision
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig

CPU = torch.device("cpu")


def two_gpus(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(("name", "index"), [("", 0), ("0", 0), ("1", 1), ("cuda", 0), ("cuda:1", 1), (" CUDA:1 ", 1)])
def test_gpu_names(monkeypatch: pytest.MonkeyPatch, name: str, index: int) -> None:
    two_gpus(monkeypatch)
    assert select_device(name) == torch.device("cuda", index)
    assert select_device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "says"), [("2", "2 GPU"), ("cuda:7", "2 GPU"), ("gpu", "cpu, one GPU"), ("0,1", "one GPU")]
)
def test_names_that_are_no_device_here(monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    two_gpus(monkeypatch)
    with pytest.raises(UserError, match=says):
        select_device(name)


def test_a_torchvision_that_does_not_fit_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise UserError("does not fit")

    monkeypatch.setattr("boxwright.engine.device.load_operators", refuse)
    with pytest.raises(UserError, match="does not fit"):
        select_device("cpu")


def test_the_gpu_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'mps' is not there: it is the GPU of a Mac; --device cpu"):
        select_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mac = select_device("MPS")
    assert (mac.type, widest_floats(mac), widest_floats(CPU)) == ("mps", torch.float32, torch.float64)
    assert resolve("auto", mac).name == "fp32"
    for precision in ("fp16", "bf16", "tf32"):
        with pytest.raises(UserError, match=f"precision {precision} is not for --device mps; give auto or fp32"):
            resolve(precision, mac)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch, count=0)
    assert select_device("") == CPU
    with pytest.raises(UserError, match="no GPU that this PyTorch can use; --device cpu"):
        select_device("0")


@pytest.mark.parametrize(
    ("flags", "has"), [("fpu avx512f", False), ("fpu avx512_bf16 x", True), ("amx_bf16 amx_tile", True), (None, False)]
)
def test_bf16_is_read_from_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, has: bool
) -> None:
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "_PROCESSOR", info)
    assert cpu_has_bf16() is has


def test_auto_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("boxwright.engine.device.cpu_has_bf16", lambda has=has: has)
        assert resolve("auto", CPU) == Policy(name, CPU)
    for capability, name in (((7, 5), "fp16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert resolve("auto", torch.device("cuda", 0)).name == name


def test_policies_compute_in_their_format() -> None:
    weights = torch.ones(2, 2)
    names: tuple[Precision, ...] = ("fp32", "bf16")
    for name, dtype in zip(names, (torch.float32, torch.bfloat16), strict=True):
        policy = resolve(name, CPU)
        with policy.autocast():
            assert (weights @ weights).dtype == dtype
        assert not policy.make_scaler().is_enabled()
    with pytest.raises(UserError, match="needs a GPU"):
        resolve("fp16", CPU)
    with pytest.raises(UserError, match="precision"):
        load(RunConfig, {"precision": "int8"})


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def threads_inside(device: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with one_core_left(torch.device(device)):
        pass
    return asked


@pytest.mark.usefixtures("three_threads")
def test_the_cpu_trains_on_all_cores_but_one_and_gets_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_inside("cpu", monkeypatch) == [2, 3]


@pytest.mark.usefixtures("three_threads")
def test_a_gpu_and_a_number_of_the_user_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_inside("cuda", monkeypatch) == [3]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_inside("cpu", monkeypatch) == [3]


def test_kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As published the fastest are looked for; who asks for the same bits again gets them."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda wanted, **_: asked.append(wanted))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    asked: list[bool] = []
    for deterministic in (False, True):
        choose_kernels(deterministic=deterministic)
        assert torch.backends.cudnn.benchmark is not deterministic
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is deterministic
    assert asked == [False, True]
    assert not FusionConfig().deterministic
    assert not RunConfig().deterministic


def test_tf32_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that has it; fp32 then means fp32, in convolutions too."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert resolve("tf32", gpu) == Policy("tf32", gpu)
    assert isinstance(Policy("tf32", gpu).autocast(), nullcontext)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(UserError, match=r"capability 8\.0"):
        resolve("tf32", gpu)
    with pytest.raises(UserError, match="tf32 needs a GPU"):
        resolve("tf32", CPU)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_a_convolution_asks_for_room_where_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN crashes in a backward pass that it has no room for the code of."""
    layer, images = torch.nn.Conv2d(1, 1, 3, stride=2), torch.zeros(1, 1, 8, 8)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 50, 1 << 50))
    with room_for_kernels():
        output = layer(images)
        output.sum().backward()
        output = layer(images)
        monkeypatch.setattr("boxwright.engine.device._ROOM", 1 << 55)  # more than a process can have
        for step in (output.sum().backward, lambda: layer(images)):
            with pytest.raises(MemoryError):
                step()
    layer(images).sum().backward()  # nothing is asked for any more
