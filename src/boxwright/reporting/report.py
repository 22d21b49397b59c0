"""report.html: one page about a run folder, in one file that needs no network and no other file.

The page shows what lies in the folder (config.yaml, results.csv, events.jsonl, metrics, plots, weights) and what the
caller adds (sample predictions, commands). Pictures are inside, so that it can be mailed.
"""

import base64
import csv
import html
import json
import math
import mimetypes
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boxwright.checkpoints.native import load_checkpoint
from boxwright.data.files import write_atomically
from boxwright.drawing.canvas import fit
from boxwright.engine.environment import environment_line
from boxwright.engine.run_folder import typed_command
from boxwright.errors import UserError
from boxwright.ops.arrays import Floats

_LARGE_BYTES = 400_000  # a larger picture is embedded as a JPEG
_LARGE_SIDE = 1600  # pixels: the longer side of such a JPEG at most
_MOST_COLUMNS = 8  # of a table that a phone shows as one
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7c; --line: #dde3ea; --panel: #f6f8fa; --page: #fff;
  --accent: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa7b6; --line: #323b46; --panel: #1a2129; --page: #11161c; --accent: #6ea8fe; }
  img { filter: brightness(.88); }
}
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--page); overflow-wrap: anywhere; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
p.sub { color: var(--soft); margin: 0 0 24px; }
p.note { color: var(--soft); max-width: 75ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(150px, 100%), 1fr)); gap: 12px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
code { white-space: pre-wrap; }
code span, pre span { white-space: nowrap; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: 20px; max-width: 100%; }
caption { text-align: left; color: var(--soft); padding: 4px 0; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--line); }
.number { text-align: right; }
th { color: var(--soft); font-weight: 600; }
figure { margin: 0 0 24px; min-width: 0; }
figure img { display: block; max-width: 100%; border: 1px solid var(--line); border-radius: 6px; cursor: zoom-in; }
figcaption { color: var(--soft); font-size: 13px; }
label input { position: absolute; opacity: 0; pointer-events: none; }
label input:focus-visible + img { outline: 3px solid var(--accent); }
label input:checked + img { position: fixed; inset: 0; z-index: 9; width: 100%; height: 100%; object-fit: contain;
  background: var(--page); border: 0; cursor: zoom-out; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.grid img { width: 100%; }
.single { max-width: 800px; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 14px; margin: 8px 0;
  overflow: auto; white-space: pre-wrap; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 640px) {
  main { padding: 20px 16px 48px; }
  h1 { font-size: 22px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: 8px; }
  table { font-size: 11px; }
  th, td { padding: 4px 0 4px 5px; }
  td:first-child { hyphens: auto; }
  th:first-child, td:first-child { padding-left: 0; }
  th { font-size: 10px; }
  th, td:not(:first-child) { overflow-wrap: normal; }
  table.wide, .wide tbody, .wide caption { display: block; }
  .wide tr:has(th) { display: none; }
  .wide tr { display: grid; grid-template-columns: repeat(5, 1fr); border-bottom: 1px solid var(--line); }
  .wide td { border: 0; text-align: left; }
  .wide td:first-child:not(:last-child) { grid-column: 1 / -1; font-weight: 600; padding: 4px; }
  .wide td:not(:first-child)::before { content: attr(data-name); display: block; font-size: 10px; color: var(--soft); }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report."""

    title: str
    header: Sequence[str]  # names of the columns
    rows: Sequence[Sequence[str]]  # one text per column

    def as_text(self) -> str:
        """Format as lines of even columns, the first one aligned to the left."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [
            "  ".join(word.rjust(width) if column else word.ljust(width) for column, (word, width) in enumerate(cells))
            for cells in (list(zip(row, widths, strict=True)) for row in (self.header, *self.rows))
        ]
        return "\n".join([self.title, *lines, ""])

    def as_html(self) -> str:
        """Format as an HTML table, columns of numbers aligned to the right."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.header))]
        kinds = ["" if any(map(_is_word, column)) else ' class="number"' for column in columns]

        def row(cells: Iterable[str], tag: str) -> str:
            named = zip(map(html.escape, self.header), map(html.escape, cells), kinds, strict=True)
            words = "".join(f'<{tag}{kind} data-name="{name}">{cell}</{tag}>' for name, cell, kind in named)
            return f"<tr>{words}</tr>"

        rows = "\n".join([row(self.header, "th"), *(row(cells, "td") for cells in self.rows)])
        kind = ' class="wide"' if len(self.header) > _MOST_COLUMNS else ""
        return f"<table{kind}><caption>{html.escape(self.title)}</caption>{rows}</table>"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured with the weights that a page is about."""

    columns: Mapping[str, float] = field(default_factory=dict[str, float])  # by the names of results.csv
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class RunLayout:
    """What the runs of a system leave behind; columns are those of results.csv."""

    cards: Mapping[str, str]  # column -> what the card with its value is called
    panels: Sequence[Sequence[str]]  # columns that results.png shows, in two rows
    pictures: Mapping[str, Sequence[str]]  # heading -> files of the run folder as patterns, in the order of the page
    measured: Callable[[Path], Measured]  # reads what val has left in a run folder


def _is_word(cell: str) -> bool:
    """Whether a cell of a table is no number."""
    try:
        return not math.isfinite(float(cell or 0))
    except ValueError:
        return True


def best_epoch(folder: Path) -> int:
    """Return the epoch of a run, from 1, that its best.pt is of; 0: there is none."""
    with suppress(UserError):
        return int(load_checkpoint(folder / "weights" / "best.pt").get("epoch", 0))  # only those of training have it
    return 0


def read_results(csv_path: Path) -> dict[str, Floats]:
    """Read results.csv into one array per column; blanks and words become nan."""
    with csv_path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, skipinitialspace=True, restval="")  # a killed run may leave a short last row
        names, rows = [name.strip() for name in reader.fieldnames or ()], list(reader)
    columns = {name: np.full(len(rows), np.nan) for name in names}
    for i, row in enumerate(rows):
        for values, cell in zip(columns.values(), row.values(), strict=False):
            with suppress(ValueError):
                values[i] = float(cell)
    return columns


def training_facts(folder: Path) -> dict[str, str]:
    """Read from events.jsonl when, how long, where and by which commands a run was trained."""
    events: list[dict[str, Any]] = []
    path = folder / "events.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):  # a killed run may leave a short last line
            event = json.loads(line)
            if event["event"] == "start":  # another run may have been in this folder before
                events.clear()
            events.append(event)
    starts = [i for i, event in enumerate(events) if event["event"] in ("start", "resume")]
    if not starts:
        return {}
    # From each start or resume to the last event before the next one: a run that was killed has not written its end.
    ends = [*(i - 1 for i in starts[1:]), len(events) - 1]
    seconds = sum(events[end]["time"] - events[start]["time"] for start, end in zip(starts, ends, strict=True))
    sessions = "" if len(starts) == 1 else f", in {len(starts)} parts"
    commands = [events[i].get("command", "") for i in starts]
    return {
        "date": describe_time(events[0]["time"]),
        "training time": f"{format_duration(seconds)}{sessions}",
        **{name: str(value) for name, value in events[starts[-1]].get("about", {}).items()},
        "command": "\n".join(filter(None, commands)),
    }


def measuring_facts(start: float, device: str, precision: str) -> dict[str, str]:
    """Say when, how long, where and by which command something was measured; `start`: seconds since 1970."""
    return {
        "date": describe_time(start),
        "time": f"{format_duration(time.time() - start)} to measure",
        "device": f"{environment_line(device)}; {precision}",
        "command": typed_command(),
    }


def describe_time(seconds: float) -> str:
    """Format seconds since 1970 as date and time of this machine."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def format_duration(seconds: float) -> str:
    """Format a time with its two largest units: 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def write_report(
    folder: Path,
    layout: RunLayout,
    *,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    settings: str = "",
    predictions: Sequence[Path] = (),
    commands: Sequence[str] = (),
) -> Path:
    """Write report.html into a run folder.

    Args:
        folder: the run folder; whatever of the known files it holds is shown.
        layout: what the system's runs leave behind.
        title: headline; the folder's name if empty.
        facts: what the run was, by name; None: those of a training.
        settings: all settings as yaml; empty: those of config.yaml.
        predictions: annotated images to show.
        commands: what to type next; lines that begin with # explain those below them.

    Returns:
        The page.
    """
    title = html.escape(title or folder.name)
    measured = layout.measured(folder)
    facts = training_facts(folder) if facts is None else facts
    results = folder / "results.csv"
    epochs, best = read_results(results) if results.is_file() else {}, best_epoch(folder)
    row = next((i for i, epoch in enumerate(epochs.get("epoch", ())) if epoch == best), None)
    during = {} if row is None else {name: float(values[row]) for name, values in epochs.items()}
    words = [f"{len(epochs['epoch'])} epoch{'' if len(epochs['epoch']) == 1 else 's'}"] if "epoch" in epochs else []
    words += [f"best: epoch {best}"] if best else []
    words += [facts[name] for name in ("date", "training time", "time") if name in facts]
    parts = [f"<h1>{title}</h1>", f'<p class="sub">{html.escape(" · ".join(words))}</p>']
    values = during | dict(measured.columns)
    cards = [
        f'<div class="card"><b>{values[column]:.3f}</b><span>{html.escape(label)}</span></div>'
        for column, label in layout.cards.items()
        if np.isfinite(values.get(column, np.nan))
    ]
    parts += [f'<div class="cards">{"".join(cards)}</div>'] if cards else []
    parts += [f'<p class="note">{html.escape(_explain_numbers(layout, measured, during))}</p>'] if during else []
    shown = {name: text for name, text in facts.items() if text}
    if shown:
        words = {
            name: f"<code>{_command(text)}</code>" if name == "command" else html.escape(text)
            for name, text in shown.items()
        }
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{text}</dd>" for name, text in words.items())
        parts += ["<h2>The run</h2>", f"<dl>{rows}</dl>"]
    if text := "\n".join(commands):
        parts += ["<h2>What to do next</h2>", f"<pre>{_command(text)}</pre>"]
    over_epochs = folder / "results.png"
    parts += ["<h2>Results over epochs</h2>", _figure(folder, over_epochs)] if over_epochs.is_file() else []
    if measured.tables:
        parts += ["<h2>Metrics</h2>", *(table.as_html() for table in measured.tables)]
    if predictions:
        parts += ["<h2>Predictions</h2>", _gallery(folder, predictions)]
    for heading, patterns in layout.pictures.items():
        if paths := [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
            parts += [f"<h2>{html.escape(heading)}</h2>", _gallery(folder, paths)]
    config = folder / "config.yaml"
    if not settings and config.is_file():
        settings = config.read_text(encoding="utf-8")
    if settings:
        text = f"<pre>{html.escape(settings)}</pre>"
        parts += ["<h2>Settings</h2>", f"<details><summary>all settings of the run</summary>{text}</details>"]
    page = folder / "report.html"
    write_atomically(page, _PAGE.format(title=title, style=_STYLE, body="\n".join(parts)))
    return page


def _explain_numbers(layout: RunLayout, measured: Measured, during: Mapping[str, float]) -> str:
    """Say which epoch the numbers of the page are of, and why those of results.csv may differ."""
    epoch = f"epoch {during['epoch']:.0f}, whose weights are best.pt"
    if not measured.columns:
        return f"Measured during training after {epoch}."
    other = {
        label: during[column]
        for column, label in layout.cards.items()
        if column in during and f"{during[column]:.3f}" != f"{measured.columns.get(column, np.nan):.3f}"
    }
    text = f"The numbers of this page are of {epoch}, measured once more after training in full precision (fp32)."
    if not other:
        return f"{text} They are those of this epoch in results.csv and in the plots over epochs."
    listed = ", ".join(f"{label} {value:.3f}" for label, value in other.items())
    return (
        f"{text} results.csv and the plots over epochs hold what was measured during training, in the precision of the "
        f"training: {listed} after this epoch."
    )


def _command(text: str) -> str:
    """Return commands as HTML in which no line ends inside the name of a flag."""
    return re.sub(r"(?<!\S)--[\w.-]+", r"<span>\g<0></span>", html.escape(text))


def _figure(folder: Path, path: Path) -> str:
    """Return a picture as HTML, with its bytes inside; a click shows it as large as the window."""
    data, kind = path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/png"
    if len(data) > _LARGE_BYTES:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            side = min(_LARGE_SIDE, max(image.shape[:2]))
            small = fit(np.asarray(image, np.uint8), (side, side))
            data, kind = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), "image/jpeg"
    name = html.escape(path.relative_to(folder).as_posix())
    return (
        f'<figure><label><input type="checkbox" aria-label="enlarge {name}">'
        f'<img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{name}"></label>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _gallery(folder: Path, paths: Sequence[Path]) -> str:
    """Return pictures as HTML, side by side; one alone stays as small as it would be in a row."""
    kind = "single" if len(paths) == 1 else "grid"
    return f'<div class="{kind}">{"".join(_figure(folder, path) for path in paths)}</div>'
