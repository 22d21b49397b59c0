"""Flags and settings change only on purpose."""

from __future__ import annotations

import difflib

from tests.contracts.freeze import FROZEN, RENEW, frozen_text


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
