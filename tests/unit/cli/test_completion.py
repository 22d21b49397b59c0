"""Tab completion, run by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from boxwright.cli.main import VERBS, main

TYPED = {
    "tr": {"train"},
    "completion ''": {"bash", "zsh"},
    "convert ''": {"weights", "data", "split", "nuscenes", "synthetic"},
    "train --prec": {"--precision"},
    "train --precision b": {"bf16"},
    "train --precision = b": {"bf16"},
    "train --precision =": {"auto", "fp32", "tf32", "bf16", "fp16"},
    "train --hyp scratch-l": {"scratch-low"},
    "train --frustum.w": {"--frustum.window_ratio"},  # of the other system
    "convert data --to ''": {"yolo", "coco", "voc", "shards"},
    "convert data --plo": set(),
    "train --data ''": set(),  # a file
}


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_what_bash_offers(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    ask = "\n".join(
        f'COMP_WORDS=(boxwright {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _boxwright; echo "${{COMPREPLY[@]}}"'
        for words in TYPED
    )
    done = subprocess.run(
        ["bash", "-c", f"{script('bash', capsys)}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    offered = [set(line.split()) for line in done.stdout.splitlines()]
    assert dict(zip(TYPED, offered, strict=True)) == TYPED


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_reads_its_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    text = script(shell, capsys)
    assert all(verb in text for verb in VERBS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", "-c", text], capture_output=True, check=False).stderr == b""


def test_other_shells_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "bash and zsh, not for fish" in capsys.readouterr().err
    assert main(["completion", "--help"]) == 0
    assert "usage: boxwright completion SHELL" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "boxwright completion bash" in capsys.readouterr().out
