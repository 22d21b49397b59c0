"""How much faster a CPU training step is under the auto policy than plain fp32.

One step is: images to float, forward, loss, backward, clipped optimizer step, EMA update; yolov5n with 80 classes,
batch 16. Variants, each in a process of its own, since the settings of malloc and OpenMP hold for a whole process:

    fp32     fp32, NCHW, eager, default malloc and OpenMP, one-tensor-at-a-time optimizer and EMA: the baseline
    auto     the precision policy `auto` (bf16 where the CPU has it), channels_last, malloc keeps large buffers, threads
             spin briefly, fused optimizer, foreach EMA
    layout   auto in fp32: what the memory layout and the malloc setting give by themselves
    compile  auto with the network compiled, as by --compile (needs a C++ compiler, and minutes)

Each size, number of threads and kind of company (alone, or beside one process that keeps a core busy) is a row of each
variant. The processes alternate for `--rounds` rounds; the table gives the median over all timed steps, and ratios of
CPU time (the measure where the machine has other work) and of wall time to fp32 in the same row.

    python benchmarks/training_step.py [--sizes 320 640] [--threads 1 2] [--beside nothing busy] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.data.structures import Targets
    from boxwright.yolo.detection import DetectionModel

VARIANTS = ("fp32", "layout", "auto", "compile")
BATCH, NUM_CLASSES = 16, 80
WARM_UP = 8  # steps until malloc has all the buffers that it keeps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--beside", choices=("nothing", "busy"), nargs="+", default=["nothing", "busy"])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["fp32", "auto"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a process, after the warm-up")
    parser.add_argument("--labels", type=int, default=20, help="mean number of labels an image")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        size, threads = options.sizes[0], options.threads[0]
        print(json.dumps(measure(options.child, size, options.steps, options.labels, threads)))
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"training step, yolov5n, batch {BATCH}, {options.rounds} rounds; load of the machine before: {load}")
    print("  px  threads   beside  variant      CPU s  wall s  CPU ratio  wall ratio")
    for size, threads, company in product(options.sizes, options.threads, options.beside):
        with busy_process() if company == "busy" else nullcontext():
            report(size, threads, company, options)


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def report(size: int, threads: int, company: str, options: argparse.Namespace) -> None:
    """Run the variants in turn and print a row of each."""
    steps: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in options.variants}
    for _, name in product(range(options.rounds), options.variants):
        for kind, times in run_child(name, size, threads, options).items():
            steps[name][kind] += times
    base = steps.get("fp32")
    for name, times in steps.items():
        cpu, wall = median(times["cpu"]), median(times["wall"])
        row = f"{size:4}{threads:9}{company:>9}  {name:10}{cpu:8.3f}{wall:8.3f}"
        print(f"{row}{median(base['cpu']) / cpu:11.2f}{median(base['wall']) / wall:12.2f}" if base else row, flush=True)


def run_child(name: str, size: int, threads: int, options: argparse.Namespace) -> dict[str, list[float]]:
    arguments = ["--child", name, "--sizes", str(size), "--steps", str(options.steps)]
    arguments += ["--labels", str(options.labels), "--threads", str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(variant: str, size: int, steps: int, labels: int, threads: int) -> dict[str, list[float]]:
    """Time steps of one variant in this process."""
    tuned = variant != "fp32"
    if tuned:
        from boxwright.machine import keep_large_buffers, spin_briefly  # before torch is loaded

        keep_large_buffers()
        spin_briefly()
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
    policy = resolve("auto" if variant in ("auto", "compile") else "fp32", torch.device("cpu"))
    layout = torch.contiguous_format if variant == "fp32" else torch.channels_last
    model = build_model(load_spec("yolov5n", NUM_CLASSES)).to(memory_format=layout).train()
    criterion = YoloLoss(model.head.anchors, model.strides, NUM_CLASSES, LossConfig(), size)
    update = plain_update(model) if variant == "fp32" else tuned_update(model)
    targets = make_targets(labels)
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8).contiguous(memory_format=layout)

    network = torch.compile(model) if variant == "compile" else model

    def step() -> None:
        with policy.autocast():
            loss = criterion(network(images.float().div_(255)), targets)
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
