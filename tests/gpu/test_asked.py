"""What is asked of torch for a GPU: copies beside the step, memory layout, kernels over many tensors, one graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from boxwright.centerfusion.deform_conv import deform_conv
from boxwright.data.loader import BatchPool
from boxwright.data.structures import Batch, Targets
from boxwright.engine.device import BatchMover, Policy
from boxwright.engine.optim import make_optimizer
from boxwright.errors import UserError
from boxwright.inference import exported
from boxwright.settings.base import OptimConfig
from boxwright.settings.load import load
from boxwright.yolo import task as yolo_task
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import YoloRun
from boxwright.yolo.zoo import build_model, read_spec
from tests.gpu.dry import CUDA, META, Batches, Fake, Watch, meta_without_autocast, placed, pretended_gpu
from tests.integration.small_runs import NETWORK

NO_DATA: Any = None


def batch_of(images: int = 2, side: int = 64) -> Batch:
    targets = Targets(torch.zeros(images, 16, 4), torch.zeros(images, 16).long(), torch.zeros(images, 16).bool())
    pixels = torch.zeros(images, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    pairs = torch.zeros(images, 2)
    return Batch(pixels, targets, torch.arange(images), pairs, pairs, pairs, (Path("a"),) * images)


def test_a_batch_comes_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the copy but the step that reads it, and its memory is kept until that has run."""
    kept: list[Tensor] = []
    copies: list[bool] = []
    real = Tensor.to

    def to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        copies.append(options["non_blocking"])
        return real(tensor, *args, **options)

    fake = Fake()
    with pretended_gpu() as log, fake:
        host = placed(batch_of(), torch.device("cpu"), fake)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: kept.append(tensor))
        monkeypatch.setattr(Tensor, "to", to)
        moved = BatchMover(CUDA)(host)
    assert log == ["on side", "main waits for side"]
    assert copies == [True] * 4
    tensors = [moved.images, moved.targets.boxes_cxcywh, moved.targets.labels, moved.targets.valid]
    assert list(map(id, kept)) == list(map(id, tensors))
    assert {tensor.device for tensor in tensors} == {CUDA}
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert moved.indices.device.type == "cpu"


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_lie_in_page_locked_memory(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With workers torch's loader pins what it hands out, without them the pool does."""
    pinned: list[int] = []
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: pinned.append(len(batch)) or batch)
    pool: BatchPool[int, Batch] = BatchPool(batch_of, workers, pin_memory=True)
    if workers:
        assert pool._loader is not None
        assert pool._loader.pin_memory
        return
    assert [len(batch) for batch in pool.batches([1, 3])] == [1, 3]
    assert pinned == [1, 3]


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_optimizers_update_all_weights_in_one_kernel(kind: Any) -> None:
    fake = Fake()
    network = placed(build_model(read_spec(yaml.safe_load(NETWORK), "test"), ("a", "b")), CUDA, fake)
    optimizer = make_optimizer(network, OptimConfig(optimizer=kind), 0.0)
    assert optimizer.defaults["fused"] is True
    assert optimizer._step_supports_amp_scaling is True  # pyright: ignore  # else fp16 would ask if gradients are finite


def test_the_compiled_step_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Network and criterion: what ends a graph raises."""
    monkeypatch.setattr(yolo_task, "make_train_loader", lambda *_, **__: Batches([]))
    torch.manual_seed(0)
    config = load(RunConfig, {"model": "m", "data": "d", "imgsz": [64]})
    network = build_model(read_spec(yaml.safe_load(NETWORK), "test"), ("a", "b"))
    task = yolo_task.Detect2d(network, NO_DATA, None, config, torch.device("cpu"))
    batch = batch_of()
    compiled = torch.compile(task._losses_of, fullgraph=True, backend="eager")
    with Policy("bf16", torch.device("cpu")).autocast():
        ours, plain = (step(batch.images.float(), batch.targets) for step in (compiled, task._losses_of))
    torch.testing.assert_close(ours.items, plain.items)


@pytest.mark.parametrize("other", ["multi_scale", "compile"])
def test_a_recorded_step_is_one_step(other: str) -> None:
    config = load(RunConfig, {"model": "yolov5n", "data": "d", "cuda_graph": True, other: True})
    with pytest.raises(UserError, match=f"which --{other.replace('_', '-')} does not go with"):
        YoloRun.completed(config)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deformable_convolution_whose_sums_have_an_order(deterministic: bool) -> None:
    """On a GPU torchvision's adds gradients in any order: who asks for the same bits gets the other."""
    leaves = [torch.empty(*size, device=META, requires_grad=True) for size in SIZES]
    torch.use_deterministic_algorithms(deterministic)
    try:
        with meta_without_autocast(), Watch(META) as watch:
            deform_conv(*leaves).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert ("deform_conv2d" in watch.calls) is not deterministic
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves)


SIZES = ((2, 4, 8, 8), (2, 18, 8, 8), (2, 9, 8, 8), (4, 4, 3, 3), (4,))


@pytest.mark.parametrize("there", [False, True])
def test_onnx_on_a_gpu(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the provider for CUDA; the runtime goes on without it in silence, we do not."""
    asked: list[Any] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: Any) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"][0 if there else 1 :]

        def get_inputs(self) -> list[Any]:
            return []

        get_outputs = get_inputs

        def get_modelmeta(self) -> Any:
            return SimpleNamespace(custom_metadata_map={})

    runtime = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setattr(exported, "require", lambda name: runtime)
    monkeypatch.setattr(exported, "check_onnx", lambda *_: None)
    file = tmp_path / "network.onnx"
    file.write_bytes(b"an onnx file")
    if there:
        exported.open_exported(file, torch.device("cuda", 1))
    else:
        with pytest.raises(UserError, match="no CUDA: give --device cpu, or install onnxruntime-gpu in its place"):
            exported.open_exported(file, torch.device("cuda", 1))
    assert asked == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0}), "CPUExecutionProvider"]
