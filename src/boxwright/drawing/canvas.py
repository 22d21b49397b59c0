"""Colors, lines, arrows, dots and filled faces with OpenCV at fractions of a pixel; image and video files.

Every function paints into a (H, W, 3) uint8 BGR image. Points may lie anywhere: what is outside is cut off first, since
OpenCV's coordinates are short integers.
"""

import colorsys
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.files import Hidden, file_errors, write_atomically
from boxwright.errors import UserError
from boxwright.ops.arrays import Array, Bools, Color, Floats, Image, Ints

DARK: Color = (24, 24, 24)
LIGHT: Color = (255, 255, 255)
TAG: Color = (40, 40, 40)  # background of captions that belong to no class
FAR_COLOR = 60.0  # metres: from here on radar points have the color of the far end
# BGR by class of nuScenes: readable on a street and on a dark ground, none like the white of annotations.
SOLID_COLORS: tuple[Color, ...] = (
    (255, 160, 64),
    (66, 140, 255),
    (110, 80, 255),
    (255, 125, 200),
    (165, 195, 20),
    (110, 235, 90),
    (220, 100, 255),
    (255, 240, 120),
    (60, 225, 255),
    (105, 150, 200),
)
_TURBO: Image = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_TURBO)[0], np.uint8)
_SHIFT = 4  # bits of a pixel that OpenCV's coordinates have after the point
_SCALE = 1 << _SHIFT
_ROUND = np.stack((np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)), 1)


@lru_cache(maxsize=1024)
def class_color(label: int) -> Color:
    """Return the BGR color of a class, the same in every picture."""
    saturation, value = ((0.82, 1.0), (0.6, 0.95), (1.0, 0.72))[label % 3]
    # Successive multiples of the golden ratio spread hues evenly, however many classes there are.
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * 0.618034) % 1.0, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def solid_color(label: int) -> Color:
    """Return the BGR color of a class in 3-D pictures."""
    return SOLID_COLORS[label] if 0 <= label < len(SOLID_COLORS) else class_color(label)


def letter_color(background: Color) -> Color:
    """Select dark or light letters, whichever can be read on a BGR background."""
    blue, green, red = background
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else LIGHT  # luma of ITU-R BT.601


def depth_colors(depths: Array) -> Image:
    """Map depths in metres to BGR colors (..., 3), from warm (near) to cold (far)."""
    # The ends of the table itself, 0 and 255, are too dark to be seen.
    near, far = 228, 20
    shares = np.clip(np.nan_to_num(depths) / FAR_COLOR, 0, 1)
    return _TURBO[np.rint(near + (far - near) * shares).astype(np.int64)]


def draw_lines(canvas: Image, lines: Floats, color: Color, width: int) -> None:
    """Paint lines (E, 2, 2), pixels."""
    rim = 2.0 * width  # half a line's width and its soft edge still show inside when its middle is outside
    ends, inside = clip_to_rectangle(lines, (-rim, -rim, canvas.shape[1] + rim, canvas.shape[0] + rim))
    if inside.any():
        cv2.polylines(canvas, list(_fixed(ends[inside])), False, color, width, cv2.LINE_AA, _SHIFT)


def draw_arrow(canvas: Image, ends: Floats, color: Color, width: int) -> None:
    """Paint an arrow from the first of two points (2, 2), pixels, to the second; very short ones are left out."""
    length = float(np.hypot(*(ends[1] - ends[0])))
    if not 2 * width <= length < np.inf:
        return
    along = (ends[1] - ends[0]) / length
    across = np.array((-along[1], along[0]))
    head = min(0.5 * length, 3.0 + 2.5 * width)
    barbs = [ends[1] - along * head + side * across * head * 0.6 for side in (1, -1)]
    draw_lines(canvas, np.stack([ends, *(np.stack((ends[1], barb)) for barb in barbs)]), color, width)


def draw_dot(canvas: Image, center: Floats, radius: float, color: Color) -> None:
    """Paint a disc; the radius may be a fraction."""
    # A polygon of 16 corners: OpenCV's own small circles look like diamonds.
    cv2.fillConvexPoly(canvas, _fixed(center + radius * _ROUND), color, cv2.LINE_AA, _SHIFT)


def draw_ring(canvas: Image, center: Floats, radius: float, color: Color) -> None:
    """Paint a thin circle."""
    x, y = _fixed(center)
    cv2.circle(canvas, (int(x), int(y)), round(radius * _SCALE), color, 1, cv2.LINE_AA, _SHIFT)


def fill_face(canvas: Image, polygon: Floats, color: Color, share: float = 1.0) -> None:
    """Blend a convex polygon (P, 2), pixels, into the image with this share of its color."""
    size = (canvas.shape[1], canvas.shape[0])
    # Only the rectangle around the polygon is copied and blended, not the whole image once per box.
    left, top = np.clip(np.floor(polygon.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(polygon.max(0)) + 1, 0, size).astype(int)
    patch = canvas[top:bottom, left:right]
    if patch.size:
        filled = patch.copy()
        cv2.fillConvexPoly(filled, _fixed(polygon - (left, top)), color, cv2.LINE_AA, _SHIFT)
        patch[:] = cv2.addWeighted(filled, share, patch, 1 - share, 0)


def clip_to_rectangle(lines: Floats, rectangle: tuple[float, float, float, float]) -> tuple[Floats, Bools]:
    """Cut lines (E, 2, 2) at a rectangle (xyxy): their ends, and (E,) whether anything is left.

    Source: Liang and Barsky, A New Concept and Method for Line Clipping, 1984.
    """
    start, step = lines[:, 0], lines[:, 1] - lines[:, 0]
    low, high = np.array(rectangle[:2]), np.array(rectangle[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.stack(((low - start) / step, (high - start) / step))
    # A line along an axis never enters on that axis: it is inside all the way or not at all.
    within = (start >= low) & (start <= high)
    flat = step == 0
    enter = np.where(flat, np.where(within, -np.inf, np.inf), at.min(0))
    leave = np.where(flat, np.where(within, np.inf, -np.inf), at.max(0))
    first, last = np.maximum(enter.max(1), 0.0), np.minimum(leave.min(1), 1.0)
    inside = first <= last
    shares = np.where(inside[:, None], np.stack((first, last), 1), 0.0)
    return start[:, None] + shares[..., None] * step[:, None], inside


def points_inside(points: Floats, image_hw: tuple[int, int]) -> Ints:
    """Return the indices of points (N, 2) that lie in an image; a point that is not finite does not."""
    return np.flatnonzero(((points >= 0) & (points < image_hw[::-1])).all(-1))


def _fixed(points: Array) -> np.ndarray:
    """Convert pixels to OpenCV's fixed-point form."""
    limit = np.iinfo(np.int32).max // 4  # OpenCV adds and shifts these numbers: leave room, or they overflow
    return np.clip(np.rint(points * _SCALE), -limit, limit).astype(np.int32)


def fit(image: Image, size: tuple[int, int]) -> Image:
    """Scale an image to the largest size that fits into a height and width, its shape kept."""
    height, width = image.shape[:2]
    zoom = min(size[0] / height, size[1] / width)
    shown = max(1, round(width * zoom)), max(1, round(height * zoom))
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, shown, interpolation=method), np.uint8)


def write_image(path: Path, image: Image, quality: int = 95) -> None:
    """Write an image; the suffix picks the format, `quality` is that of JPEG.

    Raises:
        UserError: the format is unknown, or the file cannot be written.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    # Encoded in memory, since cv2.imwrite cannot open every file name that is not ASCII.
    encoded, data = cv2.imencode(path.suffix, image, options)
    if not encoded:
        raise UserError(f"cannot encode {path}")
    write_atomically(path, data.tobytes())


class VideoFile:
    """An mp4 file of frames of one size, which has its name only when it is complete.

    Args:
        path: of the complete file.
        fps: frames per second.
        advice: ends the message of an error.
    """

    def __init__(self, path: Path, fps: float, advice: str = "") -> None:
        self.path = path
        self.fps = fps
        self.size: tuple[int, int] | None = None  # height and width of the frames; None: none so far
        self._advice = advice
        self._hidden: Hidden | None = None
        self._writer: cv2.VideoWriter | None = None
        self._num_frames = 0

    def add(self, image: Image) -> None:
        """Append a frame; the first one sets the size.

        Raises:
            UserError: the file cannot be written.
        """
        height, width = image.shape[:2]
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            with file_errors("write", self.path, self._advice):
                self._hidden = Hidden(self.path, suffix=self.path.suffix)  # OpenCV needs it
            self._writer = cv2.VideoWriter(str(self._hidden.path), code, self.fps, (width, height))
            if not self._writer.isOpened():
                self.drop()
                raise UserError(f"cannot write the video {self.path}{self._advice}")
            self.size = (height, width)
        # OpenCV drops a frame of another size without a word.
        assert self.size == (height, width), "all frames of a video have one size"
        self._writer.write(image)
        self._num_frames += 1

    def finish(self) -> Path:
        """Close the file and give it its name.

        Raises:
            UserError: the file cannot be written.
        """
        assert self._writer is not None
        assert self._hidden is not None
        self._writer.release()
        try:
            # OpenCV says nothing where a frame, or the index at the end, could not be written.
            if _count_frames(self._hidden.path) < self._num_frames:
                raise UserError(
                    f"cannot write the video {self.path}: frames of it are missing; is the disk full?{self._advice}"
                )
            with file_errors("write", self.path, self._advice):
                self._hidden.become(self.path)
        finally:
            self._hidden.drop()
        return self.path

    def drop(self) -> None:
        """Close and delete the file."""
        if self._writer is not None:
            self._writer.release()
        if self._hidden is not None:
            self._hidden.drop()


def _count_frames(video: Path) -> int:
    """Return how many frames a video file says it has; 0 where it cannot be read."""
    capture = cv2.VideoCapture(str(video))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()
