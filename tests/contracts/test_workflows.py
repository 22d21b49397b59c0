"""The workflows of .github: make targets that are there, actions by their hash, and no right but to read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contracts.test_files import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"permissions:.*\n(?: +.*\n)*", text) == ["permissions:\n  contents: read\n"]
    assert text.count("uses: ") == len(re.findall(r"uses: actions/[\w-]+@[0-9a-f]{40} # v", text)) > 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [line.strip() for line in text.splitlines() if re.search(r"\brun: ", line)]
    assert all(command.startswith("- run: make ") for command in commands)
    asked = " ".join(commands).replace("- run: make", "").replace("${{ matrix.target }}", "")
    asked += " ".join(re.findall(r" target: \[(.+)\]", text)).replace(",", " ")
    targets = asked.split()
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
