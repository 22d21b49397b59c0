"""A step of every system on a GPU that is not there: no mix of devices, no value asked for; slips are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion import evaluation as fusion_evaluation
from boxwright.centerfusion import losses as fusion_losses
from boxwright.centerfusion import samples as fusion_samples
from boxwright.centerfusion import task as fusion_task
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.postprocess import decode
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.structures import Batch3d, Targets3d
from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Targets
from boxwright.engine import evaluate as loop
from boxwright.engine.device import Policy
from boxwright.engine.trainer import Trainer
from boxwright.settings.load import load
from boxwright.yolo import loss as yolo_loss
from boxwright.yolo import task as yolo_task
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.zoo import build_model, load_spec
from tests.gpu.dry import (
    CUDA,
    META,
    Batches,
    Fake,
    SlipError,
    Watch,
    evaluated_dry,
    meta_without_autocast,
    placed,
    pretended_gpu,
    train_dry,
)

# Copying a network for its average looks where its tensors lie.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

SIDE, IMAGES = 64, 2
NO_LOADER: Any = None


class Prepared(NamedTuple):
    task: Any
    loader: Batches
    config: Any
    fake: Fake | None


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks without values, which are made in no time, on a GPU that torch believes in."""
    for kind in (nn.Conv2d, nn.ConvTranspose2d):
        monkeypatch.setattr(kind, "reset_parameters", lambda self: None)
    for name in ("torch.optim.sgd", "torch.optim.adam"):  # whose fused kernels know no meta
        monkeypatch.setattr(import_module(name), "_device_dtype_check_for_fused", lambda *_: None)
    with pretended_gpu(), meta_without_autocast():
        yield


def yolo(monkeypatch: pytest.MonkeyPatch, device: torch.device, model: str, **settings: Any) -> Prepared:
    """The task of a YOLO of three classes, with a batch on the device."""
    fake = Fake() if device == CUDA else None
    config = load(RunConfig, {"model": model, "data": "d.yaml", "imgsz": [SIDE], "batch_size": IMAGES, **settings})
    network = build_model(load_spec(model, 3), ("a", "b", "c")).to(memory_format=torch.channels_last)  # pyright: ignore
    targets = Targets(
        torch.zeros(IMAGES, 16, 4), torch.zeros(IMAGES, 16, dtype=torch.int64), torch.zeros(IMAGES, 16).bool()
    )
    side = 2 * SIDE if settings.get("quad") else SIDE
    images = torch.zeros(IMAGES, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    host = torch.zeros(IMAGES, 2)
    batch = Batch(images, targets, torch.arange(IMAGES), host, host, host, (Path("a"),) * IMAGES)
    loader = Batches([placed(batch, device, fake)])
    monkeypatch.setattr(yolo_task, "make_train_loader", lambda *_, **__: loader)
    task = yolo_task.Detect2d(network, NO_LOADER, None, config, torch.device("cpu"))
    task.device = device
    placed(network, device, fake)
    placed(task.criterion, device, fake)
    return Prepared(task, loader, config, fake)


def fusion(monkeypatch: pytest.MonkeyPatch, device: torch.device, **settings: Any) -> Prepared:
    """The task of CenterFusion, an eighth as wide, with a batch on the device."""
    fake = Fake() if device == CUDA else None
    config = load(FusionConfig, {"data": "d", "imgsz": [SIDE, SIDE], "batch_size": IMAGES, **settings})
    network = CenterFusion(CenterFusionSpec(width=0.125, radar=not config.no_radar))
    block, _ = fusion_samples.allocate(config, IMAGES)
    batch = Batch3d(
        block.pop("image").permute(0, 3, 1, 2),
        block.pop("radar"),
        block.pop("calib"),
        block.pop("image_from_grid"),
        Targets3d(**block),
        torch.arange(IMAGES),
        (Path("a"),) * IMAGES,
    )
    loader = Batches([placed(batch, device, fake)])
    for name in ("make_train_loader", "make_val_loader"):
        monkeypatch.setattr(fusion_task, name, lambda *_, **__: loader)
    task = fusion_task.CenterFusionTask(network, NO_LOADER, NO_LOADER, config, torch.device("cpu"))
    task.device = device
    placed(network.to(memory_format=torch.channels_last), device, fake)  # pyright: ignore
    return Prepared(task, loader, config, fake)


def trainer_of(prepared: Prepared, policy: Policy, folder: Path) -> Trainer:
    prepared.task.describe_data = dict
    with prepared.fake or torch.no_grad():
        return Trainer(prepared.task, prepared.config, folder, policy)


SYSTEMS: dict[str, Callable[..., Prepared]] = {
    "yolov5": lambda patch, device: yolo(patch, device, "yolov5n", multi_scale=True),
    "yolov5 with all that its loss can": lambda patch, device: yolo(
        *(patch, device, "yolov5n"),
        **{"loss.autobalance": True, "loss.fl_gamma": 1.5, "loss.sort_obj_iou": True, "loss.label_smoothing": 0.1},
        **{"loss.gr": 0.5, "quad": True, "optim.optimizer": "AdamW"},
    ),
    "yolov5 of v3.0": lambda patch, device: yolo(patch, device, "yolov5s@v3.0"),
    "yolov3-tiny": lambda patch, device: yolo(patch, device, "yolov3-tiny"),
    "yolov3-spp": lambda patch, device: yolo(patch, device, "yolov3-spp", multi_scale=True, release="v3"),
    "centerfusion": lambda patch, device: fusion(patch, device),
    "centerfusion without radar": lambda patch, device: fusion(patch, device, no_radar=True),
}


@pytest.mark.parametrize(
    ("system", "precision"),
    [*((system, "bf16") for system in SYSTEMS), ("yolov3-tiny", "fp16"), ("centerfusion without radar", "fp32")],
)
def test_a_step_stays_on_the_gpu_and_asks_for_nothing(
    system: str, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, association, loss, clipping, finite watch and average, by the loop of the trainer."""
    prepared = SYSTEMS[system](monkeypatch, CUDA)
    trainer = trainer_of(prepared, Policy(precision, CUDA), tmp_path)
    watch = train_dry(trainer, CUDA, prepared.fake)
    assert trainer.state.step == 1
    assert trainer.ema.updates > 0
    convolved = watch.calls.count("convolution")
    assert convolved > 10
    halved = watch.calls.count("_to_copy")
    assert (halved > convolved) is (precision != "fp32")  # autocast converts the weights of each


@pytest.mark.parametrize("system", [system for system in SYSTEMS if system not in ("yolov5", "yolov3-spp")])
def test_so_does_the_backward_pass(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On "meta", which is no CPU either: own gradients, what is kept for them, and every parameter's gradient."""
    prepared = SYSTEMS[system](monkeypatch, META)
    trainer = trainer_of(prepared, Policy("fp32", META), tmp_path)
    watch = train_dry(trainer, META, None)
    assert trainer.state.step == 1
    assert watch.calls.count("convolution_backward") > 10


@pytest.mark.parametrize("system", ["yolov5", "yolov3-tiny"])
def test_validation_of_a_yolo_up_to_suppression(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = SYSTEMS[system](monkeypatch, CUDA)
    prepared.task.val = without_images()
    (maps, rows), losses = evaluated_dry(prepared.task, monkeypatch, loop, prepared.loader, fake_of(prepared))
    assert rows.shape == (IMAGES, sum(level.shape[1:4].numel() for level in maps), 5 + 3)
    assert losses.shape == (3,)
    assert {rows.device, losses.device} == {CUDA}


@pytest.mark.parametrize("system", ["centerfusion", "centerfusion without radar"])
def test_validation_of_centerfusion_up_to_the_last_step(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Association with what the first heads see, and decoding; which peaks are kept is found on the host."""
    prepared = SYSTEMS[system](monkeypatch, CUDA)
    heads, losses = evaluated_dry(prepared.task, monkeypatch, fusion_evaluation, prepared.loader, fake_of(prepared))
    with fake_of(prepared), Watch(CUDA):
        found = decode(heads, 20)
    assert found.boxes.shape == (IMAGES, 20, 4)
    assert {found.boxes.device, losses.device} == {CUDA}


def fake_of(prepared: Prepared) -> Fake:
    assert prepared.fake is not None
    return prepared.fake


def without_images() -> DataIndex:
    nothing, offsets = np.zeros(0, np.int64), np.zeros(1, np.int64)
    boxes = np.zeros((0, 4), np.float32)
    return DataIndex(
        names=("a", "b", "c"),
        path_bytes=np.zeros(0, np.uint8),
        path_offsets=offsets,
        sizes=np.zeros((0, 2), np.int32),
        box_offsets=offsets.copy(),
        classes=nothing.astype(np.int32),
        boxes=boxes,
        point_offsets=offsets.copy(),
        points=boxes[:, :2].copy(),
        image_ids=nothing,
        category_ids=(1, 2, 3),
    )


SLIPS: dict[str, Callable[[Tensor], object]] = {
    "a constant of the CPU": lambda values: values * torch.tensor(1.0),
    "a list that is copied": lambda values: values * torch.tensor([1.0], device=values.device),
    "item": lambda values: values.sum().item(),
    "a condition": lambda values: bool(values.sum() > 0),
    "numpy": lambda values: np.log(values),
    "a copy to the host": lambda values: values.detach().cpu(),
    "a boolean index": lambda values: values[values > 0],
    "synchronize": lambda values: torch.cuda.synchronize(),
}
LOSSES = {
    "yolov5": (yolo_loss, "decode_boxes"),
    "yolov3-tiny": (yolo_loss, "elementwise_iou"),
    "centerfusion": (fusion_losses, "masked_l1"),
}


@pytest.mark.parametrize(("system", "slip"), [*product(LOSSES, ("a constant of the CPU", "item", "numpy"))])
def test_a_slip_in_the_loss_is_found(system: str, slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, name = LOSSES[system]
    right = getattr(room, name)

    def wrong(values: Tensor, *others: Any, **options: Any) -> Tensor:
        SLIPS[slip](values)
        return right(values, *others, **options)

    prepared = SYSTEMS[system](monkeypatch, CUDA)
    trainer = trainer_of(prepared, Policy("fp32", CUDA), tmp_path)
    monkeypatch.setattr(room, name, wrong)
    with pytest.raises((SlipError, RuntimeError), match=FOUND[slip]):
        train_dry(trainer, CUDA, prepared.fake)
    assert trainer.state.step == 0


FOUND = {
    "a constant of the CPU": "has a tensor on cpu",
    "a list that is copied": "has a tensor on cpu",
    "item": "_local_scalar_dense waits",
    "a condition": "_local_scalar_dense waits",
    "numpy": r"numpy\(\) is not supported",
    "a copy to the host": "has a tensor on cpu",
    "a boolean index": "waits|boolean index",
    "synchronize": "synchronize waits",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_what_the_watch_finds(slip: str) -> None:
    fake = Fake()
    values = placed(torch.ones(3), CUDA, fake)
    with fake, Watch(CUDA), pytest.raises((SlipError, RuntimeError), match=FOUND[slip]):
        SLIPS[slip](values)
