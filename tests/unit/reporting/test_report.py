"""report.html shows what the folder holds, escapes what it is told, and needs no network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from boxwright.reporting.report import RunLayout, write_report
from boxwright.yolo.val_output import LAYOUT, metric_tables

METRICS = {
    "images": 7,
    "labels": 9,
    "yolov5": {"precision": 0.5, "recall": 0.6, "mAP_0.5": 0.7125, "mAP_0.5:0.95": 0.4},
    "coco": {"AP": 0.41, "APs": None},
    "classes": [
        {"name": "<img src=x>", "images": 1, "labels": 2, "precision": 1.0, "recall": 1.0, "mAP_0.5": 0.25}
        | {"mAP_0.5:0.95": 0.1, "coco_AP": None}
    ],
}


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in {"src", "href"} and value]


def links_of(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "läufe #1" / "exp 100%"
    (run / "weights").mkdir(parents=True)
    (run / "predictions").mkdir()
    for name in ("results.png", "confusion_matrix.png", "PR_curve.png", "val_batch0.jpg", "predictions/<b> ü.jpg"):
        (run / name).write_bytes(b"picture")
    (run / "weights" / "best.pt").write_bytes(b"")
    (run / "config.yaml").write_text("data: <script>alert(1)</script>\n", encoding="utf-8")
    header = "epoch, metrics/precision, metrics/recall, metrics/mAP_0.5, metrics/mAP_0.5:0.95"
    (run / "results.csv").write_text(f"{header}\n0,.1,.2,.3,.2\n1,.5,.6,.71,.4\n2,.5,.5,nan,nan\n", encoding="utf-8")
    return run


def test_the_page_links_only_files_that_are_there(folder: Path) -> None:
    page = write_report(folder, LAYOUT, predictions=[folder / "predictions" / "<b> ü.jpg"])
    links = links_of(page).found
    assert len(links) == 10
    assert all((folder / unquote(link)).is_file() for link in links)
    assert not re.search(r"https?://|<script|<link", page.read_text(encoding="utf-8"))


def test_text_is_escaped(folder: Path) -> None:
    (folder / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    page = write_report(
        folder, LAYOUT, tables=metric_tables(folder), title="<i>run</i>", commands=["boxwright train <data>"]
    )
    tags = links_of(page).tags
    assert "i" not in tags
    assert "script" not in tags
    text = page.read_text(encoding="utf-8")
    assert "&lt;img src=x&gt;" in text
    assert "0.250" in text
    assert "boxwright train &lt;data&gt;" in text


def test_the_headline_is_the_best_epoch(folder: Path) -> None:
    text = write_report(folder, LAYOUT).read_text(encoding="utf-8")
    assert "0.710" in text
    assert "best: epoch 1" in text


def test_a_system_says_what_its_page_shows(folder: Path) -> None:
    (folder / "curves").mkdir()
    (folder / "curves" / "own.png").write_bytes(b"picture")
    layout = RunLayout({"metrics/recall": 1.0}, {"metrics/mAP_0.5": "<mine>"}, (), {"Own & more": ("curves/*.png",)})
    (folder / "results.csv").write_text("epoch,metrics/recall,metrics/mAP_0.5\n0,.9,.123\n1,.6,.7\n", encoding="utf-8")
    text = write_report(folder, layout).read_text(encoding="utf-8")
    assert "best: epoch 0" in text
    assert "<b>0.123</b><span>&lt;mine&gt;, best epoch" in text
    assert "<h2>Own &amp; more</h2>" in text
    assert "PR_curve.png" not in text


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    assert "<h1>" in write_report(tmp_path, LAYOUT).read_text(encoding="utf-8")
    (tmp_path / "results.csv").write_text("", encoding="utf-8")
    assert "<h1>" in write_report(tmp_path, LAYOUT).read_text(encoding="utf-8")
