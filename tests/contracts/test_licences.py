"""The licences of what is installed are known and allowed, and docs/licences.md lists them."""

from __future__ import annotations

import runpy
from email.message import Message
from types import SimpleNamespace

import pytest

from tests.contracts.test_files import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "licences.py"))
Row = SCRIPT["Row"]


def test_each_licence_is_allowed_and_in_the_table() -> None:
    table = SCRIPT["rows"]()
    assert {"torch", "numpy", "opencv-python-headless"} <= {row.name for row in table}
    assert [f"{row.name}: {row.licence}" for row in table if SCRIPT["refused"](row)] == []
    pinned = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    page = set(SCRIPT["PAGE"].read_text(encoding="utf-8").splitlines())
    old = [row.name for row in table if f"{row.name}=={row.version}" in pinned and str(row) not in page]
    assert old == [], "docs/licences.md is old: make licences"


@pytest.mark.parametrize(
    ("name", "licence", "part"),
    [
        ("a", "MIT AND (Apache-2.0 WITH LLVM-exception) AND Zlib", ""),
        ("a", "GPL-3.0-only OR MIT", ""),
        ("a", "MIT AND LGPL-2.1-or-later", "LGPL-2.1-or-later"),
        ("a", "AGPL-3.0", "AGPL-3.0"),
        ("a", "GPL-3.0", "GPL-3.0"),
        ("a", "not said", "not said"),
        ("nvidia-a", "NVIDIA proprietary", ""),
        ("a", "NVIDIA proprietary", "NVIDIA proprietary"),
    ],
)
def test_what_is_refused(name: str, licence: str, part: str) -> None:
    assert SCRIPT["refused"](Row(name, "1", licence, ("base",), "")) == part


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "BSD-3-Clause AND GPL-2.0"}, "BSD-3-Clause AND GPL-2.0"),
        ({"License": "Copyright (c) 2020\n" * 4, "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "Ours alone", "Classifier": "License :: OSI Approved :: MIT License"}, "Ours alone"),
        ({"Classifier": "License :: OSI Approved :: MIT License", "classifier": "License :: Free"}, "MIT AND Free"),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD"),
        ({"License": "GNU General Public License"}, "GNU General Public License"),
        ({}, "not said"),
    ],
)
def test_what_metadata_say(fields: dict[str, str], licence: str) -> None:
    metadata = Message()
    for name, value in {"Name": "a", **fields}.items():
        metadata[name] = value.replace("\n", " ")
    assert SCRIPT["licence_of"](SimpleNamespace(metadata=metadata)) == licence
