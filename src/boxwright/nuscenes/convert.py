"""Write a split in the COCO-style format of the published CenterFusion, for programs that read it.

The file is written record by record: radar points are decimal text there, gigabytes of it for the full data set.
Quirks are kept: annotations that another one hides are left out, but their ids and track ids stay used; unknown
velocities are NaN, which strict JSON does not know.

Source: published CenterFusion behaviour (its converter), of which this is no copy.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from boxwright.data.files import whole_file
from boxwright.engine.console import with_progress
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit, usual_splits
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES
from boxwright.ops.arrays import Array


def convert_nuscenes(
    source: str | Path, target: str | Path, version: str, *, sweeps: int = 3, allow_missing: bool = False
) -> Iterator[tuple[Path, int, int]]:
    """Write each split as `TARGET/annotations_{N}sweeps/SPLIT.json`, or `TARGET/annotations/SPLIT.json` for one sweep.

    A file that is there is written anew. The published converter writes 6 sweeps while its training reads 3; here one
    number names both folder and content.

    Args:
        source: nuScenes root.
        target: folder, which may be the root itself.
        version: folder of its tables.
        sweeps: radar sweeps to gather, at least 1.
        allow_missing: leave out images and radar sweeps whose files are not there.

    Yields:
        the file, its number of images and of annotations, split by split.

    Raises:
        UserError: the version cannot be read, files are missing, or the target cannot be written.
    """
    index = open_nuscenes(source, version, allow_missing=allow_missing)
    folder = Path(target).expanduser() / ("annotations" if sweeps == 1 else f"annotations_{sweeps}sweeps")
    for split in usual_splits(index.scenes, index.folder):
        file = folder / f"{split}.json"
        yield file, *write_published(NuscenesSplit(index, split, sweeps), file)


def write_published(split: NuscenesSplit, file: Path) -> tuple[int, int]:
    """Write the images, annotations and gathered radar points of a split.

    Args:
        split: what to write, with as many radar sweeps as it was opened with.
        file: a json file; written under another name and renamed.

    Returns:
        numbers of images and of annotations.

    Raises:
        UserError: the file cannot be written, or a radar sweep cannot be read.
    """
    rows = split.index.arrays["images"][split.image_rows]
    scenes = split.index.arrays["samples"]["scene"][rows["sample"]]
    videos = np.searchsorted(np.unique(split.index.arrays["samples"]["scene"][split.sample_rows]), scenes) + 1
    # The published converter sorts images by scene and camera, so that a video stands together.
    order = np.lexsort((rows["sensor"], videos))
    about = {
        "categories": [{"name": name, "id": number} for number, name in enumerate(CLASS_NAMES, 1)],
        "videos": [{"id": number, "file_name": name} for number, name in enumerate(split.scene_names, 1)],
        "attributes": {"": 0, **{name: number for number, name in enumerate(ATTRIBUTE_NAMES, 1)}},
        "pointclouds": [],
    }
    with whole_file(file, make_folder=True) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"images": ')
        images = _write_list(
            stream, (_image(split, int(at), int(videos[at])) for at in with_progress(order, f"writing {split.split}"))
        )
        stream.write(', "annotations": ')
        annotations = _write_list(stream, _annotations(split, videos))
        stream.write(", " + json.dumps(about)[1:])
    return images, annotations


def _write_list(stream: TextIO, records: Iterable[dict[str, Any]]) -> int:
    """Write a list record by record, and return its length."""
    count = 0
    for count, record in enumerate(records, 1):
        stream.write(("[" if count == 1 else ",\n") + json.dumps(record))
    stream.write("]" if count else "[]")
    return count


def _image(split: NuscenesSplit, position: int, video: int) -> dict[str, Any]:
    """Describe an image and its radar points."""
    arrays = split.index.arrays
    number = int(split.image_rows[position])
    row = arrays["images"][number]
    pose, calibration = arrays["poses"][row["pose"]], arrays["calibrations"][row["calibration"]]
    record = split.record(position)
    turn = np.eye(4)
    turn[:3, :3] = record.global_from_cam[:3, :3]
    scene = arrays["samples"]["scene"]
    return {
        "id": int(split.image_ids[position]),
        "file_name": split.index.file_name(row["row"]),
        "calib": record.calib.tolist(),
        "video_id": video,
        "frame_id": int(row["sample"] - np.searchsorted(scene, scene[row["sample"]])) + 1,
        "sensor_id": record.sensor,
        "sample_token": split.sample_tokens[record.sample],
        "trans_matrix": record.global_from_cam.tolist(),
        "velocity_trans_matrix": turn.tolist(),
        "width": record.width,
        "height": record.height,
        "pose_record_trans": pose["translation"].tolist(),
        "pose_record_rot": pose["rotation"].tolist(),
        "cs_record_trans": calibration["translation"].tolist(),
        "cs_record_rot": calibration["rotation"].tolist(),
        "camera_intrinsic": calibration["intrinsic"].tolist(),
        "radar_pc": split.radar(position).astype(np.float32).tolist(),
    }


def _annotations(split: NuscenesSplit, videos: Array) -> Iterable[dict[str, Any]]:
    """Describe what the images show, in the order of published visits."""
    arrays = split.index.arrays
    used, video = 0, 0
    tracks: dict[int, int] = {}
    for position in np.argsort(split.image_ids):
        if videos[position] != video:
            video, tracks = int(videos[position]), {}
        number = split.image_rows[position]
        seen = arrays["seen"][slice(*arrays["seen_offsets"][number : number + 2])]
        boxes = arrays["annotations"][seen["annotation"]]
        for shown, box in zip(seen, boxes, strict=True):
            used += 1
            # Track ids count from 1 within a scene, hidden annotations included.
            track = tracks.setdefault(int(box["instance"]), len(tracks) + 1)
            if shown["hidden"]:
                continue  # its ids stay used, as published
            width, length, height = box["size"].tolist()
            velocity = shown["velocity"].tolist()
            yield {
                "id": used,
                "image_id": int(split.image_ids[position]),
                "category_id": int(box["label"]) + 1,
                "dim": [height, width, length],
                "location": shown["location"].tolist(),
                "depth": float(shown["location"][2]),
                "occluded": 0,
                "truncated": 0,
                "rotation_y": float(shown["rotation_y"]),
                "amodel_center": shown["amodel_center"].tolist(),
                "iscrowd": 0,
                "track_id": track,
                "attributes": int(box["attribute"]) + 1,
                "velocity": box["velocity"].tolist(),
                "velocity_cam": [*velocity, 0.0 if np.isfinite(velocity).all() else float("nan")],
                "bbox": shown["box"].tolist(),
                "area": float(shown["box"][2] * shown["box"][3]),
                "alpha": float(shown["alpha"]),
            }
