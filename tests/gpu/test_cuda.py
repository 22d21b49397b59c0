"""On a GPU: steps as on the CPU, resume bit for bit, nccl, batch sizes, recorded and compiled steps, exported files.

`make gpu` runs them. BOXWRIGHT_TRY_ON=cpu tries them without a GPU, to see that their own code runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import boxwright as bw
from boxwright.centerfusion.deform_conv import deform_conv
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.postprocess import detect
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.task import CenterFusionTask
from boxwright.checkpoints.native import save_checkpoint
from boxwright.data.dataset import open_dataset
from boxwright.engine.device import Policy, allow_tf32, resolve
from boxwright.engine.distributed import World
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.settings.load import load
from boxwright.yolo.auto_batch import GPU_BATCHES, with_fitting_batch
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.task import Detect2d
from boxwright.yolo.zoo import build_model, load_spec, read_spec
from tests.integration.fusion_runs import VERSION, tiny_settings, write_root
from tests.integration.small_runs import NETWORK, run, small_settings, write_world
from tests.integration.test_resume import assert_same

DEVICE = torch.device(os.environ.get("BOXWRIGHT_TRY_ON", "cuda"))
ON_GPU = DEVICE.type == "cuda"
NUM_GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
CPU = torch.device("cpu")
FLAG = "0" if ON_GPU else "cpu"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(ON_GPU and not NUM_GPUS, reason="no GPU that this PyTorch can use"),
]

# Largest difference of the losses, and of the gradients of a YOLO, as shares: of rounding to 24, 11, 8 and 11 bits.
TOLERANCES = {"fp32": (1e-4, 1e-3), "tf32": (1e-2, 5e-2), "bf16": (5e-2, 2e-1), "fp16": (1e-2, 5e-2)}
# The gradients of a CenterFusion that has learned nothing amplify rounding: in bf16 they have another direction.
OF_CENTERFUSION = 1e-2  # in fp32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data yaml and a model yaml."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("drives") / "root")


def yolo_step(data: Path, policy: Policy) -> list[Tensor]:
    """Losses and gradients of one step."""
    torch.manual_seed(0)
    config = load(RunConfig, {"model": "m", "data": str(data), "imgsz": [64], "batch_size": 8, "workers": 0})
    network = build_model(read_spec(yaml.safe_load(NETWORK), "test"), ("a", "b"))
    network.to(policy.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    index = open_dataset(str(data), "train")
    return step_of(Detect2d(network, index, None, config, policy.device), policy)


def fusion_step(root: Path, policy: Policy) -> list[Tensor]:
    """Losses and gradients of one step."""
    torch.manual_seed(0)
    config = load(FusionConfig, tiny_settings(root, root.parent))
    train, val = (NuscenesSplit(open_nuscenes(root, VERSION), split, 2) for split in ("train", "val"))
    network = CenterFusion(CenterFusionSpec(width=0.125))
    network.to(policy.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return step_of(CenterFusionTask(network, train, val, config, policy.device), policy)


def step_of(task: Any, policy: Policy) -> list[Tensor]:
    batch = next(task.train_batches(0, 0)).to(policy.device)
    with policy.autocast():
        loss = task.loss(batch, 0, 0)
    loss.total.backward()
    task.close()
    gradients = [p.grad.flatten() for p in task.model.parameters() if p.grad is not None]
    return [loss.items.cpu().float(), torch.cat(gradients).cpu().float()]


@pytest.mark.parametrize("precision", list(TOLERANCES) if ON_GPU else ["fp32", "bf16"])
@pytest.mark.parametrize("system", ["yolo", "centerfusion"])
def test_a_step_gives_what_the_cpu_gives(system: str, precision: Any, world: tuple[Path, Path], drives: Path) -> None:
    if precision == "tf32" and torch.cuda.get_device_capability(DEVICE)[0] < 8:
        pytest.skip("no TF32 here")
    step, data = (yolo_step, world[0]) if system == "yolo" else (fusion_step, drives)
    policy = resolve(precision, DEVICE)
    allow_tf32(policy.name == "tf32")
    expected = step(data, Policy("fp32", CPU))
    shares = [
        float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(step(data, policy), expected, strict=True)
    ]
    losses, gradients = TOLERANCES[precision]
    assert shares[0] < losses
    if system == "yolo" or precision == "fp32":
        assert shares[1] < (gradients if system == "yolo" else OF_CENTERFUSION)


def test_the_ordered_deformable_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of `--deterministic` gives what torchvision's gives, and the same bits each time."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 16, 12, 20), (2, 18, 12, 20), (2, 9, 12, 20), (16, 16, 3, 3), (16,))
    values = [torch.randn(size, generator=generator).to(DEVICE) for size in sizes]

    def gradients(kind: Any) -> list[Tensor]:
        leaves = [value.clone().requires_grad_() for value in values]
        out = deform_conv(*leaves, implementation=kind)
        (out * torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape)).sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    allow_tf32(False)
    first, again, theirs = gradients("rows"), gradients("rows"), gradients("torchvision")
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    for ours, other in zip(first, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def settings_of(system: str, root: Path, drives: Path, **changes: Any) -> dict[str, Any]:
    """Settings of two epochs on the device."""
    changes |= {"device": FLAG, "epochs": 2}
    if system == "centerfusion":
        return tiny_settings(drives, root / "runs", **changes)
    return small_settings(root, **changes)


@pytest.mark.parametrize("system", ["yolo", "centerfusion"])
def test_a_killed_run_ends_with_the_same_bits(system: str, tmp_path: Path, drives: Path) -> None:
    settings = settings_of(system, tmp_path, drives, deterministic=True)
    whole = run(settings | {"name": "whole"})
    assert whole.returncode == 0, whole.stderr
    assert run(settings | {"name": "killed"}, at_step=3).returncode == -9
    done = run({}, resume=tmp_path / "runs" / "killed")
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_last(tmp_path / "runs" / name) for name in ("killed", "whole"))
    assert_same(ours, theirs)


def load_last(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "weights" / "last.pt", weights_only=True)
    return {name: content[name] for name in ("state_dict", "ema", "engine")}


@pytest.mark.parametrize("change", [{"cuda_graph": True}, {"compile": True}], ids=lambda change: next(iter(change)))
def test_a_recorded_and_a_compiled_run_learn_the_same(change: dict[str, Any], tmp_path: Path, drives: Path) -> None:
    if not ON_GPU:
        change = {}
    plain = settings_of("yolo", tmp_path, drives, precision="fp32", epochs=6, name="plain")
    assert run(plain).returncode == 0
    done = run(plain | change | {"name": "changed"})
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_last(tmp_path / "runs" / name)["state_dict"] for name in ("changed", "plain"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].cpu().float(), value.cpu().float(), rtol=1e-2, atol=1e-3, msg=name)


def test_centerfusion_can_be_recorded(tmp_path: Path, drives: Path) -> None:
    done = run(settings_of("centerfusion", tmp_path, drives, epochs=4, **({"cuda_graph": True} if ON_GPU else {})))
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(ON_GPU and NUM_GPUS < 2, reason="nccl takes one GPU for each process, and there is one")
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    several: dict[str, Any] = {"device": "0,1"} if ON_GPU else {"nproc": 2}
    settings = small_settings(tmp_path, device=FLAG, epochs=2, batch_size=6, sync_bn=True, precision="fp32")
    bw.train(**settings, name="one")
    bw.train(**(settings | several), name="two")
    ours, theirs = (load_last(tmp_path / "runs" / name)["state_dict"] for name in ("two", "one"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].cpu().float(), value.cpu().float(), rtol=1e-3, atol=1e-4, msg=name)


def test_nccl_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Also where there is one GPU: the group opens, and what ranks tell each other arrives."""
    backend = "nccl" if ON_GPU else "gloo"
    torch.distributed.init_process_group(
        backend, store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        values = torch.arange(3.0, device=DEVICE)
        torch.distributed.all_reduce(values)
        assert values.tolist() == [0, 1, 2]
    finally:
        torch.distributed.destroy_process_group()


def test_the_batch_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """Measured by what the allocator reserves; the run that follows fits."""
    config = load(RunConfig, {"model": "yolov5n", "data": "d", "imgsz": [64], "batch_size": -1, "workers": 0})
    model = build_model(load_spec("yolov5n", 3), ("a", "b", "c"))
    found = with_fitting_batch(config, model, 10_000, resolve("auto", DEVICE), World())
    said = capsys.readouterr().out
    assert 1 <= found.batch_size <= 1024
    if ON_GPU:
        assert all(f"{batch}: " in said for batch in GPU_BATCHES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose scores are spread, so that there are boxes."""
    torch.manual_seed(0)
    model = build_model(read_spec(yaml.safe_load(NETWORK), "test"), ("a", "b"))
    for name, parameter in model.named_parameters():
        if name.endswith(("m.0.bias", "m.1.bias", "m.2.bias")):
            parameter.data.add_(3)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    save_checkpoint(path, {"model": model.describe(), "state_dict": model.state_dict(), "epoch": 0, "metrics": {}})
    return path


def boxes_of(weights: Path, device: str) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    found = bw.load(weights, device=device)(image, conf_thres=0.01)
    return np.asarray(found.boxes)


def test_predict_and_val_give_what_the_cpu_gives(weights: Path, world: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = boxes_of(weights, FLAG), boxes_of(weights, "cpu")
    assert len(theirs)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, atol=0.1)  # pixels: predict lets convolutions use TF32
    shared: dict[str, Any] = {"weights": str(weights), "data": str(world[0]), "imgsz": 64, "project": str(tmp_path)}
    on_device, on_cpu = (bw.val(**shared, device=device, name=f"on {device}") for device in (FLAG, "cpu"))
    assert on_device.map == pytest.approx(on_cpu.map, abs=2e-3)


def test_exported_files_run_on_the_gpu(weights: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if ON_GPU and "CUDAExecutionProvider" not in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    bw.export(weights=str(weights), include=["onnx"], imgsz=[96, 128])
    file = weights.with_suffix(".onnx")
    np.testing.assert_allclose(boxes_of(file, FLAG), boxes_of(file, "cpu"), atol=0.05)


def test_detections_of_centerfusion_come_to_the_host() -> None:
    torch.manual_seed(0)
    network = CenterFusion(CenterFusionSpec(width=0.125)).to(DEVICE).eval()
    calibs = torch.tensor([[[500.0, 0, 64, 0], [0, 500, 32, 0], [0, 0, 1, 0]]], device=DEVICE)
    with torch.no_grad():
        heads = network(torch.randn(1, 3, 64, 128, device=DEVICE), torch.zeros(1, 3, 16, 32, device=DEVICE), calibs)
        affine = torch.tensor([[[4.0, 0, 0], [0, 4, 0]]], device=DEVICE)
        (found,) = detect(heads, affine, calibs, 10, -1.0, radar=True)
    assert found.scores.device == CPU
