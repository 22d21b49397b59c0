"""Picture files of CenterFusion: batch sheets, and key frames of a split as PNGs and one video per scene."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from boxwright.centerfusion.augment import MEAN, STD
from boxwright.centerfusion.scene_sheet import CameraView, KeyFrame, SheetOptions, draw_sheet
from boxwright.centerfusion.structures import Batch3d
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import FAR_COLOR, TAG, VideoFile, fit, write_image
from boxwright.drawing.sheets import JPEG_QUALITY, tile
from boxwright.drawing.text import draw_label
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes
from boxwright.ops.arrays import Image

KEY_FRAMES_PER_SECOND = 2.0  # as nuScenes annotates
_CELL_SIDE = 640


def plot_fusion_batch(batch: Batch3d, path: Path, *, max_images: int = 8) -> None:
    """Write a contact sheet: each image with the boxes of its targets, over the radar pillars colored by depth."""
    cells: list[Image] = []
    for row in range(min(len(batch), max_images)):
        pixels = batch.images[row].cpu().permute(1, 2, 0).numpy() * STD + MEAN  # the network takes BGR
        image = (pixels * 255).clip(0, 255).astype(np.uint8)
        height, width = image.shape[:2]
        # The radar map is on the output grid, a quarter of the image: each cell becomes a square.
        depth = cv2.resize(batch.radar[row, 0].cpu().numpy(), (width, height), interpolation=cv2.INTER_NEAREST)
        shades = (255 * (1 - np.minimum(depth / FAR_COLOR, 1))).astype(np.uint8)
        pillars = cv2.applyColorMap(shades, cv2.COLORMAP_TURBO)  # near ones red, far ones blue
        cell = fit(np.where(depth[..., None] > 0, pillars, image).astype(np.uint8), (_CELL_SIDE, _CELL_SIDE))
        targets = batch.targets
        valid = targets.valid[row].cpu()
        zoom = height / batch.radar.shape[2] * _CELL_SIDE / max(height, width)
        labels = targets.label[row].cpu()[valid].numpy()
        names = [CLASS_NAMES[label] for label in labels]
        boxes = targets.boxes[row].cpu()[valid].numpy() * zoom
        cell = draw_boxes(cell, boxes, names, labels, line_thickness=2, text_size=11)
        draw_label(cell, batch.paths[row].name, 0, cell.shape[0], 11, TAG)
        cells.append(cell)
    write_image(path, tile(cells, 2), JPEG_QUALITY)


def write_key_frames(
    split: NuscenesSplit,
    predictions: GlobalBoxes,
    samples: Sequence[int],
    folder: Path,
    *,
    score_threshold: float = 0.3,
    fps: float = KEY_FRAMES_PER_SECOND,
) -> list[Path]:
    """Write one PNG per key frame and one video per scene.

    Args:
        predictions: of the split, global frame.
        samples: key frames by position in the split's list.
        folder: created if missing.

    Returns:
        the files.
    """
    by_scene: dict[str, list[int]] = {}
    for sample in samples:
        by_scene.setdefault(split.scene_of_sample(sample), []).append(sample)
    truth = split.ground_truth()

    def key_frames(scene: str) -> Iterator[KeyFrame]:
        whole = list(split.samples_of_scene(scene))
        for sample in by_scene[scene]:
            yield KeyFrame(
                scene=scene,
                number=whole.index(sample) + 1,
                count=len(whole),
                cameras=[CameraView(split.record(i), split.radar(i)) for i in split.images_of_sample(sample)],
                global_from_ego=split.global_from_ego(sample),
                truth=truth.take(truth.samples == sample) if split.has_annotations else None,
                predictions=predictions.take(predictions.samples == sample),
            )

    options = SheetOptions(score_threshold=score_threshold)
    return [path for scene in by_scene for path in write_scene(key_frames(scene), folder, scene, fps, options)]


def write_scene(
    frames: Iterable[KeyFrame],
    folder: Path,
    name: str,
    fps: float = KEY_FRAMES_PER_SECOND,
    options: SheetOptions | None = None,
) -> list[Path]:
    """Write the sheets of a scene as folder/name/0001.png, ... and folder/name.mp4, each whole or not at all.

    Args:
        frames: key frames in order; each is painted and written before the next one is asked for.
        folder: created if missing.
        name: of the scene; letters that a file name cannot have become underscores.
        fps: pictures per second of the video.
        options: how sheets look.

    Returns:
        the files; none where there is no key frame.

    Raises:
        UserError: an image cannot be read, or a file cannot be written. Sheets written so far remain.
    """
    # The name comes from a table and must not lead out of the folder.
    stem = re.sub(r"[^\w .-]", "_", name).strip(". ") or "_"
    video = VideoFile(folder / f"{stem}.mp4", fps)
    written: list[Path] = []
    try:
        for frame in frames:
            sheet = draw_sheet(frame, options or SheetOptions())
            path = folder / stem / f"{frame.number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, sheet)
            written.append(path)
            video.add(sheet)
    except BaseException:  # an interrupted run leaves no video that cannot be played
        video.drop()
        raise
    return [*written, video.finish()] if written else []
