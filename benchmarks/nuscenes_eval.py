"""The nuScenes metric: as fast as wished, and equal to that of the nuscenes-devkit.

First part: drawn boxes, as many predictions as annotations, ten classes: 300 samples with 200 boxes and 6,000 with 500
(a full validation split at the limit of a submission). CPU time of the whole evaluation (filters, matching at four
distances, AP, errors, table by range), and by how much it raises peak memory over that of drawing the boxes.

Second part, with `--devkit PYTHON` (an environment that has nuscenes-devkit; `--make-devkit FOLDER` makes one with uv
and never touches this one): CPU time of the devkit's matching and accumulation alone on the same 300 samples with 200
boxes and on 60 with 500, of which the second is scaled to 6,000 (its cost is proportional to samples); and the largest
difference of any number of the summary and of any point of the curves, on the drawn boxes, on the stored submissions
of the tiny root (BOXWRIGHT_SHARED, default ../shared) and on `--submissions` random ones for each of its splits.

    python benchmarks/nuscenes_eval.py [--devkit PYTHON | --make-devkit FOLDER] [--submissions 5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.nuscenes.metric import NuscenesMetrics, evaluate
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES, GlobalBoxes

GOLDEN = Path(os.environ.get("BOXWRIGHT_SHARED", "../shared")) / "golden" / "centerfusion"
OTHER_SIDE = Path(__file__).with_name("nuscenes_devkit.py")
NAMED = ("labels", "attributes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devkit", type=Path, help="python of an environment that has nuscenes-devkit")
    parser.add_argument("--make-devkit", type=Path, help="make such an environment in this folder, with uv")
    parser.add_argument("--submissions", type=int, default=5, help="random submissions for each split of the tiny root")
    options = parser.parse_args()
    devkit = make_environment(options.make_devkit) if options.make_devkit else options.devkit
    own = {shape: measure_own(*shape) for shape in ((300, 200), (6000, 500))}
    if devkit is None:
        print("no --devkit: nothing to compare with")
        return
    with tempfile.TemporaryDirectory() as folder:
        small, part = (compare_drawn(devkit, Path(folder), *shape) for shape in ((300, 200), (60, 500)))
        print(f"300 samples with 200: {small / own[300, 200]:.0f} times faster")
        print(f"6000 samples with 500: {100 * part / own[6000, 500]:.0f} times faster than 100 times 60 samples")
        compare_root(devkit, Path(folder), options.submissions)


def make_environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    subprocess.run(["uv", "venv", "--python", "3.11", folder], check=True)
    packages = ["numpy==1.26.4", "nuscenes-devkit==1.2.0"]
    subprocess.run(["uv", "pip", "install", "--python", python, *packages], check=True)
    return python


def draw(num_samples: int, num_boxes: int) -> tuple[GlobalBoxes, GlobalBoxes, np.ndarray]:
    """Annotations around the vehicle and predictions about a metre beside them, all in the range of their class."""
    rng = np.random.default_rng(0)
    count = num_samples * num_boxes
    samples = np.repeat(np.arange(num_samples), num_boxes)
    ego = rng.uniform(0, 2000, (num_samples, 3))
    centers = ego[samples] + rng.uniform(-17, 17, (count, 3))
    sizes, half_yaw = rng.uniform(0.5, 5, (count, 3)), rng.uniform(-np.pi, np.pi, count) / 2
    velocities = np.where(rng.random((count, 1)) < 0.05, np.nan, rng.normal(0, 3, (count, 2)))
    attributes = rng.integers(-1, len(ATTRIBUTE_NAMES), count)
    labels, points = rng.integers(0, len(CLASS_NAMES), count), rng.integers(1, 20, count)
    truth = GlobalBoxes(
        samples, labels, centers, sizes, upright(half_yaw), velocities, attributes, np.full(count, -1.0), points
    )
    found = GlobalBoxes(
        samples,
        labels,
        centers + rng.normal(0, 1, (count, 3)),
        sizes * rng.uniform(0.8, 1.25, (count, 3)),
        upright(half_yaw + rng.normal(0, 0.1, count)),
        np.nan_to_num(velocities) + rng.normal(0, 1, (count, 2)),
        np.where(rng.random(count) < 0.8, attributes, 0),
        rng.random(count).round(4),  # some are equal
        np.full(count, -1),
    )
    return truth, found, ego


def upright(half_yaw: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(half_yaw)
    return np.stack((np.cos(half_yaw), zero, zero, np.sin(half_yaw)), axis=1)


def measure_own(num_samples: int, num_boxes: int) -> float:
    truth, found, ego = draw(num_samples, num_boxes)
    before, start = peak_mb(), time.process_time()
    metrics = evaluate(truth, found, ego)
    seconds = time.process_time() - start
    print(
        f"{num_samples} samples with {num_boxes} boxes: {seconds:.2f} s CPU, peak memory +{peak_mb() - before:.0f} MB "
        f"over {before:.0f} MB (mAP {metrics.mean_ap:.4f}, NDS {metrics.nd_score:.4f})"
    )
    return seconds


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_drawn(devkit: Path, folder: Path, num_samples: int, num_boxes: int) -> float:
    truth, found, ego = draw(num_samples, num_boxes)
    np.savez(folder / "boxes.npz", ego=ego, **with_names(truth, "truth"), **with_names(found, "found"))
    theirs = other_side(devkit, "boxes", folder / "boxes.npz", folder / "out")
    difference = largest_difference(evaluate(truth, found, ego), theirs)
    print(f"devkit, {num_samples} samples with {num_boxes}: {theirs['seconds']:.2f} s CPU, difference {difference:.1e}")
    return theirs["seconds"]


def with_names(boxes: GlobalBoxes, side: str) -> dict[str, np.ndarray]:
    names, attributes = np.array(CLASS_NAMES), np.array([*ATTRIBUTE_NAMES, ""])
    plain = {name: getattr(boxes, name) for name in GlobalBoxes.__slots__ if name not in NAMED}
    words = {"names": names[boxes.labels], "attributes": attributes[boxes.attributes]}
    return {f"{side}/{name}": values for name, values in (plain | words).items()}


def compare_root(devkit: Path, folder: Path, num_random: int) -> None:
    """Every stored submission, and random ones, of the tiny root."""
    for file in sorted((GOLDEN / "eval").glob("submission_*.json")):
        split = file.stem.removeprefix("submission_").rsplit("_", 1)[0]
        print(f"{file.stem}: difference {compare_submission(devkit, folder, file, split):.1e}")
        if file.stem.endswith("perfect"):
            results = json.loads(file.read_text())
            differences: list[float] = []
            for seed in range(num_random):
                scattered = folder / "random.json"
                scattered.write_text(json.dumps(scatter(results, np.random.default_rng(seed))))
                differences.append(compare_submission(devkit, folder, scattered, split))
            print(f"{split}, {num_random} random submissions: difference {max(differences, default=0):.1e}")


def compare_submission(devkit: Path, folder: Path, file: Path, split: str) -> float:
    root = (GOLDEN / "nuscenes-tiny" / "v1.0-mini").resolve()
    theirs = other_side(devkit, "root", root, file.resolve(), split, folder / "out")
    arrays = dict(np.load(folder / "out.npz"))
    racks = tuple(arrays[f"rack_{name}"] for name in ("samples", "centers", "sizes", "rotations"))
    return largest_difference(
        evaluate(from_names(arrays, "truth"), from_names(arrays, "found"), arrays["ego"], racks), theirs
    )


def from_names(arrays: dict[str, np.ndarray], side: str) -> GlobalBoxes:
    own = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(side)}
    own["labels"] = np.array([CLASS_NAMES.index(name) for name in own.pop("names")], np.int64)
    own["attributes"] = np.array([ATTRIBUTE_NAMES.index(a) if a else -1 for a in own["attributes"]], np.int64)
    return GlobalBoxes(**own)


def scatter(submission: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Each box none to three times, moved, with few different scores and sometimes another class."""
    results: dict[str, list[dict[str, Any]]] = {}
    for token in rng.permutation(list(submission["results"])):
        results[str(token)] = []
        for box in submission["results"][token]:
            for _ in range(rng.integers(0, 4)):
                moved = box | {
                    "translation": (box["translation"] + rng.normal(0, 1.2, 3)).tolist(),
                    "size": (box["size"] * rng.uniform(0.6, 1.5, 3)).tolist(),
                    "rotation": (box["rotation"] + rng.normal(0, 0.2, 4)).tolist(),
                    "velocity": rng.normal(0, 5, 2).tolist(),
                    "detection_score": float(rng.integers(0, 8) / 8),
                    "attribute_name": str(rng.choice([*ATTRIBUTE_NAMES, ""])),
                }
                if rng.random() < 0.1:
                    moved["detection_name"] = str(rng.choice(CLASS_NAMES))
                results[str(token)].append(moved)
    return {"meta": submission["meta"], "results": results}


def other_side(devkit: Path, *words: Any) -> dict[str, Any]:
    subprocess.run([devkit, OTHER_SIDE, *map(str, words)], check=True, stderr=subprocess.DEVNULL)
    return json.loads(Path(f"{words[-1]}.json").read_text())


def largest_difference(metrics: NuscenesMetrics, theirs: dict[str, Any]) -> float:
    """Over all numbers of the summary but the time, and all points of the curves; infinite where one side has a NaN."""
    summary = numbers({key: value for key, value in metrics.summary().items() if key in theirs["summary"]})
    expected = numbers(theirs["summary"]) | numbers(theirs["details"])
    found = summary | numbers(metrics.details())
    if found.keys() != expected.keys():
        raise SystemExit(f"other keys: {sorted(found.keys() ^ expected.keys())[:5]}")
    ours, other = (np.array([side[key] for key in expected if key != "/eval_time"]) for side in (found, expected))
    return float(np.nan_to_num(np.where(np.isnan(ours) & np.isnan(other), 0, np.abs(ours - other)), nan=np.inf).max())


def numbers(value: Any, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in numbers(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {key: leaf for place, item in enumerate(value) for key, leaf in numbers(item, f"{path}/{place}").items()}
    return {path: value} if isinstance(value, int | float) else {}


if __name__ == "__main__":
    main()
