"""What loading costs, against the decoding of the JPEG files alone, and whether memory grows.

Default recipe, coco128 (from BOXWRIGHT_SHARED, default ../shared), one thread. All variants run in turn in one process
for `--rounds` rounds over the same samples; the figures are medians of CPU time, so that other work on the machine
matters little.

    decode      reading and decoding four JPEG files in full: the yardstick
    full        a mosaic sample, every file decoded in full
    reduced     the same with JPEG files decoded at reduced scale where the input is at most half their size
    ram, disk   the same from a filled cache

Then five epochs with workers: images a second (wall time), CPU time of all processes a sample, and memory (proportional
share of all processes) after each epoch.

    python benchmarks/loader.py [--sizes 640 320] [--rounds 5] [--workers 1] [--epochs 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from boxwright.config.schema import AugmentConfig
from boxwright.data.augment import TrainingSamples
from boxwright.data.dataset import open_dataset
from boxwright.data.images import read_image
from boxwright.data.index import DataIndex
from boxwright.data.loader import make_train_loader
from boxwright.data.mosaic import NUM_TILES
from boxwright.data.source_images import SourceImages, open_source_images

STRIDE, BATCH = 32, 16


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
        for size in options.sizes:
            report_samples(index, size, options.rounds, Path(folder) / "images")
        for size in options.sizes:
            for cache in ("", "ram"):
                report_epochs(index, size, cache, options.workers, options.epochs)


def report_samples(index: DataIndex, size: int, rounds: int, folder: Path) -> None:
    """Time single samples of each variant and print them as ratios to decoding four files."""
    sources = {
        "full": open_source_images(index, size, "", reduce=False),
        "reduced": open_source_images(index, size, ""),
        "ram": open_source_images(index, size, "ram"),
        "disk": open_source_images(index, size, "disk", cache_folder=folder),
    }
    variants: dict[str, Callable[[int], object]] = {"decode": lambda _: decode_all(index)}
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
            times[name].append(per_image * (NUM_TILES if name == "decode" else 1))
    print(
        f"one sample, {size} px, mosaic, default recipe, one thread, median of {rounds} rounds of {len(index)} samples"
    )
    print(f"{'variant':10}{'CPU ms':>9}{'of decoding 4':>15}{'samples/s':>11}{'against full':>14}")
    for name, values in times.items():
        share = median(own / base for own, base in zip(values, times["decode"], strict=True))
        gain = median(full / own for own, full in zip(values, times["full"], strict=True))
        against = "" if name == "decode" else f"{gain:.2f}"
        print(f"{name:10}{median(values) * 1e3:9.2f}{share:15.2f}{1 / median(values):11.0f}{against:>14}")


def decode_all(index: DataIndex) -> None:
    for image in range(len(index)):
        read_image(index.path(image))


def sample_maker(source: SourceImages, size: int) -> Callable[[int], None]:
    samples = TrainingSamples(source, size, STRIDE, AugmentConfig(), seed=0)
    out = np.empty((size, size, 3), dtype=np.uint8)

    def make(epoch: int) -> None:
        for image in range(len(source.index)):
            samples.write(epoch, image, out)

    return make


def report_epochs(index: DataIndex, size: int, cache: str, workers: int, epochs: int) -> None:
    """Run whole epochs through the loader; print speed, and memory after each."""
    loader = make_train_loader(
        index,
        imgsz=size,
        batch_size=BATCH,
        augment=AugmentConfig(),
        seed=0,
        stride=STRIDE,
        workers=workers,
        cache=cache,
    )
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
