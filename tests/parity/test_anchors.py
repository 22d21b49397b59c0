"""Anchors against the golden vectors: the measures of given anchors, and the fitness that the search reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boxwright.yolo.anchors import fit, measure, search, usable
from tests.golden import assert_recorded, golden_cases, read_case

TOLERANCE = 1e-5
FILES = golden_cases("anchors", "*.json")


def entries(name: str) -> list[Any]:
    """One parameter an entry of a list in any of the files."""
    found: list[Any] = []
    for file in FILES:
        for entry in read_case(file.values[0])[1].get(name, []):
            what = entry.get("anchors", f"{entry.get('n')} anchors")
            found.append(pytest.param(file.values[0], entry, id=f"{file.id}-{entry['wh']}-{what}-{entry['thr']:g}"))
    return found


@pytest.mark.parametrize(("file", "entry"), entries("given_anchors"))
def test_given_anchors(file: Path, entry: dict[str, Any]) -> None:
    arrays, _ = read_case(file)
    found = fit(arrays[f"wh|{entry['wh']}"], arrays[f"anchors|{entry['anchors']}"], entry["thr"])
    expected = [entry[key] for key in ("bpr", "anchors_per_target", "fitness", "mean_metric", "mean_best")]
    got = [found.recall, found.per_label, found.fitness, found.mean_measure, found.mean_best]
    assert got == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("file", FILES)
def test_measure_of_every_label_and_anchor(file: Path) -> None:
    arrays, _ = read_case(file)
    named = [key.partition("@")[0].split("|")[1:] for key in arrays if key.startswith("metric|")]
    assert named
    for sizes, anchors in named:
        got = measure(arrays[f"wh|{sizes}"], arrays[f"anchors|{anchors}"])
        assert_recorded(got, arrays, f"metric|{sizes}|{anchors}", atol=TOLERANCE)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("file", "entry"), entries("evolution"))
def test_search_reaches_the_published_fitness(file: Path, entry: dict[str, Any], seed: int) -> None:
    """Not only the worst of the stored seeds, the floor, but the best of them."""
    sizes = read_case(file)[0][f"wh|{entry['wh']}"]
    found = search(sizes, num_anchors=entry["n"], anchor_t=entry["thr"], generations=entry["generations"], seed=seed)
    assert len(usable(sizes)) == entry["boxes_used_ge_2px_any_side"]
    reached = fit(usable(sizes), found, entry["thr"])
    assert reached.fitness >= entry["floor"]
    assert reached.fitness >= max(entry["fitness_three_seeds"])
