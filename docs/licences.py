"""Write docs/licences.md: every package that Boxwright brings along, its licence, and what needs it.

    python docs/licences.py            # or: make licences

Names and extras come from pyproject.toml and examples/tracking.txt, licences from the metadata of what is installed.
"""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"

ALLOWED = set("0BSD Apache-2.0 BSD BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 ISC MIT MIT-0 MIT-CMU MPL-2.0".split())
ALLOWED |= {"PSF", "PSF-2.0", "Zlib"}
NVIDIA = "NVIDIA proprietary"  # of packages of NVIDIA alone
# What metadata say in other words; "BSD" where they do not say which.
_NAMES = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "osi approved :: apache software license": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd license": "BSD",
    "bsd-3": "BSD-3-Clause",
    "freebsd": "BSD-2-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "licenseref-nvidia-proprietary": NVIDIA,
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "nvidia proprietary software": NVIDIA,
    "psfl": "PSF",
    "python software foundation license": "PSF",
}
_LONGEST_NAME = 60  # what is longer is the whole text of a licence
_KNOWN = {name.lower(): name for name in ALLOWED} | _NAMES
_NOT_SAID = {"cuda-toolkit": NVIDIA}  # metadata without a licence

_HEAD = """# Licences of what is installed

Boxwright is licensed under Apache-2.0; the font of its labels, DejaVu Sans, under the Bitstream Vera licence. It copies
no code of the packages below: pip installs them, each under its own licence. The table is generated from their metadata
(`make licences`); a test refuses a licence that is not in its list.

- **NVIDIA's packages** are proprietary. They come with PyTorch's CUDA build, by default on Linux, and may be used and
  redistributed under NVIDIA's terms for CUDA. [An install for the CPU](install.md) has none of them.
- **FFmpeg** lies in the wheels of opencv-python-headless as libraries of their own, under LGPL-2.1 or later; it reads
  and writes videos. You may replace these libraries.
- **libgfortran**, **libquadmath** and **libgomp** of GCC lie in wheels of NumPy, SciPy, OpenCV, PyTorch, under GPL-3.0
  with the GCC Runtime Library Exception (libquadmath: LGPL-2.1), which leaves programs that use them alone.
- **MPL-2.0** (certifi, pathspec, tqdm, hypothesis) concerns changes of these packages themselves.

"Needed by" names the install that brings a package: `base` is `pip install .`, the others are [extras](install.md);
`dev` is for work on Boxwright itself, `tracking.txt` lies in `examples`. The tests do without the extras `wandb`,
`clearml` and `comet`, which are not in the table: [decision 0021](decisions/0021-examples-and-trackers.md) names their
licences.

| package | version | licence | needed by | what it is |
|---|---|---|---|---|
"""


class Row(NamedTuple):
    name: str
    version: str
    licence: str
    groups: tuple[str, ...]
    summary: str

    def __str__(self) -> str:
        return f"| {self.name} | {self.version} | {self.licence} | {', '.join(self.groups)} | {self.summary} |"


def licence_of(package: Distribution) -> str:
    """Return the licence in SPDX's names where metadata say it; what is not known is returned as it stands."""
    about = package.metadata
    expression, text = about.get("License-Expression") or "", (about.get("License") or "").strip()
    listed = [line.split(" :: ", 1)[1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    if expression or (text and not (listed and (text == "UNKNOWN" or len(text) > _LONGEST_NAME))):
        names = [expression or text.splitlines()[0]]
    else:  # several do not say whether one may choose: each has to be allowed
        names = [line.removeprefix("OSI Approved :: ") for line in listed]
    return " AND ".join(_KNOWN.get(name.lower(), name) for name in names) or _NOT_SAID.get(about["Name"], "not said")


def refused(row: Row) -> str:
    """Return the part of a licence that is not allowed; "" where all is."""
    if row.licence == NVIDIA:
        return "" if re.match(r"nvidia-|cuda-", row.name) else NVIDIA
    for part in re.split(r" AND ", row.licence):
        choices = [choice.partition(" WITH ")[0].strip("() ") for choice in part.split(" OR ")]
        if not ALLOWED.intersection(choices):
            return part
    return ""


def rows() -> list[Row]:
    """List what is asked for by name, and what that asks for in turn, as far as it is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: dict[str, list[str]] = {"base": project["dependencies"], **project["optional-dependencies"]}
    listed = (ROOT / "examples" / "tracking.txt").read_text(encoding="utf-8").splitlines()
    groups["tracking.txt"] = [line for line in listed if line and not line.startswith("#")]
    reached: dict[str, tuple[Distribution, list[str]]] = {}
    for group, requirements in groups.items():
        for name, package in reach([one for one in requirements if not one.startswith("boxwright[")]).items():
            reached.setdefault(name, (package, []))[1].append(group)
    found: list[Row] = []
    for name, (package, names) in sorted(reached.items()):
        own = ("base",) if "base" in names else tuple(names)
        summary = " ".join((package.metadata.get("Summary") or "").split()).replace("|", "/")
        found.append(
            Row(
                name,
                package.version,
                licence_of(package),
                own,
                textwrap.shorten(summary, 80, placeholder=" …").rstrip("."),
            )
        )
    return found


def reach(requirements: list[str]) -> dict[str, Distribution]:
    """Follow requirements to all installed packages that they lead to, by name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        wanted = Requirement(text)
        try:
            package = distribution(wanted.name)
        except PackageNotFoundError:
            continue
        found[re.sub(r"[-_.]+", "-", wanted.name).lower()] = package
        waiting += _asked_by(package, wanted.extras)
    return found


def _asked_by(package: Distribution, extras: set[str]) -> Iterator[str]:
    for text in package.requires or []:
        asked = Requirement(text)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            asked.marker = None
            yield str(asked)


if __name__ == "__main__":
    table = rows()
    for row in table:
        if refused(row):
            sys.exit(f"{row.name} {row.version}: the licence {refused(row)!r} is not in the list of allowed ones")
    PAGE.write_text(_HEAD + "".join(f"{row}\n" for row in table), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(table)} packages")
