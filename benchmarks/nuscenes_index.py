"""How much memory and time the index of a nuScenes version takes, and how fast its records and radar are read.

Tables alone are written (no images, no radar files), with as many records a scene as the full data set has on average:
40 key frames, 34 annotations each, 12 sensors of which six cameras and a lidar have sweeps between key frames. A fresh
process indexes each root; its peak of resident memory less that before indexing is set against the annotations.
The growth from the small root to the large one is what counts for the full data set (1,166,187 annotations).

    python benchmarks/nuscenes_index.py [--scenes 50 200] [--root DATA --version v1.0-mini]

With --root, records and radar of a real or synthetic root are read as well (3 sweeps).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import CHANNELS, CLASS_OF_CATEGORY

FULL = 1_166_187  # annotations of v1.0-trainval
SAMPLES, ANNOTATIONS, INSTANCES = 40, 34, 75  # of a scene; of a key frame; of a scene
SWEEPS = {"CAM": 5, "RAD": 5, "LID": 9}  # between key frames, by channel: 3,040 records a scene, 3,095 published
VERSION = "v1.0-bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs=2, default=[50, 200], metavar=("SMALL", "LARGE"))
    parser.add_argument("--root")
    parser.add_argument("--version", default="v1.0-mini")
    options = parser.parse_args()
    found: list[tuple[int, int]] = []
    heads = ("scenes", "annotations", "tables MB", "build s", "open s", "index MB", "peak MB", "bytes/annotation")
    print("  ".join(heads))
    for scenes in options.scenes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_tables(root / VERSION, scenes)
            found.append(measure(root, scenes))
    (small, low), (large, high) = found
    growth = (high - low) / (large - small)
    full = (low + growth * (FULL - small)) / 2**20
    print(f"growth: {growth:.0f} bytes an annotation; v1.0-trainval ({FULL:,}): {full:.0f} MB")
    if options.root:
        read(options.root, options.version)


def measure(root: Path, scenes: int) -> tuple[int, int]:
    """Annotations of a root and bytes by which the peak of a fresh process that indexes it grows."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        annotations, grown, built = pool.apply(index_once, (root,))
    with context.Pool(1) as pool:
        opened = pool.apply(index_once, (root,))[2]
    cells = (
        f"{scenes:6}",
        f"{annotations:11,}",
        f"{_megabytes(root / VERSION):9.0f}",
        f"{built:7.1f}",
        f"{opened:6.2f}",
        f"{_megabytes(root / 'cache'):8.0f}",
        f"{grown / 2**20:7.0f}",
        f"{grown / annotations:16.0f}",
    )
    print("  ".join(cells), flush=True)
    return annotations, grown


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.*") if file.is_file()) / 2**20


def index_once(root: Path) -> tuple[int, int, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    index = open_nuscenes(root, VERSION, cache_dir=root / "cache")
    taken = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return len(index.arrays["annotations"]), grown, taken


def read(root: str, version: str) -> None:
    split = NuscenesSplit(open_nuscenes(root, version), "all", num_sweeps=3)
    for name, function in (("record", split.record), ("radar, 3 sweeps", split.radar)):
        for position in range(len(split)):
            function(position)
        start = time.process_time()
        for position in range(len(split)):
            function(position)
        print(f"{name}: {(time.process_time() - start) / len(split) * 1e3:.3f} ms an image")


def write_tables(folder: Path, scenes: int) -> None:
    """Write tables of so many scenes, record by record."""
    folder.mkdir()
    categories = list(CLASS_OF_CATEGORY)
    write(folder, "sensor", (f'{{"token": "{name}", "channel": "{name}"}}' for name in CHANNELS))
    write(folder, "category", (f'{{"token": "{name}", "name": "{name}"}}' for name in categories))
    write(folder, "attribute", ['{"token": "a", "name": "vehicle.moving"}'])
    write(folder, "calibrated_sensor", (calibration(s, name) for s in range(scenes) for name in CHANNELS))
    write(folder, "scene", (f'{{"token": "{token("e", s)}", "name": "bench-{s:04d}"}}' for s in range(scenes)))
    keys = [(s, k) for s in range(scenes) for k in range(SAMPLES)]
    write(folder, "sample", (sample(s, k) for s, k in keys))
    write(folder, "sample_data", (measured(*one) for one in records(scenes)))
    write(folder, "ego_pose", (pose(*one) for one in records(scenes)))
    write(
        folder,
        "instance",
        (
            f'{{"token": "{token("1", s, i)}", "category_token": "{categories[i % len(categories)]}"}}'
            for s in range(scenes)
            for i in range(INSTANCES)
        ),
    )
    write(folder, "sample_annotation", (annotation(s, k, i) for s, k in keys for i in range(ANNOTATIONS)))


def write(folder: Path, table: str, lines: Iterator[str] | list[str]) -> None:
    with (folder / f"{table}.json").open("w") as stream:
        _write(stream, iter(lines))


def _write(stream: TextIO, lines: Iterator[str]) -> None:
    stream.write("[" + next(lines))
    for line in lines:
        stream.write(",\n" + line)
    stream.write("]")


def token(kind: str, *numbers: int) -> str:
    """32 hexadecimal characters, as published tokens have."""
    return (kind + "".join(f"{number:06x}" for number in numbers)).ljust(32, "0")


def records(scenes: int) -> Iterator[tuple[int, int, int, int, bool]]:
    """Scene, key frame, channel, sweep and whether it is one of a key frame, of every measurement."""
    for scene in range(scenes):
        for key in range(SAMPLES):
            for channel, name in enumerate(CHANNELS):
                for sweep in range(SWEEPS[name[:3]] + 1):
                    yield scene, key, channel, sweep, not sweep


def sample(scene: int, key: int) -> str:
    time = scene * 10**9 + key * 500_000
    return f'{{"token": "{token("5", scene, key)}", "timestamp": {time}, "scene_token": "{token("e", scene)}"}}'


def measured(scene: int, key: int, channel: int, sweep: int, is_key: bool) -> str:
    name, own = CHANNELS[channel], token("d", scene, key, channel, sweep)
    before = (key, sweep - 1) if sweep else (key - 1, SWEEPS[name[:3]])
    prev = token("d", scene, before[0], channel, before[1]) if before[0] >= 0 else ""
    folder, suffix = ("samples", "sweeps")[not is_key], "jpg" if name[:3] == "CAM" else "pcd"
    time = scene * 10**9 + key * 500_000 + sweep * 50_000
    return (
        f'{{"token": "{own}", "sample_token": "{token("5", scene, key)}", "ego_pose_token": "{own}", '
        f'"calibrated_sensor_token": "{token("c", scene, channel)}", "timestamp": {time}, "fileformat": "{suffix}", '
        f'"is_key_frame": {str(is_key).lower()}, "height": 900, "width": 1600, '
        f'"filename": "{folder}/{name}/n015-2018-07-24-11-22-45+0800__{name}__{1532402927000000 + time}.{suffix}", '
        f'"prev": "{prev}", "next": ""}}'
    )


def pose(scene: int, key: int, channel: int, sweep: int, is_key: bool) -> str:
    del is_key
    x = 400.0 + 5 * key + 0.5 * sweep + scene
    return (
        f'{{"token": "{token("d", scene, key, channel, sweep)}", "timestamp": 1532402927000000, '
        f'"rotation": [0.5720320396729045, -0.0016977771610471074, 0.011798001930183783, -0.8201446642457809], '
        f'"translation": [{x}, 1180.8903791765097, 0.0]}}'
    )


def calibration(scene: int, name: str) -> str:
    camera = name.startswith("CAM")
    matrix = "[[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]" if camera else "[]"
    rotation = "[0.5, -0.5, 0.5, -0.5]" if camera else "[1.0, 0.0, 0.0, 0.0]"
    return (
        f'{{"token": "{token("c", scene, CHANNELS.index(name))}", "sensor_token": "{name}", '
        f'"translation": [1.7, 0.0, 1.5], "rotation": {rotation}, "camera_intrinsic": {matrix}}}'
    )


def annotation(scene: int, key: int, number: int) -> str:
    def of(frame: int) -> str:
        return token("a", scene, frame, number) if 0 <= frame < SAMPLES else ""

    x, y = 405.0 + 5 * key + scene + 3 * (number % 6), 1170.0 + 20 * (number % 2) - number
    return (
        f'{{"token": "{of(key)}", "sample_token": "{token("5", scene, key)}", '
        f'"instance_token": "{token("1", scene, number)}", "visibility_token": "4", "attribute_tokens": ["a"], '
        f'"translation": [{x}, {y}, 1.0], "size": [1.8, 4.2, 1.6], "rotation": [0.8148756598478406, 0.0, 0.0, '
        f'-0.5796357985731613], "prev": "{of(key - 1)}", "next": "{of(key + 1)}", '
        f'"num_lidar_pts": 5, "num_radar_pts": 1}}'
    )


if __name__ == "__main__":
    main()
