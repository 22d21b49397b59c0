"""The Dockerfiles, as far as they can be read without Docker."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.contracts.test_files import ROOT

FILES = sorted((ROOT / "containers").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Read the instructions of a Dockerfile: name and rest."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = (line.strip() for line in text.splitlines())
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_dockerfile(path: Path) -> None:
    steps = instructions(path)
    names = [name for name, _ in steps]
    assert set(names) <= {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert names[0] == "FROM"
    assert names.count("FROM") == 1
    image = re.fullmatch(r"python:(\d\.\d+)-slim-\w+", steps[0][1])  # by a tag that says which
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert image is not None
    assert f"Programming Language :: Python :: {image[1]}" in project["classifiers"]
    user = dict(steps)["USER"]
    assert user.isdigit()
    assert int(user) > 0
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]
    copied = [source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / source).exists() for source in copied)
    (extras,) = (found[1].split(",") for _, rest in steps if (found := re.search(r'"\.\[(.+)\]"', rest)))
    assert set(extras) <= set(project["optional-dependencies"])
    needed = [project["readme"], "pyproject.toml", *project["license-files"]]
    assert all(any(fnmatch(file, f"{source}*") for source in copied) for file in needed), "the build reads these"


def test_there_is_one_for_each_flavour() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
