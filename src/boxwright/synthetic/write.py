"""Write the street as a data set: JPEG images, YOLO txt labels with a data yaml, and COCO json.

Layout: images/<split>/, labels/<split>/, annotations/instances_<split>.json, data.yaml. Splits share no scene. Each
image is a pure function of (seed, scene, frame), so the files do not depend on the number of processes.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import Camera, mounted_camera
from boxwright.synthetic.catalog import NAMES
from boxwright.synthetic.render import Limits, render
from boxwright.synthetic.world import DURATION, make_scene

_JPEG_QUALITY = 92
_CHUNK = 25  # scenes a task of a worker process


@dataclass(frozen=True, slots=True)
class StreetSettings:
    """What a data set of street images holds.

    Args:
        scenes: number of scenes of each split, by name; splits take scene numbers one after another.
        frames: images a scene, spread evenly over its 20 seconds.
        width: image width in pixels.
        height: image height in pixels.
        seed: of the world.
        first_scene: number of the first scene.
        limits: what is worth a label.
    """

    scenes: tuple[tuple[str, int], ...] = (("train", 400), ("val", 60))
    frames: int = 2
    width: int = 320
    height: int = 192
    seed: int = 0
    first_scene: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """One written image: its name and its labels."""

    name: str
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]


def front_camera(width: int, height: int) -> Camera:
    """Return a camera behind the windscreen, looking ahead."""
    return mounted_camera("CAM_FRONT", width, height, position_ego=(1.7, 0.0, 1.55))


def write_street(
    folder: Path,
    settings: StreetSettings | None = None,
    *,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the images and labels of all splits.

    Args:
        folder: where to write; made if absent.
        settings: what to write.
        processes: worker processes; 1 renders in this one.
        on_progress: called with scenes done and scenes in all.

    Returns:
        The data yaml.
    """
    settings = settings or StreetSettings()
    tasks = _tasks(folder, settings)
    total, done = sum(count for _, count in settings.scenes), 0
    results: dict[tuple[str, int], list[_Labelled]] = {}

    def collect(key: tuple[str, int], written: list[_Labelled]) -> None:
        nonlocal done
        results[key] = written
        done += len(written) // settings.frames
        if on_progress:
            on_progress(done, total)

    if processes <= 1:
        for split, scenes in tasks:
            collect((split, scenes[0]), _write_scenes(folder, settings, split, scenes))
    else:
        # Not fork: the caller may have threads running.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures = {
                pool.submit(_write_scenes, folder, settings, split, scenes): (split, scenes[0])
                for split, scenes in tasks
            }
            for future in as_completed(futures):
                collect(futures[future], future.result())
    for split, _ in settings.scenes:
        labelled = [entry for key, entries in results.items() if key[0] == split for entry in entries]
        labelled.sort(key=lambda entry: entry.name)
        _write_coco(folder / "annotations" / f"instances_{split}.json", labelled, settings)
    return _write_yaml(folder / "data.yaml", settings)


def _tasks(folder: Path, settings: StreetSettings) -> list[tuple[str, Sequence[int]]]:
    """Make the folders and cut the scenes of each split into chunks."""
    tasks: list[tuple[str, Sequence[int]]] = []
    first = settings.first_scene
    for split, count in settings.scenes:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        scenes = range(first, first + count)
        tasks.extend((split, scenes[start : start + _CHUNK]) for start in range(0, count, _CHUNK))
        first += count
    (folder / "annotations").mkdir(exist_ok=True)
    return tasks


def _write_scenes(folder: Path, settings: StreetSettings, split: str, scenes: Sequence[int]) -> list[_Labelled]:
    cv2.setNumThreads(1)  # images are small: more threads only wait for each other
    camera = front_camera(settings.width, settings.height)
    size = np.array([settings.width, settings.height], np.float64)
    written: list[_Labelled] = []
    for index in scenes:
        scene = make_scene(settings.seed, index)
        for frame in range(settings.frames):
            picture = render(scene, camera, frame * DURATION / settings.frames, limits=settings.limits)
            name = f"street_{frame:02d}_{index:05d}"  # neighbours in the file list are other scenes
            _write_jpeg(folder / "images" / split / f"{name}.jpg", picture.image)
            centers = (picture.boxes[:, :2] + picture.boxes[:, 2:]) / 2 / size
            sides = (picture.boxes[:, 2:] - picture.boxes[:, :2]) / size
            lines = [
                f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
                for label, (x, y), (w, h) in zip(picture.labels, centers, sides, strict=True)
            ]
            (folder / "labels" / split / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
            written.append(_Labelled(f"{name}.jpg", picture.boxes, picture.labels))
    return written


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise OSError(f"OpenCV cannot encode {path}")
    path.write_bytes(data.tobytes())


def _write_coco(path: Path, labelled: Sequence[_Labelled], settings: StreetSettings) -> None:
    images = [
        {"id": position + 1, "file_name": entry.name, "width": settings.width, "height": settings.height}
        for position, entry in enumerate(labelled)
    ]
    annotations: list[dict[str, object]] = []
    for position, entry in enumerate(labelled):
        for label, (x0, y0, x1, y1) in zip(entry.labels.tolist(), entry.boxes.tolist(), strict=True):
            width, height = x1 - x0, y1 - y0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": position + 1,
                    "category_id": label + 1,
                    "bbox": [round(x0, 3), round(y0, 3), round(width, 3), round(height, 3)],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": position + 1, "name": name} for position, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_yaml(path: Path, settings: StreetSettings) -> Path:
    lines = ["# Synthetic street; paths are relative to this file", "path: ."]
    lines += [f"{split}: images/{split}" for split, _ in settings.scenes]
    lines += ["names:", *(f"  {position}: {name}" for position, name in enumerate(NAMES))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
