"""report.html: one page about a run folder, readable without network.

The page shows what lies in the folder (config.yaml, results.csv, metrics.json, plots, weights) and what the caller adds
(sample predictions, commands). Images are linked by relative paths: the folder can be moved or zipped as a whole.
"""

import csv
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from boxwright.ops.arrays import Floats

_STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7c; --line: #dde3ea; --panel: #f6f8fa; --accent: #1f6feb; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
p.sub { color: var(--soft); margin: 0 0 24px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; margin-bottom: 20px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 4px 0; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; }
figure { margin: 0 0 24px; }
figure img { max-width: 100%; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 16px; }
.grid img { width: 100%; }
.single { max-width: 800px; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 14px; overflow: auto;
  font-size: 13px; max-height: 480px; }
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
class RunLayout:
    """What the runs of a system leave behind; columns are those of results.csv."""

    fitness: Mapping[str, float]  # weight of each column in the number by which an epoch is the best
    cards: Mapping[str, str]  # column -> what the card with its value in the best epoch is called
    panels: Sequence[Sequence[str]]  # columns that results.png shows, in two rows
    pictures: Mapping[str, Sequence[str]]  # heading -> files of the run folder as patterns, in the order of the page

    def best_epoch(self, csv_path: Path) -> dict[str, float]:
        """Return the row of results.csv with the largest fitness, and the number of "epochs"; empty: there is none."""
        columns = read_results(csv_path) if csv_path.is_file() else {}
        if not self.fitness or any(name not in columns or not len(columns[name]) for name in self.fitness):
            return {}
        weighted = [weight * columns[name] for name, weight in self.fitness.items()]
        fitness: list[float] = np.sum(weighted, axis=0).tolist()
        # nan compares false with everything: an epoch without a number must never win.
        row = max(range(len(fitness)), key=lambda i: (fitness[i] == fitness[i], fitness[i]))
        return {name: float(values[row]) for name, values in columns.items()} | {"epochs": float(len(fitness))}


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
        """Format as an HTML table, which scrolls in its own frame: the page itself stays as wide as the window."""

        def row(cells: Iterable[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "\n".join([row(self.header, "th"), *(row(cells, "td") for cells in self.rows)])
        return f'<div class="scroll"><table><caption>{html.escape(self.title)}</caption>{rows}</table></div>'


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


def write_report(
    folder: Path,
    layout: RunLayout,
    *,
    tables: Sequence[Table] = (),
    title: str = "",
    predictions: Sequence[Path] = (),
    commands: Sequence[str] = (),
) -> Path:
    """Write report.html into a run folder.

    Args:
        folder: the run folder; whatever of the known files it holds is shown.
        layout: what the system's runs leave behind.
        tables: metrics of the best weights.
        title: headline; the folder's name if empty.
        predictions: annotated images to show.
        commands: what to type next.

    Returns:
        The page.
    """
    title = html.escape(title or folder.name)
    best = layout.best_epoch(folder / "results.csv")
    words = [f"{best['epochs']:.0f} epoch{'' if best['epochs'] == 1 else 's'}"] if best else []
    words += [f"best: epoch {best.get('epoch', 0):.0f}"] if best else []
    weights = sorted(path.name for path in (folder / "weights").glob("*.pt"))
    words += [f"weights: {', '.join(weights)}"] if weights else []
    parts = [f"<h1>{title}</h1>", f'<p class="sub">{html.escape(" · ".join(words))}</p>']
    cards = [
        f'<div class="card"><b>{best[column]:.3f}</b><span>{html.escape(label)}, best epoch</span></div>'
        for column, label in layout.cards.items()
        if column in best
    ]
    if cards:
        parts.append(f'<div class="cards">{"".join(cards)}</div>')
    if tables:
        parts += ["<h2>Metrics of the best weights</h2>", *(table.as_html() for table in tables)]
    results = folder / "results.png"
    parts += ["<h2>Results over epochs</h2>", _figure(folder, results)] if results.is_file() else []
    if predictions:
        parts += ["<h2>Predictions</h2>", _gallery(folder, predictions)]
    for heading, patterns in layout.pictures.items():
        if paths := [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
            parts += [f"<h2>{html.escape(heading)}</h2>", _gallery(folder, paths)]
    if commands:
        parts += ["<h2>What to try next</h2>", _preformatted("\n".join(commands))]
    settings = folder / "config.yaml"
    if settings.is_file():
        parts += ["<h2>Settings</h2>", _preformatted(settings.read_text(encoding="utf-8"))]
    page = folder / "report.html"
    page.write_text(_PAGE.format(title=title, style=_STYLE, body="\n".join(parts)), encoding="utf-8")
    return page


def _figure(folder: Path, path: Path) -> str:
    """Return a picture as HTML, linked relative to the folder."""
    link = quote(Path(os.path.relpath(path, folder)).as_posix())
    name = html.escape(path.name)
    return (
        f'<figure><a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _gallery(folder: Path, paths: Sequence[Path]) -> str:
    """Return pictures as HTML, side by side; one alone stays as small as it would be in a row."""
    kind = "single" if len(paths) == 1 else "grid"
    return f'<div class="{kind}">{"".join(_figure(folder, path) for path in paths)}</div>'


def _preformatted(text: str) -> str:
    """Return text as HTML that keeps its lines."""
    return f"<pre>{html.escape(text)}</pre>"
