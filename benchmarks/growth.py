"""How time and memory grow with the data set: index, start, worker processes, validation, order of an epoch.

Each point is a process of its own, so that its peak memory is its own. Images are made: small JPEG files of 64 x 48
pixels with seven boxes each, as many as COCO has on average, in one folder and once more in tar shards. The points go
up to those of COCO (118,000 images; 36,000 boxes and 500,000 detections) and to an epoch of 1,000,000 samples. A point
is measured once, in CPU seconds, so that other work on the machine matters little. The last column is the growth: the
exponent p of n^p between the last two points (n log n is 1.06 to 1.1 here); more than 1.2 is marked, where it counts:
above .2 s or 20 MB.

    python benchmarks/growth.py [--most 118000] [--plot docs/growth.png] [--folder FOLDER]

Takes about 1.5 GB of disk, which is freed at the end, and some 15 minutes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

BOXES = 7  # an image
SHARD_IMAGES = 10_000
STEPS = 20  # of 16 samples, after which the memory of workers is read
MB = 1 << 20


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(action: Callable[[], object]) -> dict[str, float]:
    before, start = peak(), time.process_time()
    action()
    return {"s": time.process_time() - start, "MB": peak() - before}


def make_data(folder: Path, count: int) -> None:
    """Write `count` images and labels as files and as shards; a hundred more to validate on."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
    image = cv2.imencode(".jpg", pixels)[1].tobytes()
    for first, stop, files, tars in ((0, count, folder, folder), (count, count + 100, folder / "val", folder)):
        for part in ("images", "labels"):
            (files / part).mkdir(parents=True)
        for start in range(first, stop, SHARD_IMAGES):
            name = "val" if first else f"{start // SHARD_IMAGES:06}"
            with tarfile.open(tars / f"{name}.tar", "w") as tar:
                for i in range(start, min(start + SHARD_IMAGES, stop)):
                    centres, sides = rng.uniform(0.2, 0.8, (BOXES, 2)), rng.uniform(0.05, 0.3, (BOXES, 2))
                    rows = zip(rng.integers(0, 80, BOXES), np.concatenate((centres, sides), axis=1), strict=True)
                    label = "".join(f"{kind} {' '.join(f'{v:.6f}' for v in box)}\n" for kind, box in rows).encode()
                    for part, suffix, content in (("images", "jpg", image), ("labels", "txt", label)):
                        (files / part / f"{i:012}.{suffix}").write_bytes(content)
                        entry = tarfile.TarInfo(f"{i:012}.{suffix}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
                        tar.members.clear()  # type: ignore[attr-defined]


def data_yaml(folder: Path, kind: str, count: int) -> Path:
    """Name the first images as a data set."""
    file = folder / f"{kind}{count}.yaml"
    if kind == "files":
        (folder / f"{count}.txt").write_text("".join(f"./images/{i:012}.jpg\n" for i in range(count)))
        source = f"{count}.txt"
    else:
        source = f"{{000000..{max(count // SHARD_IMAGES - 1, 0):06}}}.tar"
    file.write_text(f"train: {source}\nval: {'val/images' if kind == 'files' else 'val.tar'}\nnc: 80\n")
    return file


def index(folder: Path, kind: str, count: int) -> dict[str, dict[str, float]]:
    """Index a data set, and take the index from the cache."""
    import safetensors.torch  # noqa: F401  # of the cache

    from boxwright.data.dataset import read_split

    yaml = data_yaml(folder, kind, count)
    return {
        f"index of {kind}": timed(lambda: read_split(yaml, "train")),
        f"index of {kind} from the cache": timed(lambda: read_split(yaml, "train")),
    }


def start(folder: Path, kind: str, count: int) -> dict[str, dict[str, float]]:
    """Begin a run of an indexed data set, until the first batch."""
    import torch

    from boxwright.engine.device import resolve
    from boxwright.engine.distributed import World
    from boxwright.settings.load import load
    from boxwright.yolo.settings import RunConfig
    from boxwright.yolo.verbs.train import YoloRun

    settings = {"data": str(folder / f"{kind}{count}.yaml"), "model": "yolov5n", "imgsz": 64, "workers": 0}
    device = torch.device("cpu")

    def begin() -> None:
        run = YoloRun.begin(load(RunConfig, settings), resolve("fp32", device), World())
        next(iter(run.make_task(device, World()).train_batches(0, 0)))
        run.train_index.describe()

    return {f"start of training on {kind}": timed(begin)}


def workers(folder: Path, kind: str, count: int, processes: int) -> dict[str, dict[str, float]]:
    """Read the memory of workers that have made batches: in all, and what each has for itself."""
    from boxwright.data.dataset import read_split
    from boxwright.settings.load import load
    from boxwright.yolo.loader import make_train_loader
    from boxwright.yolo.settings import RunConfig

    os.cpu_count = lambda: processes  # type: ignore[method-assign]  # a loader takes no more workers than cores
    config = load(RunConfig, {"data": "x", "workers": processes, "batch_size": 16})
    loader = make_train_loader(read_split(folder / f"{kind}{count}.yaml", "train"), config, imgsz=64, stride=32)
    batches = chain.from_iterable(loader.batches(epoch) for epoch in itertools.count())
    for _ in range(STEPS * processes):
        next(batches)
    found: list[dict[str, int]] = []
    for pid in loader._pool._pids.tolist():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        found.append({line.split(":")[0]: int(line.split()[1]) for line in lines})
    loader.close()
    own = [(part["Private_Clean"] + part["Private_Dirty"]) / 1024 for part in found]
    total = sum(part["Pss"] for part in found) / 1024
    name = f"{processes} workers on {kind}"
    return {f"{name}, each for itself": {"MB": max(own)}, f"{name}, in all": {"MB": total}}


def validation(detections: int) -> dict[str, dict[str, float]]:
    """Measure random detections around random labels, with all metrics."""
    import torch

    from boxwright.data.index import DataIndex, Record
    from boxwright.data.structures import Detections
    from boxwright.metrics.coco import BoxEvaluator, truth_for
    from boxwright.metrics.matching import ConfusionEvaluator
    from boxwright.yolo.metric import YoloEvaluator

    images, rng = detections // 100, np.random.default_rng(0)
    records: list[Record] = []
    found: list[Detections] = []
    for image in range(images):
        boxes = np.concatenate((rng.uniform(0.2, 0.8, (BOXES, 2)), rng.uniform(0.02, 0.3, (BOXES, 2))), axis=1)
        kinds = rng.integers(0, 80, BOXES).astype(np.int32)
        records.append(Record(Path(f"{image}.jpg"), 480, 640, kinds, boxes.astype(np.float32)))
        source = rng.integers(0, BOXES, 100)
        around = boxes[source] * rng.normal(1, 0.1, (100, 4))
        centre, half = around[:, :2] * [640, 480], np.abs(around[:, 2:]) * [320, 240]
        corners = torch.from_numpy(np.concatenate((centre - half, centre + half), axis=1).astype(np.float32))
        scores = torch.from_numpy(-np.sort(-rng.beta(0.3, 3, 100)).astype(np.float32))
        found.append(Detections(corners, scores, torch.from_numpy(kinds[source].astype(np.int64))))
    data = DataIndex.from_records(records, [f"class{i}" for i in range(80)])

    def measure() -> None:
        generation = "v6.1"
        evaluators = (
            YoloEvaluator(data, generation),
            ConfusionEvaluator(data, generation, "faithful"),
            BoxEvaluator(data, truth_for(data)),
        )
        for at in range(0, images, 32):
            rows = range(at, min(at + 32, images))
            for evaluator in evaluators:
                evaluator.process([found[i] for i in rows], rows)
        for evaluator in evaluators:
            evaluator.evaluate()

    return {"metrics of detections": timed(measure)}


def sampler(samples: int) -> dict[str, dict[str, float]]:
    """Draw the order of an epoch and hand out all its batches."""
    from boxwright.data.sampler import BatchPlan

    def epoch() -> None:
        plan = BatchPlan(np.arange(samples), 16, 0)
        share = plan.epoch(0)
        for step in range(len(plan)):
            share(step)

    return {"order of an epoch": timed(epoch)}


def measure(folder: Path, most: int) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Run every point in a process of its own."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONWARNINGS"] = "ignore"  # of torch, of eight workers on a machine of fewer cores
    counts = [most // 16, most // 4, most]
    shards = [max(count // SHARD_IMAGES, 1) * SHARD_IMAGES for count in counts[1:]]
    plan: list[tuple[object, ...]] = [("make_data", folder / "data", most)]
    for count in counts:
        plan += [(kind, folder / "data", "files", count) for kind in ("index", "start")]
        plan += [("workers", folder / "data", "files", count, number) for number in (1, 4, 8)]
    for count in dict.fromkeys(shards):
        plan += [(kind, folder / "data", "shards", count) for kind in ("index", "start")]
        plan += [("workers", folder / "data", "shards", count, 4)]
    plan += [("validation", detections) for detections in (31_250, 125_000, 500_000)]
    plan += [("sampler", samples) for samples in (62_500, 250_000, 1_000_000)]
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for point in plan:
        command = [sys.executable, __file__, "--point", json.dumps([str(part) for part in point])]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        size = int(str(point[3 if len(point) > 3 else -1]))
        for name, figures in json.loads(done.stdout.splitlines()[-1]).items():
            found.setdefault(name, []).append((size, figures))
            print(f"{name:<40}{size:>10,}" + "".join(f"{value:>10.2f} {unit}" for unit, value in figures.items()))
            sys.stdout.flush()
    return found


def growth(points: list[tuple[int, dict[str, float]]], unit: str, least: float) -> str:
    """Return the exponent between the last two points; an exclamation mark where it is large."""
    if len(points) < 2 or points[-1][1].get(unit, 0) < least or points[-2][1][unit] <= 0:
        return "-"
    (few, before), (many, after) = points[-2:]
    power = math.log(after[unit] / before[unit]) / math.log(many / few)
    return f"{power:.2f}{' !' if power > 1.2 else ''}"


def plot(found: dict[str, list[tuple[int, dict[str, float]]]], file: Path) -> None:
    """Draw seconds and memory against n; of workers only what eight of them, and four on shards, take."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [name for name in found if "workers" not in name or name.startswith(("8", "4 workers on shards"))]
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.5))
    colours = mpl.colormaps["tab20"]
    for axis, unit, least in zip(axes, ("s", "MB"), (0.01, 1), strict=True):
        for number, name in enumerate(drawn):
            points = [(n, figures[unit]) for n, figures in found[name] if figures.get(unit, 0) >= least]
            style = "--" if "shards" in name else "-"
            # Without a point of its own it still has its line in the legend.
            axis.plot(
                *zip(*points or [(math.nan, math.nan)], strict=True),
                style,
                marker="o",
                ms=4,
                color=colours(number),
                label=name,
            )
        axis.set(xscale="log", yscale="log", xlabel="n: images, detections or samples")
        x, bottom = np.geomspace(7000, 1e6, 20), axis.get_ylim()[0]
        axis.plot(
            x, bottom * x * np.log(x) / (x[0] * np.log(x[0])), color="0.8", linewidth=4, zorder=0, label="n log n"
        )
        axis.grid(alpha=0.3)
    axes[0].set_title("CPU seconds")
    axes[1].set_title("MB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=8)
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    figure.savefig(file, dpi=90)


POINTS: dict[str, Callable[..., object]] = {
    "make_data": lambda folder, count: make_data(Path(folder), int(count)) or {},
    "index": lambda folder, kind, count: index(Path(folder), kind, int(count)),
    "start": lambda folder, kind, count: start(Path(folder), kind, int(count)),
    "workers": lambda folder, kind, count, number: workers(Path(folder), kind, int(count), int(number)),
    "validation": lambda count: validation(int(count)),
    "sampler": lambda count: sampler(int(count)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=118_000, help="images of the largest data set")
    parser.add_argument("--plot", type=Path, help="draw the points into this file")
    parser.add_argument("--folder", type=Path, help="where the data are made, and removed")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        name, *values = json.loads(options.point)
        print(json.dumps(POINTS[name](*values)))
        return
    with TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.most)
    print(f"\n{'':<40}{'n':>10}{'s':>10}{'growth':>8}{'MB':>10}{'growth':>8}")
    for name, points in found.items():
        count, figures = points[-1]
        seconds, memory = growth(points, "s", 0.2), growth(points, "MB", 20)
        print(f"{name:<40}{count:>10,}{figures.get('s', 0):>10.2f}{seconds:>8}{figures['MB']:>10.0f}{memory:>8}")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
