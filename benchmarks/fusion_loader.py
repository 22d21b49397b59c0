"""What a sample of camera + radar costs, against the decoding of its JPEG file alone.

Images are those of the small nuScenes set of the golden vectors with its radar and objects; generated ones of many
edges with random objects and radar; and the files of the real key frame with the same. Sets that are not below
BOXWRIGHT_SHARED (default ../shared) are left out. One thread; variants take turns in one process for `--rounds` rounds
over the same images; the figures are medians of CPU time, so that other work on the machine matters little.

    decode      reading and decoding the JPEG file in full: the yardstick
    decode 1/2  the same at half scale
    train       a training sample of 448 x 800: decoding in full, warp, colours, radar map, targets
    no radar    the same without radar
    reduced     the training sample with the file decoded at reduced scale (--augment.reduced_decoding)
    val         a validation sample

    python benchmarks/fusion_loader.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from boxwright.centerfusion.augment import centered
from boxwright.centerfusion.samples import SampleMaker, allocate
from boxwright.centerfusion.settings import FusionConfig
from boxwright.data.images import read_image
from boxwright.data.sampler import sample_generator
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import ImageAnnotations, ImageRecord

IMAGE_HW = (900, 1600)
SWEEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    root = Path(__file__).resolve().parent.parent
    shared = (root / os.environ.get("BOXWRIGHT_SHARED", "../shared")).resolve()
    tiny = shared / "golden" / "centerfusion" / "nuscenes-tiny"
    with tempfile.TemporaryDirectory() as folder:
        if tiny.is_dir():
            index = open_nuscenes(tiny, "v1.0-mini", cache_dir=Path(folder))
            report("nuscenes-tiny, mini_train", NuscenesSplit(index, "mini_train", SWEEPS), options.rounds)
        else:
            print(f"{tiny} is not there: left out")
        report("generated", Generated(Path(folder), 12), options.rounds)
        files = sorted((shared / "data" / "nuscenes_keyframe" / "samples").glob("CAM_*/*.jpg"))
        if files:
            report("files of the real key frame, generated objects and radar", Generated(files), options.rounds)
        else:
            print("no real key frame is there: left out")


def report(name: str, source: Any, rounds: int) -> None:
    """Time each variant over all images of a source and print them as ratios to decoding."""
    config = FusionConfig()
    camera_only = FusionConfig(no_radar=True)
    variants: dict[str, Callable[[int, int], object]] = {
        "decode": lambda _, image: read_image(source.record(image).path),
        "decode 1/2": lambda _, image: read_image(source.record(image).path, 2),
        "train": sampler(source, config, training=True, reduce=False),
        "no radar": sampler(source, camera_only, training=True, reduce=False),
        "reduced": sampler(source, config, training=True, reduce=True),
        "val": sampler(source, config, training=False, reduce=False),
    }
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for epoch in range(rounds):
        for variant, run in variants.items():
            start = time.process_time()
            for image in range(len(source)):
                run(epoch, image)
            times[variant].append((time.process_time() - start) / len(source))
    sizes = [source.record(image).path.stat().st_size for image in range(len(source))]
    print(f"\n{name}: {len(source)} images of {np.mean(sizes) / 1000:.0f} kB, median of {rounds} rounds")
    print(f"{'variant':12}{'CPU ms':>9}{'of decoding':>13}")
    for variant, values in times.items():
        share = median(own / base for own, base in zip(values, times["decode"], strict=True))
        print(f"{variant:12}{median(values) * 1e3:9.2f}{share:13.2f}")


def sampler(source: Any, config: FusionConfig, *, training: bool, reduce: bool) -> Callable[[int, int], object]:
    """Makes samples into arrays of its own, as a loader does into those of a batch."""
    maker, room = SampleMaker(source, config), allocate(config, 1)[1].row(0)

    def run(epoch: int, image: int) -> None:
        record = source.record(image)
        drawn = centered((record.height, record.width)), None
        if training:
            drawn = maker.draw(record, sample_generator(0, epoch, image))
        maker.write_placed(image, record, *drawn, room, reduce=reduce)

    return run


class Generated:
    """Images with random objects and radar; the images are files, or are made of edges and grain.

    Args:
        files: images of 1600 x 900, or a folder to write some to.
        count: how many to write.
    """

    def __init__(self, files: list[Path] | Path, count: int = 0) -> None:
        self._files = files if isinstance(files, list) else [write_image(files, image) for image in range(count)]

    def __len__(self) -> int:
        return len(self._files)

    def record(self, position: int) -> ImageRecord:
        height, width = IMAGE_HW
        calib = np.array([[1266.0, 0, width / 2, 0], [0, 1266.0, height / 2, 0], [0, 0, 1, 0]])
        return ImageRecord(self._files[position], width, height, 1, 0, calib, np.eye(4), objects(position, 25))

    def radar(self, position: int) -> np.ndarray:
        rng = np.random.default_rng(position)
        points = rng.normal(0.0, 5.0, (18, 250))
        points[2] = rng.uniform(3.0, 80.0, 250)
        points[0] *= points[2] / 15.0
        points[1] = 1.0
        return points


def objects(seed: int, count: int) -> ImageAnnotations:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, (1500, 800), (count, 2)), rng.uniform(10, 200, (count, 2))
    return ImageAnnotations(
        labels=rng.integers(0, 10, count),
        boxes_xywh=np.concatenate([corners, sides], axis=1),
        dims=rng.uniform(1, 4, (count, 3)),
        locations=rng.uniform(-5, 5, (count, 3)),
        depths=rng.uniform(3, 50, count),
        rotation_y=rng.uniform(-np.pi, np.pi, count),
        alpha=rng.uniform(-np.pi, np.pi, count),
        amodel_centers=corners + sides / 2,
        attributes=rng.integers(-1, 8, count),
        velocity_cam=rng.normal(0, 3, (count, 3)),
        is_crowd=np.zeros(count, np.bool_),
    )


def write_image(folder: Path, seed: int) -> Path:
    """Polygons, grain and gradients, which take about the bytes of a real image of a street."""
    rng = np.random.default_rng(seed)
    height, width = IMAGE_HW
    pixels = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(150):
        corners = rng.uniform(0, (width, height), 2) + rng.normal(0, 60, (4, 2))
        cv2.fillPoly(pixels, [corners.astype(np.int32)], rng.integers(0, 256, 3).tolist())
    grain = cv2.GaussianBlur(rng.normal(0, 12, (height, width, 3)), (3, 3), 0)
    file = folder / f"{seed}.jpg"
    cv2.imencode(".jpg", np.clip(pixels + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tofile(
        file
    )
    return file


if __name__ == "__main__":
    main()
