"""From argv to a verb: exit codes, messages, and what is answered to a wrong word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import boxwright.cli.main as cli
from boxwright import __version__
from boxwright.errors import UserError


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"boxwright {__version__}\n"


def test_no_verb_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "says"),
    [("trian", "did you mean train?"), ("detect", "did you mean predict?"), ("zzz", "there are demo, train, val")],
)
def test_an_unknown_verb(capsys: pytest.CaptureFixture[str], typed: str, says: str) -> None:
    assert cli.main([typed]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_each_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: boxwright {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("no such file"), 2, "boxwright: no such file\n"),
        (KeyboardInterrupt(), 130, "boxwright: interrupted\n"),
    ],
)
def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def fail(verb: str, argv: object) -> int:
        raise error

    monkeypatch.setattr("boxwright.cli.main.run", fail)
    assert cli.main(["info", "yolov5n"]) == code
    assert capsys.readouterr().err == says


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(verb: str, argv: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("boxwright.cli.main.run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "yolov5n"])


def test_an_exit_of_the_engine_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(verb: str, argv: object) -> int:
        sys.exit(143)

    monkeypatch.setattr("boxwright.cli.main.run", stop)
    with pytest.raises(SystemExit) as caught:
        cli.main(["info", "yolov5n"])
    assert caught.value.code == 143


def test_the_module_runs_like_the_script() -> None:
    done = subprocess.run([sys.executable, "-m", "boxwright", "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("boxwright: there is no verb 'nope'")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["info", "--env"]])
def test_output_into_a_full_disk(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "boxwright", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "boxwright: cannot write the output: no space left on device\n"


def test_a_reader_that_is_gone() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "boxwright", "info", "--env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert said == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "memory ran out: take a smaller --batch-size or --imgsz"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "memory ran out"),
        (OSError(12, "Cannot allocate memory"), "memory ran out"),
        (OSError(36, "File name too long", "x" * 300), "xxx: file name too long"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["check", "x"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_an_error_of_ours_is_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(cli, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["check", "x"])
