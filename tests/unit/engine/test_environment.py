"""Versions, device and memory: a line at the start of a run, and all of it by `info --env`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from boxwright import __version__
from boxwright.cli.main import main
from boxwright.engine import environment
from boxwright.engine.environment import environment_line

CORES = os.cpu_count()


def test_a_line_of_versions_device_and_memory() -> None:
    line = environment_line("cpu")
    assert line.startswith(f"boxwright {__version__}, Python 3.")
    assert re.search(rf", torch {re.escape(torch.__version__)}, CPU .+ \({CORES} cores?\)", line)
    assert line.endswith(" GiB of memory free") or not Path("/proc/meminfo").exists()


def test_a_device_that_is_not_there_is_left_to_who_uses_it() -> None:
    assert ", CPU " in environment_line("cuda:99")
    assert ", CPU " in environment_line("no such thing")


def test_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class About:
        name, total_memory = "Some GPU", 80 << 30

    monkeypatch.setattr(environment, "select_device", lambda name: torch.device("cuda", int(name)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: About())
    both = "cuda:0 Some GPU (80 GiB) and cuda:1 Some GPU (80 GiB)"
    assert environment_line("0,1").endswith(both)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert environment_line("", processes=2).endswith(both)
    assert environment_line("1", processes=2).endswith(", cuda:1 Some GPU (80 GiB)")


def test_info_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--env"]) == 0
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"boxwright", "Python", "torch", "numpy", "CPU", "memory free"} < rows.keys()
    assert {"GPU", "GPU 0"} & rows.keys()
    assert rows["torch"] == torch.__version__


def test_info_env_beside_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "yolov3-tiny", "--env"]) == 0
    said = capsys.readouterr().out
    assert said.index("torch") < said.index("yolov3-tiny:")


@pytest.mark.parametrize(("rank", "count"), [("0", 1), ("1", 0)])
def test_a_run_begins_with_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: str, count: int
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").touch()
    (tmp_path / "photo.jpg").touch()
    assert main(["predict", "--weights", "w.pt", "--source", "photo.jpg", "--device", "cpu"]) == 2
    assert capsys.readouterr().out.count(", torch ") == count
