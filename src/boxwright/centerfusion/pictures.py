"""Pictures of key frames of a split: what was annotated and what was predicted, in six cameras and from above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from boxwright.centerfusion.scene_sheet import CameraView, KeyFrame, SheetOptions
from boxwright.centerfusion.scene_video import KEY_FRAMES_A_SECOND, write_scene
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import GlobalBoxes


def write_key_frames(
    split: NuscenesSplit,
    predictions: GlobalBoxes,
    samples: Sequence[int],
    folder: Path,
    *,
    score_threshold: float = 0.3,
    fps: float = KEY_FRAMES_A_SECOND,
) -> list[Path]:
    """Write one PNG a key frame and one video a scene.

    Args:
        split: images, radar and annotations.
        predictions: of the split, global frame.
        samples: key frames by position in the split's list.
        folder: it is made where it is missing.
        score_threshold: lowest score that is drawn.
        fps: of the videos.

    Returns:
        the files.
    """
    by_scene: dict[str, list[int]] = {}
    for sample in samples:
        by_scene.setdefault(split.scene_of_sample(sample), []).append(sample)
    options = SheetOptions(score_threshold=score_threshold)
    written: list[Path] = []
    for scene, own in by_scene.items():
        written += write_scene(_frames(split, predictions, scene, own), folder, scene, fps, options)
    return written


def _frames(split: NuscenesSplit, predictions: GlobalBoxes, scene: str, samples: Sequence[int]) -> Iterator[KeyFrame]:
    truth = split.ground_truth()
    whole = split.samples_of_scene(scene)
    for sample in samples:
        views = [CameraView(split.record(at), split.radar(at)) for at in split.images_of_sample(sample)]
        yield KeyFrame(
            scene=scene,
            number=list(whole).index(sample) + 1,
            count=len(whole),
            cameras=views,
            global_from_ego=split.global_from_ego(sample),
            truth=truth.take(truth.samples == sample) if split.has_annotations else None,
            predictions=predictions.take(predictions.samples == sample),
        )
