"""What a GPU does in a second: training, validation and latency, in one json and one table.

    train      images/s of yolov5n, s and m at 640 px, batch 16, and of CenterFusion at 448 x 800, batch 16, by the loop
               of the trainer over one batch in page-locked memory: eager, recorded (--cuda-graph), compiled (--compile)
    loader     images/s of the training loader alone, as `train` sets it up on this machine
    end to end images/s of an epoch with its loader, and the share of it that was spent waiting for the loader
    val        images/s of a validation, NMS and metric included
    latency    ms of one image and of 32: network, decoding and NMS, in fp16 and in fp32 without TF32

Pictures are of the made world. What does not fit into `--seconds` is left out and named; compiling comes last.

    python benchmarks/gpu.py [--seconds 360] [--out runs/gpu.json] [--table docs/gpu.md]
    python benchmarks/gpu.py --device cpu --tiny      # tries this program without a GPU
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from boxwright.centerfusion.network import CenterFusion
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.task import CenterFusionTask
from boxwright.centerfusion.verbs.train import spec_of
from boxwright.data.dataset import open_dataset
from boxwright.engine.device import Policy, allow_tf32, choose_kernels, resolve
from boxwright.engine.stopping import Interrupt
from boxwright.engine.trainer import Trainer
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.settings.load import load
from boxwright.synthetic.nuscenes_root import write_nuscenes
from boxwright.synthetic.world import WorldSettings
from boxwright.synthetic.yolo_set import YoloSetSettings, write_yolo_set
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.task import Detect2d
from boxwright.yolo.weights import ready
from boxwright.yolo.zoo import build_model, load_spec

MODES = {"eager": {}, "graph": {"cuda_graph": True}, "compile": {"compile": True}}
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass
class Sizes:
    """What is measured."""

    models: tuple[str, ...] = ("yolov5n", "yolov5s", "yolov5m")
    side: int = 640
    fusion_hw: tuple[int, int] = (448, 800)
    width: float = 1.0  # of CenterFusion
    batch: int = 16
    warm_up: int = 8
    steps: int = 20
    scenes: int = 40  # of six images each
    workers: int = 8
    batches: tuple[int, ...] = (1, 32)  # of latency


TINY = Sizes(("yolov5n",), 64, (64, 128), 0.125, 2, 1, 2, 2, 0, (1, 2))


@dataclass
class Bench:
    """The measurements, and the time they may take."""

    device: torch.device
    sizes: Sizes
    seconds: float
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def measure(self, what: str, run: Callable[[], dict[str, Any]], **about: Any) -> None:
        """Add a row; what fails or comes too late is a row that says so."""
        if time.monotonic() - self.start > self.seconds:
            found: dict[str, Any] = {"left out": "out of time"}
        else:
            begin = time.monotonic()
            try:
                found = run()
            except Exception as error:
                found = {"left out": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            found["took s"] = round(time.monotonic() - begin, 1)
        self.rows.append({"what": what, **about, **found})
        print(json.dumps(self.rows[-1]), flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, *, restart: bool = False) -> float | None:
        """Return the most GiB that tensors have taken since the last restart."""
        if self.device.type != "cuda":
            return None
        if restart:
            torch.cuda.reset_peak_memory_stats(self.device)
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument("--table", type=Path, help="markdown file whose figures are replaced")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try this program")
    options = parser.parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "benchmarks/gpu.py: no GPU that this PyTorch can use; --device cpu --tiny tries the program without one"
        )
    if device.type == "cuda":
        choose_kernels(deterministic=False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        bench = Bench(device, TINY if options.tiny else Sizes(), options.seconds, Path(folder))
        everything(bench)
    about = machine(device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": about, "rows": bench.rows}, indent=1) + "\n", encoding="utf-8")
    table = as_table(about, bench.rows)
    print(f"\n{table}\n\n{options.out}")
    if options.table:
        text = options.table.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        options.table.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def machine(device: torch.device) -> dict[str, Any]:
    """Describe card, libraries and commit."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    on_gpu = device.type == "cuda"
    return {
        "card": torch.cuda.get_device_name(device) if on_gpu else "none: a CPU",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if on_gpu else None,
        "cuDNN": torch.backends.cudnn.version() if on_gpu else None,
        "cores": os.cpu_count(),
        "commit": git.stdout.strip(),
        "date": date.today().isoformat(),
    }


def everything(bench: Bench) -> None:
    """Measure all, what costs most last."""
    sizes, device = bench.sizes, bench.device
    scenes = (("train", sizes.scenes), ("val", max(sizes.scenes // 4, 1)))
    pictures = YoloSetSettings(scenes, width=sizes.side, height=sizes.side * 9 // 16)
    data = write_yolo_set(bench.folder / "pictures", pictures, processes=1 if sizes.workers == 0 else 8)
    world = WorldSettings(scenes=2, key_frames=4, width=1600, height=900, sweeps=1, val_fraction=0.5)
    drives = write_nuscenes(bench.folder / "drives", world)
    modes = [mode for mode in MODES if mode != "graph" or device.type == "cuda"]
    if sizes is TINY:
        modes.remove("compile")  # takes a minute and a C++ compiler
    for mode in modes[:-1] if "compile" in modes else modes:
        for model in sizes.models:
            bench.measure("train", lambda m=model, o=mode: yolo_training(bench, data, m, o), model=model, mode=mode)
        run = lambda o=mode: fusion_training(bench, drives, o)  # noqa: E731
        bench.measure("train", run, model="CenterFusion", mode=mode)
    model = sizes.models[0]
    bench.measure("loader", lambda: loader_alone(bench, yolo_task(bench, data, model)), model=model)
    bench.measure("end to end", lambda: end_to_end(bench, data), model=model)
    bench.measure("val", lambda: validation(bench, data), model=model)
    for precision in ("fp16", "fp32") if device.type == "cuda" else ("fp32",):
        for batch in sizes.batches:
            for model in sizes.models:
                run = lambda m=model, b=batch, p=precision: latency(bench, m, b, p)  # noqa: E731
                bench.measure("latency", run, model=model, batch=batch, precision=precision)
    if "compile" in modes:
        for model in sizes.models:
            bench.measure(
                "train", lambda m=model: yolo_training(bench, data, m, "compile"), model=model, mode="compile"
            )


def yolo_task(bench: Bench, data: Path, model: str, *, validated: bool = False, **changes: Any) -> Any:
    """Make task, settings and policy of a YOLO."""
    sizes = bench.sizes
    given = {"model": model, "data": str(data), "imgsz": [sizes.side], "batch_size": sizes.batch}
    config = load(RunConfig, given | {"workers": sizes.workers, "epochs": 300} | changes)
    index = open_dataset(str(data), "train")
    val = open_dataset(str(data), "val") if validated else None
    network = on_device(build_model(load_spec(model, index.num_classes), index.names), bench.device)
    return Detect2d(network, index, val, config, bench.device), config  # type: ignore[arg-type]


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def yolo_training(bench: Bench, data: Path, model: str, mode: str) -> dict[str, Any]:
    return steps_alone(bench, *yolo_task(bench, data, model, **MODES[mode]))


def fusion_training(bench: Bench, root: Path, mode: str) -> dict[str, Any]:
    sizes = bench.sizes
    given = {"data": str(root), "version": "v1.0-mini", "imgsz": list(sizes.fusion_hw), "batch_size": sizes.batch}
    config = load(FusionConfig, given | {"network.width": sizes.width, "workers": sizes.workers} | MODES[mode])
    index = open_nuscenes(root, "v1.0-mini")
    train, val = (NuscenesSplit(index, split, config.num_sweeps) for split in ("train", "val"))
    network = on_device(CenterFusion(spec_of(config)), bench.device)
    return steps_alone(bench, CenterFusionTask(network, train, val, config, bench.device), config)  # type: ignore[arg-type]


def trainer_of(bench: Bench, task: Any, config: Any) -> Trainer:
    policy = resolve("auto", bench.device)
    allow_tf32(False)
    return Trainer(task, config, bench.folder / "run", policy)


def steps_alone(bench: Bench, task: Any, config: Any) -> dict[str, Any]:
    """Time the trainer's loop over one batch, which its loader has made once."""
    warm_up, steps = bench.sizes.warm_up, bench.sizes.steps
    batch = next(task.train_batches(0, 0))
    task.close()
    if bench.device.type == "cuda":
        batch = batch.pin_memory()
    times: list[float] = []

    def again(*_: Any) -> Iterator[Any]:
        for number in range(warm_up + steps):
            if number == warm_up:
                bench.wait()
                times.append(time.perf_counter())
            yield batch

    task.train_batches = again
    trainer = trainer_of(bench, task, config)
    bench.peak(restart=True)
    with Interrupt() as interrupt:
        trainer.train_epoch(interrupt)
    bench.wait()
    seconds = (time.perf_counter() - times[0]) / steps
    found = {"images/s": round(len(batch) / seconds, 1), "ms a step": round(1000 * seconds, 2)}
    return found | {"precision": trainer.policy.name, "peak GiB": bench.peak()}


def loader_alone(bench: Bench, made: Any) -> dict[str, Any]:
    """Time the training loader, after its first two batches."""
    task, config = made
    start, images = time.perf_counter(), 0
    for epoch in range(2):
        for number, batch in enumerate(task.train_batches(epoch, 0)):
            if epoch == 0 and number < 2:
                start = time.perf_counter()
                continue
            images += len(batch)
    seconds = time.perf_counter() - start
    task.close()
    return {"images/s": round(images / seconds, 1), "workers": min(config.workers, os.cpu_count() or 1)}


def end_to_end(bench: Bench, data: Path) -> dict[str, Any]:
    """Time the second of two epochs with their loader."""
    task, config = yolo_task(bench, data, bench.sizes.models[0], log_period=1000)
    trainer = trainer_of(bench, task, config)
    images, seconds = len(task.train), 0.0
    with Interrupt() as interrupt:
        for epoch in range(2):
            trainer.state.epoch, trainer.state.step, trainer.state.loss_sum = epoch, 0, None
            start = time.perf_counter()
            trainer.train_epoch(interrupt)
            bench.wait()
            seconds = time.perf_counter() - start
    cost = trainer.clock.read()
    task.close()
    return {"images/s": round(images / seconds, 1), "share of the loader": round(cost.wait_share, 3)}


def validation(bench: Bench, data: Path) -> dict[str, Any]:
    """Time a validation of random weights, which find up to 300 boxes an image."""
    task, _ = yolo_task(bench, data, bench.sizes.models[0], validated=True)
    policy = resolve("auto", bench.device)
    task.evaluate(task.model, policy.autocast)
    start = time.perf_counter()
    task.evaluate(task.model, policy.autocast)
    seconds = time.perf_counter() - start
    task.close()
    return {"images/s": round(len(task.val) / seconds, 1)}


@torch.inference_mode()
def latency(bench: Bench, model: str, batch: int, precision: str) -> dict[str, Any]:
    """Time network, decoding and NMS, as `predict` runs them."""
    network = ready(build_model(load_spec(model, 80), tuple(map(str, range(80)))).eval(), bench.device)
    policy, side = Policy(precision, bench.device), bench.sizes.side  # type: ignore[arg-type]
    allow_tf32(False)
    images = torch.rand(batch, 3, side, side, device=bench.device).contiguous(memory_format=torch.channels_last)
    find, times = YoloPostprocess(), []
    for number in range(bench.sizes.warm_up + bench.sizes.steps):
        bench.wait()
        start = time.perf_counter()
        with policy.autocast():
            raw = network(images)
        find(network.decode([level.float() for level in raw]))
        bench.wait()
        if number >= bench.sizes.warm_up:
            times.append(time.perf_counter() - start)
    return {"ms": round(1000 * median(times), 2), "images/s": round(batch / median(times), 1)}


def as_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Write the rows as markdown."""
    columns = ("what", "model", "mode", "precision", "batch", "images/s", "ms", "ms a step", "peak GiB")
    lines = ["; ".join(f"{name} {value}" for name, value in about.items() if value is not None), ""]
    lines += [f"| {' | '.join(columns)} | |", f"|{'---|' * (len(columns) + 1)}"]
    for row in rows:
        others = ("share of the loader", "workers", "left out")
        more = ", ".join(f"{name}: {row[name]}" for name in others if name in row)
        cells = [str(row[name]) if row.get(name) is not None else "" for name in columns]
        lines.append(f"| {' | '.join(cells)} | {more} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
