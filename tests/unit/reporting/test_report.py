"""report.html is one file that shows what the folder holds, escapes what it is told, and fits every screen."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.reporting.report import (
    Measured,
    RunLayout,
    Table,
    best_epoch,
    format_duration,
    training_facts,
    write_report,
)
from boxwright.yolo.val_output import LAYOUT

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


class Page(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page.read_text(encoding="utf-8").replace("<style>", "<style hidden>"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"} and value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def events(*rows: tuple[str, float], **begun: object) -> str:
    lines = [{"event": event, "time": time} | (begun if event in {"start", "resume"} else {}) for event, time in rows]
    return "\n".join(map(json.dumps, lines)) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three epochs, of which the second is the best."""
    run = tmp_path / "läufe #1" / "exp 100%"
    (run / "weights").mkdir(parents=True)
    (run / "predictions").mkdir()
    for name in ("results.png", "confusion_matrix.png", "PR_curve.png", "val_batch0.jpg", "predictions/<b> ü.jpg"):
        (run / name).write_bytes(name.encode())
    save_checkpoint(run / "weights" / "best.pt", {"epoch": 2})
    (run / "config.yaml").write_text("data: <script>alert(1)</script>\n", encoding="utf-8")
    header = "epoch,metrics/precision,metrics/recall,metrics/mAP_0.5,metrics/mAP_0.5:0.95"
    (run / "results.csv").write_text(f"{header}\n1,.1,.2,.3,.2\n2,.5,.6,.71,.4\n3,,,,\n", encoding="utf-8")
    return run


def test_pictures_are_inside(folder: Path) -> None:
    page = write_report(folder, LAYOUT, predictions=[folder / "predictions" / "<b> ü.jpg"])
    links = Page(page).links
    assert len(links) == 5
    content = {base64.b64decode(link.partition(";base64,")[2]).decode() for link in links}
    assert content == {"results.png", "confusion_matrix.png", "PR_curve.png", "val_batch0.jpg", "predictions/<b> ü.jpg"}
    assert links[0].startswith("data:image/png;")
    assert not re.search(r"https?://|<script|<link", page.read_text(encoding="utf-8"))


def test_a_large_picture_is_made_smaller(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 2000, 3), np.uint8)
    cv2.imwrite(str(folder / "results.png"), noise)
    link = Page(write_report(folder, LAYOUT)).links[0]
    assert link.startswith("data:image/jpeg;")
    data = np.frombuffer(base64.b64decode(link.partition(",")[2]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (240, 1600, 3)


def test_text_is_escaped(folder: Path) -> None:
    (folder / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    facts = {"data": "<i>here</i>", "command": "boxwright train '<i>'"}
    page = write_report(folder, LAYOUT, title="<i>run</i>", facts=facts, commands=["boxwright train <data> --a-b"])
    assert "<pre>boxwright train &lt;data&gt; <span>--a-b</span></pre>" in page.read_text()  # no line ends in it
    found = Page(page)
    assert "i" not in found.tags
    assert "script" not in found.tags
    assert "<img src=x>" in found.text
    assert "0.250" in found.text
    assert "boxwright train <data>" in found.text


def test_the_page_and_the_checkpoint_name_one_epoch(folder: Path) -> None:
    assert best_epoch(folder) == 2
    (folder / "weights" / "weights").mkdir()
    save_checkpoint(folder / "weights" / "weights" / "best.pt", {})
    assert best_epoch(folder / "weights") == 0
    text = Page(write_report(folder, LAYOUT)).text
    assert "best: epoch 2" in text
    assert "0.710" in text
    assert "Measured during training after epoch 2" in text


@pytest.mark.parametrize("same", [True, False])
def test_two_numbers_for_one_thing_are_explained(folder: Path, same: bool) -> None:
    metrics = METRICS | {"yolov5": {**METRICS["yolov5"], "mAP_0.5": 0.71 if same else 0.7125}}  # type: ignore[dict-item]
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    text = Page(write_report(folder, LAYOUT)).text
    assert ("0.713" in text or "0.712" in text) != same
    assert ("during training, in the precision of the training: mAP@0.5 0.710 after" in text) != same
    assert ("They are those of this epoch in results.csv" in text) == same


def test_facts_of_a_run_in_parts(folder: Path) -> None:
    """An earlier run in the folder does not count, nor the time between a kill and the resume."""
    begun = {"command": "boxwright train --x", "about": {"model": "yolov5n", "device": "CPU"}}
    log = events(("start", 0.0), ("end", 9e6)) + events(
        ("start", 1e9), ("step", 1e9 + 60), ("resume", 1e9 + 9e5), ("end", 1e9 + 9e5 + 65), **begun
    )
    (folder / "events.jsonl").write_text(log + '{"event": "st', encoding="utf-8")
    facts = training_facts(folder)
    assert facts["training time"] == "2 min 5 s, in 2 parts"
    assert facts["date"].startswith("2001-09-0")
    assert (facts["model"], facts["command"].splitlines()[0]) == ("yolov5n", "boxwright train --x")
    assert "2 min 5 s" in Page(write_report(folder, LAYOUT)).text
    assert format_duration(7500) == "2 h 5 min"


def test_a_system_says_what_its_page_shows(folder: Path) -> None:
    (folder / "curves").mkdir()
    (folder / "curves" / "own.png").write_bytes(b"picture")
    table = Table("mine", ("name", "value"), [("a", "1.0")])
    layout = RunLayout(
        {"metrics/NDS": "<mine>"},
        (),
        {"Own & more": ("curves/*.png",)},
        lambda _: Measured({"metrics/NDS": 0.123}, [table]),
    )
    page = write_report(folder, layout).read_text(encoding="utf-8")
    assert "<b>0.123</b><span>&lt;mine&gt;</span>" in page
    assert "<h2>Own &amp; more</h2>" in page
    assert "PR_curve.png" not in page
    assert "<caption>mine</caption>" in page


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    assert "<h1>" in write_report(tmp_path, LAYOUT).read_text(encoding="utf-8")
    (tmp_path / "results.csv").write_text("", encoding="utf-8")
    assert "<h1>" in write_report(tmp_path, LAYOUT).read_text(encoding="utf-8")


_MEASURE = """<script>
const room = document.documentElement.clientWidth;
const wide = [...document.querySelectorAll("body *")].filter(e => e.tagName != "SCRIPT"
  && (e.getBoundingClientRect().right > room + .5 || e.getBoundingClientRect().left < -.5));
parent.postMessage(`room ${room}, page ${document.documentElement.scrollWidth}, wide: `
  + wide.map(e => e.outerHTML.slice(0, 60)).join(" | "), "*");
</script>"""
_HOST = """<body><p id="said"></p><script>addEventListener("message", e => said.textContent = e.data)</script>
<iframe src="measured.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_element_is_wider_than_the_page(folder: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    image = np.full((700, 1900, 3), 90, np.uint8)
    for name in ("results.png", "PR_curve.png", "val_batch0.jpg", "val_batch1.jpg", "labels.jpg"):
        cv2.imwrite(str(folder / name), image)
    (folder / "confusion_matrix.png").unlink()
    long = {"name": "a_class_of_a_very_long_name_without_any_space", "images": 118287, "labels": 860001}
    metrics = METRICS | {"classes": [METRICS["classes"][0] | long]}  # type: ignore[index]
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    wide = Table("wide", [f"column{i}" for i in range(11)], [["name", *["0.123"] * 10]] * 3)
    layout = RunLayout(
        LAYOUT.cards, (), LAYOUT.pictures, lambda place: Measured(tables=[*LAYOUT.measured(place).tables, wide])
    )
    path = "/folder" * 30
    facts = {"data": path, "command": f"boxwright train --data {path}"}
    page = write_report(
        folder,
        layout,
        title="run_" * 40,
        facts=facts,
        settings=f"data: {path}",
        commands=[f"boxwright val --data {path}"],
    )
    text = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    (folder / "measured.html").write_text(text.replace("</body>", f"{_MEASURE}</body>"), encoding="utf-8")
    host = folder / "host.html"
    host.write_text(_HOST.format(width=width), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1000", "--dump-dom"]
    words += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", host.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r'<p id="said">(.*?)</p>', done.stdout)
    if said is None or not said[1]:
        pytest.skip(f"{browser} does not run here: {done.stderr[-300:]}")
    assert said[1] == f"room {width}, page {width}, wide: "
