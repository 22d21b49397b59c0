"""Flags and settings change only on purpose."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

from boxwright.centerfusion import settings as fusion
from boxwright.centerfusion.losses import PUBLISHED_WEIGHTS
from boxwright.settings.load import setting_names
from boxwright.yolo import settings as schema
from tests.contracts.freeze import FROZEN, RENEW, frozen_text

SOURCE = Path(schema.__file__).parents[1]


def test_flags_and_settings_are_as_checked_in() -> None:
    changes = difflib.unified_diff(
        FROZEN.read_text(encoding="utf-8").splitlines(),
        frozen_text().splitlines(),
        "checked in",
        "now",
        lineterm="",
        n=0,
    )
    text = "\n".join(changes)
    assert not text, f"the command line or the settings changed; if that is meant, run `{RENEW}`:\n{text}"


KINDS = (schema.RunConfig, schema.ValConfig, schema.PredictConfig)
FUSION_KINDS = (fusion.FusionConfig, fusion.FusionValConfig, fusion.FusionPredictConfig)


@pytest.mark.parametrize("kind", [*KINDS, *FUSION_KINDS])
def test_no_setting_is_dead(kind: type[schema.Frozen]) -> None:
    """By name only: some room outside of config and cli reads an attribute that is called like it."""
    rooms = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("config", "cli")]
    nodes = (node for path in rooms for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    read |= set(PUBLISHED_WEIGHTS)  # the weights of the heads are handed on as one mapping
    assert [name for name in setting_names(kind) if name.rpartition(".")[2] not in read] == []
