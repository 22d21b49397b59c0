"""What loading costs, against the decoding of the JPEG files alone, and whether memory grows.

Default recipe, coco128 (from BOXWRIGHT_SHARED, default ../shared), one thread. All variants run in turn in one process
for `--rounds` rounds over the same samples; the figures are medians of CPU time, so that other work on the machine
matters little.

    decode      reading and decoding four JPEG files in full: the yardstick
    decode 1/2  the same at reduced scale: what is left is reading the Huffman codes, which no scale saves
    decode 1/8
    full        a mosaic sample, every file decoded in full
    reduced     the same with JPEG files decoded at reduced scale where the input is at most half their size
    ram, disk   the same from a filled cache

Then every option of the loader, in batches from this process, without a cache and with a filled one (ram): CPU time of
one image of the data set, which with quad is a quarter of an image of the batch.

Then five epochs with workers: images a second (wall time), CPU time of all processes a sample, and memory (proportional
share of all processes) after each epoch.

Last the memory of 1 and of 8 workers with a filled RAM cache, for coco128 once and eight times over (by links), each
measured in a process of its own: what all processes together take, and their ratio.

    python benchmarks/loader.py [--sizes 640 320] [--rounds 5] [--workers 1] [--epochs 5]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from boxwright.data.dataset import open_dataset
from boxwright.data.images import read_image
from boxwright.data.index import DataIndex
from boxwright.data.source_images import SourceImages, open_source_images
from boxwright.yolo.augmentation import NUM_TILES
from boxwright.yolo.loader import make_train_loader, weights_of_images
from boxwright.yolo.samples import TrainingSamples
from boxwright.yolo.settings import AugmentConfig, RunConfig

STRIDE, BATCH = 32, 16
SECONDS_TO_REST = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    root = Path(__file__).resolve().parent.parent
    shared = (root / os.environ.get("BOXWRIGHT_SHARED", "../shared")).resolve()
    with tempfile.TemporaryDirectory() as folder:
        index = open_dataset(shared / "data" / "coco128" / "coco128.yaml", "train", cache_dir=Path(folder))
        single = open_dataset(
            shared / "data" / "coco128" / "coco128.yaml", "train", single_cls=True, cache_dir=Path(folder)
        )
        for size in options.sizes:
            report_samples(index, size, options.rounds, Path(folder) / "images")
        for size in options.sizes:
            report_options(index, single, size, options.rounds)
        for size in options.sizes:
            for cache in ("", "ram"):
                report_epochs(index, size, cache, options.workers, options.epochs)
        report_memory(shared / "data" / "coco128", Path(folder))


def report_samples(index: DataIndex, size: int, rounds: int, folder: Path) -> None:
    """Time single samples of each variant and print them as ratios to decoding four files."""
    sources = {
        "full": SourceImages(index, size, reduce=False),
        "reduced": SourceImages(index, size),
        "ram": open_source_images(index, size, "ram"),
        "disk": open_source_images(index, size, "disk", cache_folder=folder),
    }
    variants: dict[str, Callable[[int], object]] = {"decode": lambda _: decode_all(index)}
    variants |= {f"decode 1/{n}": lambda _, n=n: decode_all(index, n) for n in (2, 8)}
    variants |= {name: sample_maker(source, size) for name, source in sources.items()}
    for name in ("ram", "disk"):
        for image in range(len(index)):
            sources[name].load(image)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for epoch in range(rounds):
        for name, run in variants.items():
            start = time.process_time()
            run(epoch)
            per_image = (time.process_time() - start) / len(index)
            times[name].append(per_image * (NUM_TILES if name.startswith("decode") else 1))
    print(
        f"one sample, {size} px, mosaic, default recipe, one thread, median of {rounds} rounds of {len(index)} samples"
    )
    print(f"{'variant':12}{'CPU ms':>9}{'of decoding 4':>15}{'samples/s':>11}{'against full':>14}")
    for name, values in times.items():
        share = median(own / base for own, base in zip(values, times["decode"], strict=True))
        gain = median(full / own for own, full in zip(values, times["full"], strict=True))
        against = "" if name.startswith("decode") else f"{gain:.2f}"
        print(f"{name:12}{median(values) * 1e3:9.2f}{share:15.2f}{1 / median(values):11.0f}{against:>14}")


def decode_all(index: DataIndex, reduction: int = 1) -> None:
    for image in range(len(index)):
        read_image(index.path(image), reduction)


def sample_maker(source: SourceImages, size: int) -> Callable[[int], None]:
    samples = TrainingSamples(source, size, STRIDE, AugmentConfig(), seed=0)
    out = np.empty((size, size, 3), dtype=np.uint8)

    def make(epoch: int) -> None:
        for image in range(len(source.index)):
            samples.write(epoch, image, out)

    return make


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "rect": {"rect": True},
    "quad": {"quad": True},
    "image weights": {"weighted": True},
    "mosaic of nine": {"augment": AugmentConfig(mosaic9=1.0)},
    "no mosaic": {"augment": AugmentConfig(mosaic=0.0)},
    "mixup": {"augment": AugmentConfig(mixup=1.0)},
    "single class": {"single": True},
}


def report_options(index: DataIndex, single: DataIndex, size: int, rounds: int) -> None:
    """Time epochs with each option of the loader, in this process."""
    makers = {
        (name, cache): epoch_maker(index, single, size, cache, **o)
        for name, o in OPTIONS.items()
        for cache in ("", "ram")
    }
    for run in makers.values():
        run(0)  # fills the cache
    times: dict[tuple[str, str], list[float]] = {key: [] for key in makers}
    for epoch in range(1, rounds + 1):
        for key, run in makers.items():
            start = time.process_time()
            run(epoch)
            times[key].append((time.process_time() - start) / len(index))
    print(f"one image of the data set, {size} px, in batches of {BATCH}, median of {rounds} epochs")
    print(f"{'option':16}{'CPU ms':>9}{'from ram':>10}{'of default':>12}{'from ram':>10}")
    for name in OPTIONS:
        own = [median(times[name, cache]) for cache in ("", "ram")]
        share = [
            median(a / b for a, b in zip(times[name, cache], times["default", cache], strict=True))
            for cache in ("", "ram")
        ]
        print(f"{name:16}{own[0] * 1e3:9.2f}{own[1] * 1e3:10.2f}{share[0]:12.2f}{share[1]:10.2f}")
    makers.clear()
    gc.collect()  # the caches, before memory is measured


def epoch_maker(
    index: DataIndex,
    single_index: DataIndex,
    size: int,
    cache: str,
    *,
    weighted: bool = False,
    single: bool = False,
    **settings: Any,
) -> Callable[[int], None]:
    data = single_index if single else index
    config = RunConfig(batch_size=BATCH, workers=0, cache=cache, **settings)
    loader = make_train_loader(data, config, imgsz=size, stride=STRIDE)

    def make(epoch: int) -> None:
        weights = weights_of_images(data, [0.5] * data.num_classes) if weighted else None
        for _ in loader.batches(epoch, 0, weights):
            pass

    return make


def report_memory(coco128: Path, folder: Path) -> None:
    """What the processes of a loader with a RAM cache take, with 1 and with 8 workers."""
    for times_over in (1, 8):
        data = linked(coco128, folder / f"times {times_over}", times_over)
        found: dict[int, tuple[float, float, float]] = {}
        for workers in (1, 8):
            queue = multiprocessing.get_context("spawn").SimpleQueue()
            target = (data, folder, workers, queue)
            process = multiprocessing.get_context("spawn").Process(target=measure_memory, args=target)
            process.start()
            found[workers] = queue.get()
            process.join()
        for when, one, many in zip(("at work", "at rest"), found[1], found[8], strict=False):
            print(
                f"memory {when}, 640 px, RAM cache of {found[1][2]:.0f} MiB: {one:.0f} MiB with 1 worker, {many:.0f} "
                f"with 8, ratio {many / one:.2f}, {(many - one) / 7:.0f} MiB a further worker"
            )


def linked(coco128: Path, root: Path, times_over: int) -> Path:
    """A data yaml of the images so many times over."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for file in sorted((coco128 / kind / "train2017").iterdir()):
            for copy in range(times_over):
                (root / kind / f"{file.stem}_{copy}{file.suffix}").symlink_to(file)
    names = (coco128 / "coco128.yaml").read_text().partition("names:")[2]
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames:{names}")
    return root / "data.yaml"


def measure_memory(data: Path, folder: Path, workers: int, queue: Any) -> None:
    """Fill the cache, run two epochs more, and put the MiB of all processes and of the cache into the queue.

    At work each worker is filling a batch, of 19 MiB; at rest all have made as many batches as they may ahead.
    """
    cores = os.cpu_count
    os.cpu_count = lambda: max(cores() or 1, workers)  # else there are no more workers than cores
    warnings.simplefilter("ignore")  # which torch minds
    index = open_dataset(data, "train", cache_dir=folder)
    config = RunConfig(batch_size=BATCH, workers=workers, cache="ram")
    loader = make_train_loader(index, config, imgsz=640, stride=STRIDE)
    for epoch in range(3):
        for _ in loader.batches(epoch):
            pass
    source = SourceImages(index, 640)
    cached = sum(3 * height * width for height, width in map(source.size, range(len(index))))
    at_work = sum(proportional_memory(pid) for pid in process_ids()) / 2**20
    time.sleep(SECONDS_TO_REST)
    at_rest = sum(proportional_memory(pid) for pid in process_ids()) / 2**20
    queue.put((at_work, at_rest, cached / 2**20))
    loader.close()


def report_epochs(index: DataIndex, size: int, cache: str, workers: int, epochs: int) -> None:
    """Run whole epochs through the loader; print speed, and memory after each."""
    config = RunConfig(batch_size=BATCH, workers=workers, cache=cache)
    loader = make_train_loader(index, config, imgsz=size, stride=STRIDE)
    memory: list[float] = []
    rates: list[float] = []
    cpu = 0.0
    for epoch in range(epochs):
        start, cpu_before = time.perf_counter(), cpu_seconds()
        num_images = sum(len(batch) for batch in loader.batches(epoch))
        rates.append(num_images / (time.perf_counter() - start))
        cpu = (cpu_seconds() - cpu_before) / num_images
        memory.append(sum(proportional_memory(pid) for pid in process_ids()) / 2**20)
    loader.close()
    grown = " ".join(f"{value:.0f}" for value in memory)
    print(
        f"epochs, {size} px, cache {cache or 'none'}, {workers} worker(s): {median(rates):.0f} images/s, "
        f"{cpu * 1e3:.1f} ms CPU a sample in the last epoch, memory in MiB after each epoch: {grown}"
    )


def process_ids() -> list[int]:
    return [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]


def cpu_seconds() -> float:
    """CPU time of this process and its workers so far (Linux)."""
    ticks = 0
    for pid in process_ids():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system time
    return ticks / os.sysconf("SC_CLK_TCK")


def proportional_memory(pid: int) -> int:
    """Bytes of memory of a process, shared pages divided by their users (Linux)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
