"""Flags and settings change only on purpose."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

import boxwright
from boxwright.centerfusion.settings import FusionLossConfig
from boxwright.settings.base import LIMITS
from boxwright.settings.flags import setting_names
from boxwright.systems import SYSTEMS, load_system
from tests.contracts.freeze import FROZEN, RENEW, frozen_text

SOURCE = Path(boxwright.__file__).parent


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


KINDS = {f"{name} {verb}": entry.settings for name in SYSTEMS for verb, entry in load_system(name).VERBS.items()}


@pytest.mark.parametrize("verb", KINDS)
def test_no_setting_is_dead(verb: str) -> None:
    """By name only: some room outside of settings and cli reads an attribute that is called like it."""
    rooms = [
        path
        for path in SOURCE.rglob("*.py")
        if path.name != "settings.py" and "cli" not in path.relative_to(SOURCE).parts
    ]
    nodes = (node for path in rooms for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    read |= set(LIMITS)  # go through the environment, in one loop
    read |= set(FusionLossConfig.model_fields)  # the weights of the heads are read in one loop
    assert [name for name in setting_names(KINDS[verb]) if name.rpartition(".")[2] not in read] == []
