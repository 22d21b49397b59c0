"""The table of `boxwright info` against the published ones, with modules and arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwright.yolo.verbs.info import describe, layers_as_written, show_arguments
from tests.golden import golden_cases

GENERATION_6 = ("v6.0", "v6.1", "v7.0")


def name_of(facts: dict[str, Any]) -> str:
    """The model as `--cfg` takes it."""
    name = facts["model"].split("-nc")[0]
    if name.startswith("yolov3"):
        return f"{name}.yaml"
    return name if facts["version"] in GENERATION_6 else f"{name}@{facts['version']}"


@pytest.mark.parametrize("file", golden_cases("keys", "v*_*.json"))
def test_rows_are_the_published_ones(file: Path) -> None:
    facts = json.loads(file.read_text())
    summary = describe(name_of(facts), num_classes=facts["nc"])
    rows = [
        {
            "i": layer.index,
            "from": list(layer.sources) if len(layer.sources) > 1 else layer.sources[0],
            "n": layer.repeats,
            "type": layer.block,
            "params": layer.num_parameters,
            "args": show_arguments(layer.args[:-2]) if layer.block == "Detect" else show_arguments(layer.args),
        }
        for layer in layers_as_written(summary.network)
    ]
    published = [row | {"args": show_arguments(shown(row))} for row in facts["layers"]]
    assert rows == published
    assert summary.num_parameters == facts["n_parameters"]
    assert summary.num_parameters_fused == facts["n_parameters_fused"]
    assert summary.gflops == pytest.approx(facts["gflops_conv_only_640"], rel=1e-6)


def shown(row: dict[str, Any]) -> list[Any]:
    """Arguments of a row; those of the head without anchors, which the article replaced by its own."""
    return row["args"][:-2] if row["type"] == "Detect" else row["args"]
