"""Paths that people see are short, and still of the same file."""

from pathlib import Path

import pytest

from boxwright.data.files import absolute_path


def test_a_path_is_written_without_detours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "data.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert absolute_path("../here/../there/./data.yaml") == tmp_path / "there" / "data.yaml"
    assert absolute_path("../nowhere/x.yaml") == tmp_path / "here" / "../nowhere/x.yaml"


def test_the_parent_of_a_link_is_another_folder(tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "data.yaml").touch()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    path = tmp_path / "link" / ".." / "data.yaml"
    assert absolute_path(path) == path
    assert absolute_path(path).is_file()
