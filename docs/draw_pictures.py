"""Draw the pictures of how.md, as docs/pictures/*.svg, by the code that they are about.

    python docs/draw_pictures.py [FOLDER]

Plain SVG, a few kB each; the same code gives the same files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from boxwright.centerfusion.frustum import FrustumObjects, FrustumOptions, paint
from boxwright.data.sampler import BatchPlan
from boxwright.data.structures import Targets
from boxwright.yolo.assignment import assign
from boxwright.yolo.geometry import PerspectiveDraw, perspective_matrix

HUES = ("#00796b", "#c77700", "#5c6bc0", "#ad1457")
GREY, LIGHT, INK = "#8a8f94", "#d7dbdf", "#22282e"


def text(x: float, y: float, words: object, size: int = 14, anchor: str = "start", color: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str = "none", stroke: str = "none") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}" stroke="{stroke}"/>'


def path(
    points: Iterable[Sequence[float]], color: str, fill: str = "none", *, closed: bool = False, dash: str = ""
) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    kind = "polygon" if closed else "polyline"
    return f'<{kind} points="{steps}" fill="{fill}" fill-opacity="0.25" stroke="{color}" stroke-width="2"{dashes}/>'


def dot(x: float, y: float, radius: float, color: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}"/>'


def picture(width: int, height: int, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif">'
    return "\n".join((begin, rect(0, 0, width, height, "#ffffff"), *parts, "</svg>\n"))


def warp() -> str:
    """Draw the tiles of a mosaic before and after the one warp, and a line resampled once and twice."""
    draw = PerspectiveDraw(angle=12, scale=0.75, shear=(4, 0), translate=(0.55, 0.48))
    matrix = perspective_matrix(draw, (200, 200), (100, 100))
    parts = [text(20, 28, "four images, once read"), text(280, 28, "one warp each, into the sample")]
    for i, (x, y) in enumerate(((0, 0), (100, 0), (0, 100), (100, 100))):
        corners = np.array([[x, y], [x + 98, y], [x + 98, y + 98], [x, y + 98]], float)
        parts.append(path(corners + np.array([20, 45]), HUES[i], HUES[i], closed=True))
        parts.append(text(x + 69, y + 99, "ABCD"[i], 18, "middle", HUES[i]))
        moved = np.c_[corners, np.ones(4)] @ matrix.T
        parts.append(path(moved[:, :2] / moved[:, 2:] * 1.2 + np.array([310, 85]), HUES[i], HUES[i], closed=True))
    parts += [
        rect(310, 85, 120, 120, stroke=INK),
        text(370, 280, "the sample: what lies outside is never computed", 12, "middle"),
    ]
    # A line two pixels wide that is made smaller and turned: by one matrix, and by one after the other.
    line = np.zeros((201, 201), np.float32)
    line[:, 100:102] = 1
    smaller, turned = cv2.getRotationMatrix2D((100, 100), 0, 0.8), cv2.getRotationMatrix2D((100, 100), 12, 1.1)
    once = cv2.warpAffine(line, (np.vstack((turned, (0, 0, 1))) @ np.vstack((smaller, (0, 0, 1))))[:2], (201, 201))
    twice = cv2.warpAffine(cv2.warpAffine(line, smaller, (201, 201)), turned, (201, 201))
    parts.append(text(550, 28, "a thin line, pixel by pixel"))
    for result, color in ((twice, HUES[1]), (once, HUES[0])):
        row = result[60, 86:98]
        parts.append(path([(550 + 18 * i, 200 - 140 * value) for i, value in enumerate(row)], color))
        parts += [dot(550 + 18 * i, 200 - 140 * value, 3, color) for i, value in enumerate(row)]
    parts += [text(550, 225, "resampled once", 13, color=HUES[0]), text(670, 225, "twice", 13, color=HUES[1])]
    return picture(780, 295, parts)


def resume() -> str:
    """Draw which images each step gets, by one process and two, and what a killed run does again."""
    parts = []
    for row, ranks in enumerate((1, 2)):
        y = 30 + 110 * row
        parts.append(text(20, y, "one process" if ranks == 1 else "two processes: the same batches, each a half"))
        for epoch in range(2):
            plans = [
                BatchPlan(np.arange(8), 4, seed=0, rank=rank, num_ranks=ranks).epoch(epoch) for rank in range(ranks)
            ]
            for step in range(2):
                x = 20 + 370 * epoch + 180 * step
                parts.append(text(x, y + 25, f"epoch {epoch + 1}, step {step + 1}", 12, color=GREY))
                images = [(int(image), rank) for rank, plan in enumerate(plans) for image in plan(step).images]
                for i, (image, rank) in enumerate(images):
                    parts.append(rect(x + 40 * i, y + 32, 36, 36, HUES[rank]))
                    parts.append(text(x + 40 * i + 18, y + 56, image, 16, "middle", "#ffffff"))
    y = 270
    parts.append(text(20, y, "a run that is killed in epoch 3 and resumed"))
    for i in range(4):
        parts.append(rect(20 + 150 * i, y + 14, 146, 24, HUES[0] if i < 2 else LIGHT))
        parts.append(
            text(
                93 + 150 * i + (40 if i == 2 else 0),
                y + 31,
                f"epoch {i + 1}",
                13,
                "middle",
                "#ffffff" if i < 2 else INK,
            )
        )
        parts.append(text(20 + 150 * (i + 1) - 2, y + 55, "saved", 11, "end", GREY))
    parts += [rect(320, y + 14, 80, 24, HUES[3]), text(360, y + 31, "killed", 13, "middle", "#ffffff")]
    parts.append(path([(400, y + 66), (322, y + 66)], HUES[2]))
    parts.append(path([(330, y + 61), (322, y + 66), (330, y + 71)], HUES[2]))
    parts.append(text(410, y + 70, "goes on from the last save: the same batches, draws and bits", 12))
    return picture(850, 355, parts)


def assignment() -> str:
    """Draw three labels of one image on the cells of a level, with all candidates."""
    boxes = torch.tensor(
        [[[0.30, 0.33, 0.2, 0.25], [0.68, 0.55, 0.3, 0.2], [0.53, 0.83, 0.12, 0.12], *[[0.0] * 4] * 3]]
    )
    valid = torch.arange(6)[None] < 3
    found = assign(Targets(boxes, torch.zeros(1, 6, dtype=torch.int64), valid), torch.tensor([[2.0, 2.0]]), (8, 8), 4.0)
    counted = [(int(y), int(x)) for y, x, n in zip(found.rows, found.columns, found.counts, strict=True) if n > 0]
    side, left, top = 28, 20, 45
    parts = [text(20, 28, "cells of one level")]
    parts += [rect(left + side * x, top + side * y, side, side, stroke=LIGHT) for y in range(8) for x in range(8)]
    parts += [rect(left + side * x + 1, top + side * y + 1, side - 2, side - 2, "#80cbc4") for y, x in counted]
    parts.append(text(290, 28, "labels, padded to six"))
    for i, (x, y, w, h) in enumerate(boxes[0].tolist()):
        if i < 3:
            parts.append(rect(left + 224 * (x - w / 2), top + 224 * (y - h / 2), 224 * w, 224 * h, stroke=HUES[i + 1]))
            parts.append(dot(left + 224 * x, top + 224 * y, 4, HUES[i + 1]))
        parts.append(rect(290, top + 36 * i, 150, 30, HUES[i + 1] if i < 3 else LIGHT))
        words = f"label {i + 1}" if i < 3 else "padding"
        parts.append(text(365, top + 36 * i + 20, words, 13, "middle", "#ffffff" if i < 3 else GREY))
    parts.append(text(480, 28, f"candidates: always {len(found.counts)}; counts is 0 or more"))
    for i, count in enumerate(found.counts.tolist()):
        x, y = 480 + 44 * (i % 6), top + 36 * (i // 6)
        parts.append(rect(x, y, 40, 30, "#00796b" if count else LIGHT))
        parts.append(text(x + 20, y + 20, f"{count:g}", 13, "middle", "#ffffff" if count else GREY))
    parts.append(text(480, 262, "green: the cells that count, at the left", 12, color=GREY))
    return picture(780, 285, parts)


def frustum() -> str:
    """Draw radar returns from above and the one that the association takes."""
    width, focal, depth, threshold = 64, 60.0, 32.0, 4.0
    box = (24.0, 4.0, 40.0, 12.0)
    returns = {(18, 30.0): 0, (26, 19.0): 0, (28, 30.5): 0, (36, 33.0): 0, (37, 44.0): 0, (46, 27.0): 0, (27, 35.2): 0}
    radar = torch.zeros(1, 3, 16, width)
    for column, metres in returns:
        radar[0, 0, 8, column] = metres
    objects = FrustumObjects(torch.tensor([[box]]), torch.tensor([[depth]]), torch.tensor([[threshold]]))
    options = FrustumOptions()
    painted = float(paint(objects, radar, options)[0, 0].max()) * options.max_depth

    def place(column: float, metres: float) -> tuple[float, float]:
        return 380 + 11 * metres * (column - width / 2) / focal, 430 - 7.4 * metres

    rays = [[place(edge, metres) for metres in (0, 50)] for edge in (box[0], box[2])]
    parts = [path([*rays[0], rays[1][1]], LIGHT, LIGHT, closed=True)]
    near, far = depth - threshold, depth + threshold
    parts.append(
        path([place(c, m) for c, m in ((24, near), (40, near), (40, far), (24, far))], HUES[2], HUES[2], closed=True)
    )
    parts += [path(ray, GREY, dash="6 5") for ray in rays]
    for column, metres in returns:
        x, y = place(column, metres)
        taken = abs(metres - painted) < 1e-3
        parts.append(dot(x, y, 8 if taken else 5, HUES[3] if taken else GREY))
        parts.append(
            text(x + 12, y + 5, f"{metres:g} m" + (": taken" if taken else ""), 13, color=HUES[3] if taken else GREY)
        )
    parts += [
        dot(380, 430, 7, INK),
        text(394, 436, "camera"),
        text(20, 30, "view from above; returns of a radar with their depths"),
    ]
    parts.append(text(510, 305, "grey: inside the 2-D box of the object", 13, color=GREY))
    parts.append(text(510, 327, f"blue: its depth, {depth:g} m, +- {threshold:g} m", 13, color=HUES[2]))
    parts.append(text(510, 349, "red: the nearest return that is in both", 13, color=HUES[3]))
    return picture(820, 455, parts)


def main(folder: Path) -> None:
    for draw in (warp, resume, assignment, frustum):
        (folder / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
