"""Track objects in a video: Boxwright finds them, ByteTrack follows them, supervision draws them.

    pip install matplotlib requests tqdm defusedxml pydeprecate
    pip install --no-deps -r examples/tracking.txt
    python examples/track_video.py best.pt drive.mp4

Writes drive_tracks.csv, a row for each object in each frame (frame, track, name, score, x1 y1 x2 y2 in pixels), and
drive_tracks.mp4 with the tracks drawn. A track begins with its second frame; frames and tracks count from 1 and 0.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import supervision as sv
from trackers import ByteTrackTracker

import boxwright as bw
from boxwright.errors import UserError


def track(detector: Callable[..., Iterable[Any]], video: Path, folder: Path, **settings: Any) -> int:
    """Track what a detector finds, a frame at a time however long the video is; return the number of tracks.

    Args:
        detector: of `bw.load`.
        video: a video file.
        folder: where the csv file and the video go.
        settings: of the detector.
    """
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise UserError(f"{video} cannot be opened as a video")
    rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
    capture.release()
    tracker = ByteTrackTracker(frame_rate=rate, track_activation_threshold=0.5, high_conf_det_threshold=0.4)
    kinds = sv.BoxAnnotator, sv.LabelAnnotator, sv.TraceAnnotator
    boxes, labels, trails = (kind(color_lookup=sv.ColorLookup.TRACK) for kind in kinds)
    writer: cv2.VideoWriter | None = None
    seen: set[int] = set()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{video.stem}_tracks.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["frame", "track", "name", "score", "x1", "y1", "x2", "y2"])
        for result in detector(str(video), stream=True, **settings):
            found = tracker.update(result.to_supervision())
            found = found[found.tracker_id >= 0]  # -1: not sure yet
            names = found.data.get("class_name", [])
            for number, name, score, box in zip(found.tracker_id, names, found.confidence, found.xyxy, strict=True):
                rows.writerow([result.number, number, name, f"{score:.3f}", *(f"{side:.1f}" for side in box)])
                seen.add(int(number))
            picture = result.image[..., ::-1].copy()  # BGR
            for annotator in (boxes, trails):
                picture = annotator.annotate(picture, found)
            texts = [f"{number} {name}" for number, name in zip(found.tracker_id, names, strict=True)]
            picture = labels.annotate(picture, found, texts)
            if writer is None:
                size = picture.shape[1], picture.shape[0]
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(folder / f"{video.stem}_tracks.mp4"), code, rate, size)
            writer.write(picture)
    if writer is not None:
        writer.release()
    return len(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("video", type=Path)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--conf-thres", type=float, default=0.1, help="ByteTrack makes use of faint boxes, too")
    options = parser.parse_args()
    if not options.video.is_file():
        parser.error(f"there is no video at {options.video}")
    try:
        number = track(bw.load(options.weights), options.video, options.folder, conf_thres=options.conf_thres)
    except (UserError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{number} tracks in {options.folder / options.video.stem}_tracks.csv")


if __name__ == "__main__":
    main()
