"""Text is painted, cut, and kept inside the image; labels keep clear of each other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image as PillowImage
from PIL import ImageFont, features

from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import class_color
from boxwright.drawing.text import (
    FIRST_FONT,
    Label,
    class_name,
    draw_labels,
    draw_text,
    font_runs,
    fonts_by_letter,
    label_size,
    readable_names,
    text_mask,
)
from boxwright.reporting.plots import save_figure


def test_text_beyond_the_border_is_cut() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for left, top in ((-8, -6), (25, 15), (100, 100), (-500, 0)):
        draw_text(image, "Fußgänger", left, top, 12, (255, 255, 255))
    assert image.any()


def test_letters_are_painted_and_long_text_is_cut() -> None:
    assert text_mask("Ж", 12).max() > 0.9
    assert text_mask("", 12).max() == 0
    assert text_mask("o", 40)[27, 12] < 0.1  # the hole of the letter stays open
    assert text_mask("a" * 200, 10).shape[1] < 400


def test_a_long_name_keeps_its_score() -> None:
    cut, score = text_mask("a" * 200 + " 0.87", 12), text_mask("a0.87", 12)
    assert np.array_equal(cut[:, -20:-2], score[:, -20:-2])


def test_names_of_boxes_that_lie_on_each_other_do_not_overlap() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    boxes = np.array([[50.0, 60, 200, 150]] * 3)
    image = draw_boxes(image, boxes, ["........"] * 3, np.array([0, 1, 2]), line_thickness=2, text_size=11)
    height, width = label_size("........", 11)
    for label in (1, 2):  # their outlines lie under that of the first
        assert (image == class_color(label)).all(-1).sum() > height * width * 0.6


def test_a_crowded_label_is_left_out_on_request() -> None:
    labels = [Label("........", (20, 20, 90, 40), (0, 0, 200 + i)) for i in range(30)]
    painted: list[int] = []
    for drop_crowded in (False, True):
        image = np.zeros((60, 110, 3), np.uint8)
        draw_labels(image, labels, 11, drop_crowded=drop_crowded)
        height, width = label_size("........", 11)
        assert (image == labels[0].color).all(-1).sum() > height * width * 0.6, "the first one lies on top"
        painted.append(sum((image == label.color).all(-1).any() for label in labels))
    assert 1 < painted[1] <= 5


@pytest.fixture
def han_font(tmp_path: Path) -> Path:
    """Make a font whose only letter is 口, a full square."""
    pen = TTGlyphPen(None)
    for point in ((100, 0), (900, 0), (900, 800), (100, 800)):
        (pen.lineTo if point != (100, 0) else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "mouth"])
    builder.setupCharacterMap({ord("口"): "mouth"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "mouth": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "mouth": (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": "Boxwright Test Han", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "han.ttf")
    return tmp_path / "han.ttf"


@pytest.fixture
def system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Pretend that the system has these fonts only; the test fills the list before anything is written."""
    fonts: list[Path] = []
    caches = (fonts_by_letter, readable_names, text_mask)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(font) for font in fonts])
    for cache in caches:
        cache.cache_clear()
    yield fonts
    for cache in caches:
        cache.cache_clear()


def test_the_first_font_draws_as_the_whole_of_it() -> None:
    whole = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    for text in ("AVATo. 0.93 fi", "Ärger, łódź, Ωμέγα", "Жизнь ёлка…"):
        cut, full = (
            ImageFont.truetype(str(font), 14, layout_engine=ImageFont.Layout.BASIC) for font in (FIRST_FONT, whole)
        )
        assert bytes(cut.getmask(text)) == bytes(full.getmask(text))
        assert cut.getlength(text) == full.getlength(text)


def test_letters_of_other_scripts_without_matplotlib(
    system_fonts: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert readable_names(("car", "Ärger ж", "口")) == ("car", "Ärger ж", "class 2")
    assert font_runs("口") == [(FIRST_FONT, "口")]
    (line,) = caplog.messages
    assert line.startswith(
        "text in other letters than Latin, Greek and Cyrillic needs matplotlib, which is not installed"
    )


def test_letters_that_the_first_font_lacks_come_from_the_system(system_fonts: list[Path], han_font: Path) -> None:
    system_fonts.append(han_font)
    assert font_runs("A口 1") == [(FIRST_FONT, "A"), (han_font, "口 "), (FIRST_FONT, "1")]
    square = text_mask("口", 20)
    assert square[5:18, 4:17].min() > 0.9, "an empty box has a hole"
    assert text_mask("口0.87", 20).shape[1] == pytest.approx(square.shape[1] + text_mask("0.87", 20).shape[1], abs=2)


def test_names_that_no_font_has_are_numbers_and_said_once(
    system_fonts: list[Path], han_font: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system_fonts.append(han_font)
    names = ["口", "安全帽", "Fußgänger", "שלום"]
    with caplog.at_level(logging.WARNING, "boxwright"):
        assert [class_name(names, i) for i in (0, 1, 2, 3, 4)] == ["口", "class 1", "Fußgänger", "שלום", "4"]
    assert len(caplog.records) == 1
    assert "全 安 帽" in caplog.text
    assert "口" not in caplog.text


def test_latin_names_look_for_no_font(system_fonts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: pytest.fail("looked for fonts"))
    assert text_mask("Fußgänger автомобиль", 12).max() > 0.9
    assert readable_names(("é", "ж")) == ("é", "ж")


def test_letters_of_right_to_left_scripts_join(system_fonts: list[Path]) -> None:
    if not features.check("raqm"):
        pytest.skip("this Pillow was built without libraqm")
    apart = sum(text_mask(letter, 40).shape[1] for letter in "قناع")
    assert text_mask("قناع", 40).shape[1] < 0.95 * apart


def test_plots_write_names_in_fonts_of_the_system(
    system_fonts: list[Path], han_font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    dark: list[int] = []
    for fonts in ([], [han_font]):
        system_fonts[:] = fonts
        fonts_by_letter.cache_clear()
        figure = Figure(figsize=(2, 2))
        figure.text(0.2, 0.4, "口", fontsize=60)
        save_figure(figure, tmp_path / "a.png")
        image = PillowImage.open(tmp_path / "a.png").convert("L")
        dark.append(int((np.asarray(image) < 60).sum()))
    assert dark[1] > 1.5 * dark[0], "a full square in place of an empty box"
