"""Network, data, task, run and verbs of the toy system, in one file because it is small.

The systems of the package have a `task.py` and a `verbs/train.py` instead."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.checkpoints.native import load_checkpoint
from boxwright.engine import run
from boxwright.engine.callbacks import Callback
from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.engine.evaluate import Stages, evaluate
from boxwright.engine.loggers import default_loggers
from boxwright.engine.schedule import ScheduleRules
from boxwright.engine.task import Autocast, Score, StepLoss, ValWatch
from boxwright.errors import UserError
from boxwright.inference.exported import largest_difference, write_verified
from boxwright.settings.base import TrainingConfig
from tests.toy_system.settings import ToyConfig, ToyExportConfig, ToyValConfig

CPU = torch.device("cpu")
VAL_SHARE = 4  # every fourth image is validated on


class Quarters(nn.Module):
    """(B, 1, 8, 8) images to (B, 4) logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.SiLU())
        self.quarter = nn.Linear(16 * channels, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.quarter(self.features(images).flatten(1))


@dataclass(frozen=True)
class ToyBatch:
    images: Tensor  # (B, 1, 8, 8)
    labels: Tensor  # (B,) the bright quarter
    indices: Tensor  # (B,)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(Path(f"image {index}") for index in self.indices.tolist())

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "ToyBatch":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class ToyData:
    images: Tensor
    labels: Tensor

    @classmethod
    def open(cls, path: str) -> "ToyData":
        if not Path(path).is_file():
            raise UserError(f"there are no images {path}")
        with np.load(path) as arrays:
            return cls(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))

    def positions(self, *, val: bool) -> Tensor:
        every = torch.arange(len(self.images))
        return every[(every % VAL_SHARE == 0) == val]

    def batches(self, positions: Tensor, size: int) -> Iterator[ToyBatch]:
        for chosen in positions.split(size):
            yield ToyBatch(self.images[chosen], self.labels[chosen], chosen)


class Accuracy:
    """Share of images whose bright quarter is found, see `engine.evaluate.Evaluator`."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.right: list[bool] = []

    def process(self, detections: Sequence[int], indices: Sequence[int]) -> None:
        self.right += [int(self.labels[i]) == found for i, found in zip(indices, detections, strict=True)]

    def evaluate(self) -> float:
        return sum(self.right) / max(len(self.right), 1)


def measure(model: nn.Module, data: ToyData, size: int, watch: ValWatch[Any, Any] | None = None) -> Score:
    stages: Stages[ToyBatch, Tensor, int] = Stages(
        prepare=lambda batch: batch,
        forward=lambda batch: model(batch.images),
        detect=lambda logits, _: logits.argmax(1).tolist(),
        losses=lambda logits, batch: nn.functional.cross_entropy(logits, batch.labels)[None],
    )
    batches = data.batches(data.positions(val=True), size)
    accuracy, losses, speeds = evaluate(model, batches, stages, Accuracy(data.labels), device=CPU, watch=watch)
    return Score(accuracy, {"accuracy": accuracy}, losses or (0.0,), speeds)


class ToyTask:
    """See `engine.task.Task`."""

    schedule_rules = ScheduleRules(min_warmup_steps=1)
    loss_names: Sequence[str] = ("loss",)

    def __init__(self, model: Quarters, data: ToyData, config: ToyConfig) -> None:
        self.model: nn.Module = model
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self.data = data
        self.config = config

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.positions(val=False)) // self.config.batch_size)

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[ToyBatch]:
        positions = self.data.positions(val=False)
        order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(self.config.seed + epoch))
        yield from self.data.batches(positions[order][start_step * self.config.batch_size :], self.config.batch_size)

    def loss(self, batch: ToyBatch, epoch: int, step: int) -> StepLoss:
        total = self.criterion(self.model(batch.images), batch.labels)
        return StepLoss(total, total.detach()[None])

    def evaluate(self, model: nn.Module, autocast: Autocast, watch: ValWatch[Any, Any] | None = None) -> Score:
        return measure(model, self.data, self.config.batch_size, watch)

    def describe_model(self) -> dict[str, Any]:
        return {"channels": self.config.channels}

    def describe_data(self) -> dict[str, dict[str, Any]]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


class ToyRun:
    """See `engine.run.PreparedRun`."""

    settings: ClassVar[type[TrainingConfig]] = ToyConfig

    def __init__(self, config: ToyConfig, model: Quarters) -> None:
        self.config = config
        self.model = model
        self.earlier = None
        self.data = ToyData.open(config.data)

    @classmethod
    def completed(cls, config: ToyConfig) -> ToyConfig:
        if not config.data:
            raise UserError("train needs --data: an npz file")
        return config

    @classmethod
    def begin(cls, config: ToyConfig, policy: Policy, world: World) -> "ToyRun":
        torch.manual_seed(config.seed)
        return cls(config, open_network(config.weights) if config.weights else Quarters(config.channels))

    @classmethod
    def go_on(cls, config: ToyConfig, content: Mapping[str, Any], world: World) -> "ToyRun":
        return cls(config, Quarters(content["model"]["channels"]))

    def freeze(self) -> Sequence[str]:
        return ()

    def make_task(self, device: torch.device, world: World) -> ToyTask:
        return ToyTask(self.model, self.data, self.config)

    def logs(self, folder: Path) -> Sequence[Callback]:
        return default_loggers(folder)

    def log_summary(self, policy: Policy, folder: Path) -> None:
        print(f"toy: {len(self.data.images)} images; {folder}")

    def finish(self, folder: Path, policy: Policy) -> None:
        val(ToyValConfig(weights=str(folder / "weights" / "best.pt"), data=self.config.data))


def open_network(weights: str) -> Quarters:
    content = load_checkpoint(Path(weights))
    model = Quarters(content["model"]["channels"])
    model.load_state_dict(content["state_dict"])
    return model.eval()


def train(config: ToyConfig, callbacks: Sequence[Callback] = ()) -> Path:
    return run.train(config, ToyRun, callbacks)


def val(config: ToyValConfig) -> float:
    score = measure(open_network(config.weights), ToyData.open(config.data), config.batch_size)
    print(f"accuracy {score.fitness:.3f}")
    return score.fitness


@dataclass(frozen=True)
class ToyAgreement:
    difference: float

    @property
    def fault(self) -> str:
        return "" if self.difference < 1e-5 else "it differs from PyTorch"


def export(config: ToyExportConfig) -> dict[Path, ToyAgreement]:
    model = open_network(config.weights)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target = Path(config.weights).with_suffix(".torchscript")

    def write(path: Path) -> ToyAgreement:
        torch.jit.save(torch.jit.trace(model, images), path)
        with torch.no_grad():
            return ToyAgreement(largest_difference(torch.jit.load(path)(images), model(images)))

    return {target: write_verified(target, write)}
