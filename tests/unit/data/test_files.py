"""Files are there whole or not at all, and nothing else is touched; paths that people see are short."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.data.files import (
    Hidden,
    JsonList,
    absolute_path,
    append,
    found_below,
    not_drawn,
    picture_errors,
    remove_leftovers,
    whole_file,
    write_atomically,
)
from boxwright.errors import UserError


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


def kill_while_writing(path: Path) -> str:
    """Let a process die in the middle of a file; return the name of what it leaves."""
    code = (
        "import os, sys; from pathlib import Path; from boxwright.data.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as hidden: hidden.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    (left,) = (file.name for file in path.parent.iterdir() if file.name.startswith("."))
    return left


def test_the_next_save_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    left = kill_while_writing(tmp_path / "a.bin")
    assert left.startswith(".a.bin.")
    (tmp_path / ".old.pt.999999999.tmp").touch()  # as earlier versions named them
    (tmp_path / ".half.999999999-0123abcd.tmp").mkdir()
    theirs = {".mine.tmp", ".mine.20240101.tmp", f".b.pt.{os.getppid()}.tmp"}  # the last of a process that lives
    for name in theirs:
        (tmp_path / name).touch()
    with whole_file(tmp_path / "b.bin", sync=True) as hidden:
        hidden.write_bytes(b"whole")
        remove_leftovers(tmp_path)
        assert hidden.exists()  # our own is not taken for one
    assert {file.name for file in tmp_path.iterdir()} == {"b.bin", *theirs}


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from boxwright.data.files import Hidden\n"
        "hidden = Hidden(Path(sys.argv[1])); print(hidden.path.name, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        remove_leftovers(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == [name]
        other.kill()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_of_hidden_files_cannot_be_foreseen(tmp_path: Path) -> None:
    names = {Hidden(tmp_path / ("n" * 250)).path.name for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) <= 255 for name in names)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.json").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "out.json", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "out.json").read_text() == "new"
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"cannot write .*log: it is a link"):
        append(tmp_path / "log", "line\n")
    assert (tmp_path / "victim").read_text() == "precious"


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    append(log, "one\n")
    with log.open("a") as file:
        file.write("tor")
    append(log, "two\n")
    assert log.read_text() == "one\ntor\ntwo\n"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limit[1]))  # the line begins to be written, then the disk is full
    try:
        with pytest.raises(UserError, match=r"cannot write .*log: file too large"):
            append(log, "a long line\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert log.read_text() == "one\ntor\ntwo\n"


def test_an_unfinished_list_leaves_nothing(tmp_path: Path) -> None:
    rows = JsonList(tmp_path / "rows.json")
    rows.add({"a": 1})
    assert not (tmp_path / "rows.json").exists()
    rows.close()
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    not_drawn.clear()
    with picture_errors():
        write_atomically(tmp_path / "gone" / "a.png", b"")
    assert "a.png: no such file or directory; going on without it" in caplog.text
    assert len(not_drawn) == 1
    not_drawn.clear()


def test_a_file_that_lies_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for place in ("a/b/[x].cfg", "a/b/c/deep.cfg"):
        (tmp_path / place).touch()
    assert found_below("cfg/[x].cfg") == f"; there is {Path('a/b/[x].cfg')}"
    assert found_below("deep.cfg") == found_below("x.cfg") == found_below("") == ""
