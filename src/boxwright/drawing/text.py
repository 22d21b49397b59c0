"""Text by Pillow, and label boxes: text on a filled rectangle that keeps clear of other labels.

Fonts are chosen here only, for the plots of matplotlib too. The first one lies beside this file: DejaVu Sans
2.37 with its Latin, Greek and Cyrillic letters, cut out by `pyftsubset DejaVuSans.ttf --unicodes=U+0020-04FF,U+2026
--layout-features='' --legacy-kern --drop-tables+=FFTM --notdef-outline`. Other letters come from the whole of it, which
matplotlib ships, or from a font of the system, which matplotlib finds; nothing is fetched.
"""

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont, features

from boxwright.drawing.canvas import letter_color
from boxwright.extras import NotInstalledError, needed
from boxwright.ops.arrays import Color, Image

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom, half-open

FIRST_FONT = Path(__file__).with_name("DejaVuSans.ttf")
_log = logging.getLogger("boxwright.drawing")
_PLAIN_STYLES = {"regular", "book", "normal", "roman", "medium"}
_SPECIAL_FAMILIES = ("serif", "mono", "coding", "condensed", "math", "symbol", "emoji", "last resort", "unifont")
_MOST_NAMED_LETTERS = 12  # in the note about letters that no font has
_HEAD, _TAIL = 28, 11  # letters kept of a longer text: a name's beginning, and its score or the suffix of a file


@dataclass(frozen=True)
class Label:
    """A label that is wanted beside a box."""

    text: str  # one line; "" is not painted
    box: tuple[float, float, float, float]  # xyxy pixels of what it belongs to
    color: Color  # BGR behind the letters


@lru_cache(maxsize=1)
def fonts_by_letter() -> Mapping[int, Path]:
    """Map the code of every letter that some font has to the font that it is written in.

    That is DejaVu Sans, else a font of the system that can be scaled: upright before slanted, plain before bold, and of
    those the one with the most letters, so that the letters of a name come from one font. Empty without matplotlib.
    """
    try:
        with needed("text in other letters than Latin, Greek and Cyrillic", "plots"):
            from matplotlib import get_data_path
            from matplotlib.font_manager import findSystemFonts  # slow to import, and only needed for few texts
            from matplotlib.ft2font import FT2Font
    except NotInstalledError as error:
        _log.warning("%s; pictures show the number of a class in place of such a name", error)
        return {}

    fonts: list[tuple[tuple[bool, bool, int, str], Path, Iterable[int]]] = []
    for path in map(Path, findSystemFonts()):
        with suppress(RuntimeError, OSError):  # not a font, or damaged
            font = FT2Font(str(path))
            letters = font.get_charmap().keys()
            is_styled = font.style_name.lower() not in _PLAIN_STYLES
            is_special = any(word in font.family_name.lower() for word in _SPECIAL_FAMILIES)
            if font.scalable:  # others hold pictures of one size, such as colored emoji
                fonts.append(((is_styled, is_special, -len(letters), str(path)), path, letters))
    whole = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    found = dict.fromkeys(FT2Font(str(whole)).get_charmap(), whole)
    found |= dict.fromkeys(FT2Font(str(FIRST_FONT)).get_charmap(), FIRST_FONT)
    for _, path, letters in sorted(fonts, key=itemgetter(0)):
        for letter in letters:
            found.setdefault(letter, path)
    return found


def font_runs(text: str) -> list[tuple[Path, str]]:
    """Split a line of text into runs of one font each; a letter that no font has is in the first font: an empty box."""
    runs: list[tuple[Path, str]] = []
    if _is_plain(text):  # no fonts are looked for
        return [(FIRST_FONT, text)]
    fonts = fonts_by_letter()
    for letter in text:
        font = fonts.get(ord(letter), FIRST_FONT)
        if runs and (font == runs[-1][0] or not _needs_glyph(letter)):  # an accent stays with its letter
            runs[-1] = (runs[-1][0], runs[-1][1] + letter)
        else:
            runs.append((font, letter))
    return runs


def _is_plain(text: str) -> bool:
    """Whether DejaVu Sans surely has all letters of a text, in Latin, Greek or Cyrillic."""
    return max(text.replace("…", ""), default="") < "\u0500"


def _needs_glyph(letter: str) -> bool:
    """Whether a letter is more than an accent, a joiner or a space."""
    return unicodedata.category(letter) not in {"Mn", "Mc", "Me", "Cf", "Zs"}


@lru_cache(maxsize=16)
def readable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names as pictures can show them: one whose letters no font has is replaced by its number."""
    unsure = {letter for letter in "".join(names) if not _is_plain(letter) and _needs_glyph(letter)}
    missing = {letter for letter in unsure if ord(letter) not in fonts_by_letter()}
    if missing and fonts_by_letter():
        some = " ".join(sorted(missing)[:_MOST_NAMED_LETTERS]) + (" ..." if len(missing) > _MOST_NAMED_LETTERS else "")
        _log.warning(
            "no font of this system has the letters %s: pictures show the number of a class in place of its name; "
            "install a font that has them (on Debian and Ubuntu: fonts-noto-cjk for Chinese, Japanese and Korean, "
            "fonts-noto for most other scripts)",
            some,
        )
    return tuple(f"class {i}" if missing & set(name) else name for i, name in enumerate(names))


@lru_cache(maxsize=64)
def _open_font(path: Path, size: int, *, shaped: bool) -> ImageFont.FreeTypeFont:
    """Open a font; its size is that of an em, in pixels: a capital letter is .73 as high."""
    # The basic layout gives the same pixels whether or not Pillow was built with libraqm, which scripts need whose
    # letters join or are written from right to left.
    layout = ImageFont.Layout.RAQM if shaped and features.check("raqm") else ImageFont.Layout.BASIC
    return ImageFont.truetype(str(path), size, layout_engine=layout)


def letter_size(unit: float) -> int:
    """Return the text size for an image `unit` times as large as the reference, 18 pixels, but always readable."""
    return max(10, round(18 * unit))


# The same class names are written in each image: a cached mask costs 0.4 us, drawing it 290 us (timeit, 8 letters).
@lru_cache(maxsize=2048)
def text_mask(text: str, size: int) -> NDArray[np.float32]:
    """Draw one line of text as its coverage, (height, width) in 0..1; the height depends on the size only.

    Text of more than 40 characters is cut in the middle with an ellipsis; line breaks and tabs become spaces.
    """
    line = " ".join(text.split())
    if len(line) > _HEAD + 1 + _TAIL:
        line = f"{line[:_HEAD]}…{line[-_TAIL:]}"
    ascent, descent = round(size * 0.95), round(size * 0.28)
    runs = [(_open_font(path, size, shaped=not _is_plain(line)), run) for path, run in font_runs(line)]
    starts = np.cumsum([0.0, *(font.getlength(run) for font, run in runs)])
    canvas = PillowImage.new("L", (max(1, int(np.ceil(starts[-1])) + 1), ascent + descent))
    # Anchored left on the baseline: letters of all texts of a size stand at one height, whatever their accents.
    for start, (font, run) in zip(starts.tolist(), runs, strict=False):
        ImageDraw.Draw(canvas).text((start, ascent), run, fill=255, font=font, anchor="ls")
    return np.asarray(canvas, np.float32) / np.float32(255)


def draw_text(canvas: Image, text: str, left: int, top: int, size: int, color: Color) -> int:
    """Paint one line of text, its upper left corner at (left, top), clipped to the image; return its width."""
    mask = text_mask(text, size)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], canvas.shape[1]), min(top + mask.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        alpha = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
        patch = canvas[y0:y1, x0:x1]
        patch[:] = np.rint(patch * (1 - alpha) + np.asarray(color, np.float32) * alpha)
    return mask.shape[1]


def text_width(text: str, size: int) -> int:
    """Return the width of a line of text, pixels."""
    return text_mask(text, size).shape[1]


def line_height(size: int) -> int:
    """Return the height of a line of text, pixels."""
    return round(size * 0.95) + round(size * 0.28)


def label_size(text: str, size: int) -> tuple[int, int]:
    """Return height and width of the rectangle behind a text."""
    return line_height(size) + 2, text_width(text, size) + 5


def draw_label(canvas: Image, text: str, left: int, top: int, size: int, background: Color) -> None:
    """Paint text on a filled rectangle that is moved to lie inside the image."""
    height, width = label_size(text, size)
    left, top = max(0, min(left, canvas.shape[1] - width)), max(0, min(top, canvas.shape[0] - height))
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), background, cv2.FILLED)
    draw_text(canvas, text, left + 3, top + 1, size, letter_color(background))


def draw_labels(canvas: Image, labels: Sequence[Label], size: int, *, drop_crowded: bool = False) -> None:
    """Paint labels beside their boxes, the most important first: it is placed first and lies on top.

    A label stands above its box, or below or inside it where that keeps it clear of those before it.

    Args:
        canvas: painted into.
        labels: in order of importance.
        size: of the text.
        drop_crowded: leave out a label that finds no free place; else it covers others.
    """
    limit = 1 << 30  # pixels: a box of a wrong detection may lie anywhere
    placed: list[tuple[Label, Rectangle]] = []

    def is_taken(a: Rectangle) -> bool:
        # A plain loop ends at the first label in the way: 300 boxes take 10 to 27 ms, as one comparison of numpy with
        # all labels before it 44 to 60 ms (timeit, images of 640 and 1280 px).
        return any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for _, b in placed)

    for label in labels:
        if not label.text:
            continue
        height, width = label_size(label.text, size)
        x0, y0, x1, y1 = (round(min(max(side, -limit), limit)) for side in label.box)
        # Above the box, below it, inside at its top, above at its right end, in a second row above. All are moved into
        # the image: at the upper border the first one comes to lie inside the box.
        corners = [
            (x0 - 1, y0 - height),
            (x0 - 1, y1),
            (x0 - 1, y0),
            (x1 - width, y0 - height),
            (x0 - 1, y0 - 2 * height),
        ]
        room_x, room_y = max(canvas.shape[1] - width, 0), max(canvas.shape[0] - height, 0)
        corners = [(min(max(x, 0), room_x), min(max(y, 0), room_y)) for x, y in corners]
        candidates = [(left, top, left + width, top + height) for left, top in corners]
        free = next((place for place in candidates if not is_taken(place)), None)
        if free or not drop_crowded:
            placed.append((label, free or candidates[0]))
    for label, (left, top, _, _) in reversed(placed):
        draw_label(canvas, label.text, left, top, size, label.color)


def class_name(names: Sequence[str], label: int) -> str:
    """Return the name of a class as pictures can show it, or its number where it has none."""
    return readable_names(tuple(names))[label] if 0 <= label < len(names) else str(label)
