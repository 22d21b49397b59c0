"""The site: it is built without a warning, fetches nothing, fits its window, and says what the source says."""

from __future__ import annotations

import ast
import logging
import re
import runpy
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

MEASURED = "index start.zh install licences how settings fusion articles troubleshooting reference/api".split()
_MEASURE = """<script>addEventListener("load", () => parent.postMessage(
  `PAGE: ${document.documentElement.clientWidth} ${document.documentElement.scrollWidth}`, "*"))</script>"""
_HOST = (
    """<body><p id="said"></p><script>addEventListener("message", e => said.textContent += e.data + "; ")</script>"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("material", reason="the extra docs is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    level = logging.getLogger("mkdocs").level
    try:
        # strict: a warning is an error
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    finally:
        logging.getLogger("mkdocs").setLevel(level)
    return folder


def test_no_page_fetches_anything(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe|source|link(?! rel=.?canonical))\b[^>]*(?:src|href)=.?(?:https?:)?//\S+"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [hit for page in pages for hit in fetched.findall(page.read_text(encoding="utf-8"))] == []
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert [hit for style in styles for hit in re.findall(r"url\(.?(?:https?:)?//[^)]*|@import[^;]*", style)] == []


def test_pages_of_the_root_and_parts_of_readme_are_there(site: Path) -> None:
    assert "form" in (site / "security.html").read_text(encoding="utf-8")
    differs = (site / "differs.html").read_text(encoding="utf-8")
    assert "<td>checkpoints</td>" in differs
    assert 'href="safety.html"' in differs


def test_pages_fit_a_telephone_and_a_desktop(site: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    frames: list[str] = []
    for name in MEASURED:
        page = site / f"{name}.html"
        text = page.read_text(encoding="utf-8").replace("</head>", _MEASURE.replace("PAGE", name) + "</head>", 1)
        copy = page.with_name(f"measured_{page.name}")
        copy.write_text(text, encoding="utf-8")
        source = copy.relative_to(site)
        frames += [f'<iframe src="{source}" style="width: {width}px; height: 900px"></iframe>' for width in (390, 1280)]
    (site / "host.html").write_text(_HOST + "".join(frames).replace("px;", "px; border: 0;"), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1000", "--dump-dom"]
    words += [f"--user-data-dir={site / 'profile'}", "--virtual-time-budget=9000", (site / "host.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r'<p id="said">(.*?)</p>', done.stdout)
    if said is None or not said[1]:
        pytest.skip(f"{browser} does not run here: {done.stderr[-300:]}")
    wanted = {f"{name}: {width} {width}" for name in MEASURED for width in (390, 1280)}
    assert set(said[1].removesuffix("; ").split("; ")) == wanted


def test_pictures_are_what_the_code_draws(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "draw_pictures.py"))["main"](tmp_path)
    for picture in sorted(tmp_path.iterdir()):
        assert picture.read_text(encoding="utf-8") == (DOCS / "pictures" / picture.name).read_text(encoding="utf-8"), (
            f"{picture.name} is old: python docs/draw_pictures.py"
        )


@cache
def sentences() -> list[str]:
    """Return the text of each string of the package, with … for what is filled in."""
    found: list[str] = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdg]", "…", node.value))
    return found


HEADINGS = re.findall(r"^### `+ ?(.+?) ?`+$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_message_of_the_troubleshooting_page_is_one_of_the_package(heading: str) -> None:
    pieces = [piece for piece in heading.split("…") if piece]
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    assert any(pattern.search(sentence) for sentence in sentences())


def test_the_troubleshooting_page_has_the_common_messages() -> None:
    assert len(HEADINGS) >= 40
