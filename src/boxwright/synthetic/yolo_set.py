"""Write the pictures of the world's six cameras as a YOLO data set: JPEG images, labels and a data yaml.

Layout: images/<split>/, labels/<split>/, data.yaml. Splits share no scene. Each image is a pure function of (seed,
scene, camera), so that the files do not depend on the number of processes.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.yolo_txt import label_row
from boxwright.drawing.canvas import write_image
from boxwright.ops.arrays import Ints
from boxwright.synthetic.catalog import NAMES, make_rig
from boxwright.synthetic.render import View, render_view
from boxwright.synthetic.world import WorldSettings, make_scene

_JPEG_QUALITY = 92
_WORKER_SCENES = 5  # per task of a worker process


@dataclass(frozen=True, slots=True)
class YoloSetSettings:
    """What a YOLO data set of the world holds."""

    scenes: tuple[tuple[str, int], ...] = (("train", 230), ("val", 30))  # per split; each scene gives six images
    width: int = 320  # of the images, pixels
    height: int = 180  # of the images, pixels
    seed: int = 0  # of the world
    first_scene: int = 0  # splits take scene numbers one after another, from this one
    min_side: float = 14.0  # smallest width and height of a label box at 320 pixels of image width, pixels
    min_visible: float = 0.5  # smallest share of an object's area inside the image that nothing covers


def select_labels(view: View, kinds: Ints, settings: YoloSetSettings) -> Ints:
    """Return the rows of a view that are worth a label, far to near; `kinds` are those of all objects of the scene."""
    sides = (view.boxes[:, 2:] - view.boxes[:, :2]).min(1, initial=np.inf) * 320 / settings.width
    shown = view.free >= settings.min_visible * view.areas
    return np.flatnonzero((kinds[view.numbers] < len(NAMES)) & (sides >= settings.min_side) & shown)


def write_yolo_set(
    folder: Path,
    settings: YoloSetSettings,
    *,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the images and labels of all splits; return the data yaml.

    Args:
        folder: where to write; made if absent.
        settings: what to write.
        processes: worker processes; 1 renders in this one.
        on_progress: called with scenes done and scenes in all.
    """
    tasks: list[tuple[str, int]] = []
    for split, count in settings.scenes:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        first = settings.first_scene + len(tasks)
        tasks.extend((split, scene) for scene in range(first, first + count))
    write = partial(write_scene, folder, settings)
    # Not fork: the caller may have threads running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) if processes > 1 else nullcontext() as pool:
        written = pool.map(write, tasks, chunksize=_WORKER_SCENES) if pool else map(write, tasks)
        for done, _ in enumerate(written, 1):
            if on_progress:
                on_progress(done, len(tasks))
    lines = ["# Synthetic drives; paths are relative to this file", "path: ."]
    lines += [f"{split}: images/{split}" for split, _ in settings.scenes]
    lines += ["names:", *(f"  {position}: {name}" for position, name in enumerate(NAMES))]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "data.yaml"


def write_scene(folder: Path, settings: YoloSetSettings, task: tuple[str, int]) -> None:
    """Write the six images of a scene and their labels."""
    cv2.setNumThreads(1)  # images are small: more threads only wait for each other
    split, index = task
    world = WorldSettings(seed=settings.seed, width=settings.width, height=settings.height)
    scene = make_scene(world, index)
    size = np.array([settings.width, settings.height])
    for camera in make_rig(np.random.default_rng([settings.seed, index, 77]), *size.tolist()).cameras:
        view = render_view(scene, camera, world.duration / 2)
        rows = select_labels(view, scene.placement.kinds, settings)
        name = f"{camera.name}_{index:05d}"  # neighbours in the file list are other scenes
        write_image(folder / "images" / split / f"{name}.jpg", view.image[..., ::-1].copy(), _JPEG_QUALITY)
        corners = view.boxes[rows].reshape(-1, 2, 2) / size
        boxes = np.concatenate([corners.mean(1), corners[:, 1] - corners[:, 0]], 1)
        labels = scene.placement.kinds[view.numbers[rows]]
        lines = [label_row(label, box, ".6f") for label, box in zip(labels, boxes, strict=True)]
        (folder / "labels" / split / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
