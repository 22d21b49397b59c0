"""How much faster a CPU training step is under the auto policy than plain fp32.

One step is: images to float, forward, loss, backward, clipped optimizer step, EMA update; yolov5n with 80 classes,
batch 16, one thread. Variants, each in a process of its own, since the malloc setting holds for a whole process:

    fp32    fp32, NCHW, eager, glibc's default malloc, one-tensor-at-a-time optimizer and EMA: the baseline
    auto    the precision policy `auto` (bf16 where the CPU has it), channels_last, malloc keeps large buffers, fused
            optimizer, foreach EMA
    layout  auto in fp32: what the memory layout and the malloc setting give by themselves

The processes alternate for `--rounds` rounds; the table gives the median over all timed steps, and ratios of CPU time
(the measure, since wall time suffers from whatever else the machine does) and of wall time.

    python benchmarks/training_step.py [--sizes 320 640] [--rounds 3] [--steps 5] [--labels 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.data.structures import Targets
    from boxwright.yolo.detection import DetectionModel

VARIANTS = ("fp32", "layout", "auto")
BATCH, NUM_CLASSES = 16, 80
WARM_UP = 8  # steps until malloc has all the buffers that it keeps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a process, after the warm-up")
    parser.add_argument("--labels", type=int, default=20, help="mean number of labels an image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.sizes[0], options.steps, options.labels, options.threads)))
        return
    for size in options.sizes:
        report(size, options)


def report(size: int, options: argparse.Namespace) -> None:
    """Run the variants in turn and print one table."""
    cpu: dict[str, list[float]] = {name: [] for name in VARIANTS}
    wall: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name in VARIANTS:
            steps = run_child(name, size, options)
            cpu[name] += steps["cpu"]
            wall[name] += steps["wall"]
    print(f"training step, yolov5n, {size} px, batch {BATCH}, {options.threads} thread(s), {options.rounds} rounds")
    print(f"{'variant':10}{'CPU s':>9}{'wall s':>9}{'CPU ratio':>11}{'wall ratio':>12}")
    base_cpu, base_wall = median(cpu["fp32"]), median(wall["fp32"])
    for name in VARIANTS:
        own_cpu, own_wall = median(cpu[name]), median(wall[name])
        print(f"{name:10}{own_cpu:9.3f}{own_wall:9.3f}{base_cpu / own_cpu:11.2f}{base_wall / own_wall:12.2f}")


def run_child(name: str, size: int, options: argparse.Namespace) -> dict[str, list[float]]:
    arguments = ["--child", name, "--sizes", str(size), "--steps", str(options.steps)]
    arguments += ["--labels", str(options.labels), "--threads", str(options.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(variant: str, size: int, steps: int, labels: int, threads: int) -> dict[str, list[float]]:
    """Time steps of one variant in this process."""
    tuned = variant != "fp32"
    if tuned:
        from boxwright.engine.allocator import keep_large_buffers  # before torch allocates

        keep_large_buffers()
    import torch

    torch.set_num_threads(threads)
    step = make_step(variant, size, labels)
    times: dict[str, list[float]] = {"cpu": [], "wall": []}
    for number in range(steps + WARM_UP):
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        if number >= WARM_UP:
            times["cpu"].append(time.process_time() - cpu)
            times["wall"].append(time.perf_counter() - wall)
    return times


def make_step(variant: str, size: int, labels: int) -> Callable[[], None]:
    """Build network, loss, optimizer and a batch; return the function that does one step."""
    import torch

    from boxwright.engine.device import resolve
    from boxwright.yolo.loss import YoloLoss
    from boxwright.yolo.settings import LossConfig
    from boxwright.yolo.zoo import build_model, load_spec

    torch.manual_seed(0)
    policy = resolve("auto" if variant == "auto" else "fp32", torch.device("cpu"))
    layout = torch.contiguous_format if variant == "fp32" else torch.channels_last
    model = build_model(load_spec("yolov5n", NUM_CLASSES)).to(memory_format=layout).train()
    criterion = YoloLoss(model.head.anchors, model.strides, NUM_CLASSES, LossConfig(), size)
    update = plain_update(model) if variant == "fp32" else tuned_update(model)
    targets = make_targets(labels)
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8).contiguous(memory_format=layout)

    def step() -> None:
        with policy.autocast():
            loss = criterion(model(images.float().div_(255)), targets)
        loss.total.backward()
        update()

    return step


def tuned_update(model: DetectionModel) -> Callable[[], None]:
    """The engine's own optimizer, clipping and EMA."""
    from boxwright.engine.optim import ModelEma, clip_gradients, make_optimizer
    from boxwright.settings.base import OptimConfig

    optimizer = make_optimizer(model, OptimConfig(lr0=1e-4), weight_decay=5e-4)
    ema = ModelEma(model)

    def update() -> None:
        clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return update


def plain_update(model: DetectionModel) -> Callable[[], None]:
    """The same one tensor at a time."""
    import copy

    import torch

    averaged = copy.deepcopy(model).requires_grad_(False)
    values = [v for v in model.state_dict().values() if v.is_floating_point()]
    averages = [v for v in averaged.state_dict().values() if v.is_floating_point()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.937, nesterov=True, foreach=False)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        for average, value in zip(averages, values, strict=True):
            average.mul_(1 - 1e-4).add_(value, alpha=1e-4)

    return update


def make_targets(mean_labels: int) -> Targets:
    """Random boxes of a twelfth to a third of the side, 0 to twice the mean an image, padded by the loader's rule."""
    import numpy as np

    from boxwright.yolo.geometry import Labels
    from boxwright.yolo.loader import pad_labels

    rng = np.random.default_rng(0)
    images: list[Labels] = []
    for count in rng.integers(0, 2 * mean_labels, endpoint=True, size=BATCH):
        centres, sides = rng.uniform(0.05, 0.95, (count, 2)), rng.uniform(0.08, 0.33, (count, 2))
        classes = rng.integers(0, NUM_CLASSES, count, dtype=np.int32)
        images.append(Labels(classes, np.concatenate((centres, sides), axis=1).astype(np.float32)))
    return pad_labels(images)


if __name__ == "__main__":
    main()
