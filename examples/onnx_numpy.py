"""An exported detector without Boxwright and without PyTorch: ONNX Runtime and numpy; Pillow only opens the image.

    boxwright export --weights best.pt
    python examples/onnx_numpy.py best.onnx photo.jpg

Prints one line a detection: name, score, x1 y1 x2 y2 in pixels of the photo.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[np.float32]
GREY = 114  # of the border


def resize(image: Array, height: int, width: int) -> Array:
    """Resize bilinearly, pixel centres at half coordinates; halves go up as in OpenCV, else scores move by .01."""

    def places(size: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    y0, y1, fy = places(image.shape[0], height)
    x0, x1, fx = places(image.shape[1], width)
    rows = image[y0] * (1 - fy)[:, None, None] + image[y1] * fy[:, None, None]
    return np.floor(rows[:, x0] * (1 - fx)[:, None] + rows[:, x1] * fx[:, None] + 0.5)


def letterbox(image: Array, size: Sequence[int], stride: int) -> tuple[Array, float, float, float]:
    """Fit an image into height and width, then cut the border to a multiple of the stride.

    Returns:
        (1, 3, H, W) in 0..1, and scale, left and top: x_network = x_photo * scale + left.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[-1] / width)
    new_height, new_width = round(height * scale), round(width * scale)
    border_y, border_x = (size[0] - new_height) % stride / 2, (size[-1] - new_width) % stride / 2
    out = np.full((round(new_height + 2 * border_y), round(new_width + 2 * border_x), 3), GREY, np.float32)
    top, left = round(border_y - 0.1), round(border_x - 0.1)
    out[top : top + new_height, left : left + new_width] = resize(image, new_height, new_width)
    return np.ascontiguousarray(out.transpose(2, 0, 1)[None] / np.float32(255)), scale, border_x, border_y


def nms(boxes: Array, scores: Array, labels: NDArray[np.int64], iou_threshold: float) -> NDArray[np.int64]:
    """Return the indices of boxes that stay, best first; boxes of different classes do not suppress each other."""
    shifted = boxes + labels[:, None] * (boxes.max(initial=0) + 1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        corner_low = np.maximum(shifted[best, :2], shifted[rest, :2])
        corner_high = np.minimum(shifted[best, 2:], shifted[rest, 2:])
        overlap = np.prod(np.clip(corner_high - corner_low, 0, None), axis=1)
        order = rest[overlap / (area[best] + area[rest] - overlap + 1e-9) <= iou_threshold]
    return np.array(kept, np.int64)


def detect(
    session: onnxruntime.InferenceSession,
    image: Array,
    size: Sequence[int],
    score_threshold: float,
    iou_threshold: float,
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Boxes (N, 4) xyxy in pixels of the photo, scores (N,) and class numbers (N,), best first."""
    info = json.loads(session.get_modelmeta().custom_metadata_map["boxwright"])
    if info["output"] != "rows" or info["input_size"] is not None:
        raise SystemExit("this example is for files exported without --nms and without --static")
    stride = max(32, *info["strides"])
    sides = [-(-side // stride) * stride for side in size or info["imgsz"] or (640,)]  # as trained, unless asked
    images, scale, left, top = letterbox(image, sides, stride)
    rows = session.run(None, {"images": images})[0][0]  # (R, 5 + classes): cxcywh, objectness, class scores
    rows = rows[rows[:, 4] > score_threshold]
    class_scores = rows[:, 5:] * rows[:, 4:5]
    labels = class_scores.argmax(axis=1)
    scores = class_scores.max(axis=1, initial=0)
    seen = scores > score_threshold
    rows, scores, labels = rows[seen], scores[seen], labels[seen]
    boxes = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), axis=1)
    kept = nms(boxes, scores, labels, iou_threshold)
    boxes = (boxes[kept] - (left, top, left, top)) / scale
    height, width = image.shape[:2]
    return np.clip(boxes, 0, (width, height, width, height)).astype(np.float32), scores[kept], labels[kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("--imgsz", type=int, nargs="+", default=(), help="one side, or height and width")
    parser.add_argument("--conf-thres", type=float, default=0.25)
    parser.add_argument("--iou-thres", type=float, default=0.45)
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["boxwright"])["names"]
    image = np.asarray(ImageOps.exif_transpose(Image.open(options.photo)).convert("RGB"), np.float32)
    found = detect(session, image, options.imgsz, options.conf_thres, options.iou_thres)
    for box, score, label in zip(*found, strict=True):
        print(names[label], f"{score:.4f}", *(f"{side:.1f}" for side in box))
    if not len(found[0]):
        sys.exit(f"nothing scored {options.conf_thres:g}")


if __name__ == "__main__":
    main()
