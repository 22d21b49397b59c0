"""exp, exp2, exp3 ... and folders that cannot be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine.run_folder import (
    drop_checkpoints,
    drop_if_not_begun,
    keep_best_alone,
    new_run_folder,
    only_run_in,
    with_checked_saving,
    with_stored_places,
)
from boxwright.errors import UserError
from boxwright.settings.base import TrainingConfig


def test_names_count_up(tmp_path: Path) -> None:
    project = tmp_path / "runs ü" / "train"
    names = [new_run_folder(project, "exp").name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    (project / "exp2").rmdir()
    assert new_run_folder(project, "exp").name == "exp2"  # a gap is filled
    assert new_run_folder(project, "exp", exist_ok=True).name == "exp"
    assert list((project / "exp").iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "exp").write_text("")
    assert new_run_folder(tmp_path, "exp").name == "exp2"
    with pytest.raises(UserError, match="a file of that name is there"):
        new_run_folder(tmp_path, "exp", exist_ok=True)
    with pytest.raises(UserError, match=r"cannot be written .*--project"):
        new_run_folder(tmp_path / "exp", "run")


def test_a_project_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may write anywhere, the refusal is played."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        UserError, match=r"cannot be written \(Permission denied\); choose another place with --project"
    ):
        new_run_folder(tmp_path, "exp")


HOLDER = """
import sys, time
import subprocess
import sys
from pathlib import Path
from typing import Any
from boxwright.engine.run_folder import only_run_in

with only_run_in(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(UserError, match=rf"process {holder.pid} on .* trains into run folder {tmp_path}: "):
            only_run_in(tmp_path).__enter__()
        holder.kill()  # it leaves its file behind, but no lock
    assert len(list(tmp_path.iterdir())) == 1
    with only_run_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_in_an_old_folder_does_not_go_on_with_the_old_one(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("last.pt", "best.pt", "epoch3.pt"):
        (weights / name).touch()
    drop_checkpoints(tmp_path)
    assert [path.name for path in weights.iterdir()] == ["epoch3.pt"]
    drop_checkpoints(tmp_path)


def test_a_folder_stays_once_training_has_begun(tmp_path: Path) -> None:
    for name, stays in (("config.yaml", False), ("log.log", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).touch()
        drop_if_not_begun(folder)
        assert folder.exists() is stays


def test_the_best_weights_alone_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("last.pt", "last.previous.pt"):
        (weights / name).touch()
    keep_best_alone(tmp_path)
    assert len(list(weights.iterdir())) == 2
    assert "no best weights" in caplog.text
    (weights / "best.pt").touch()
    keep_best_alone(tmp_path)
    assert [file.name for file in weights.iterdir()] == ["best.pt"]


def test_a_file_for_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_checked_saving(TrainingConfig(best_weight="new.pt")).best_weight == str(tmp_path / "new.pt")
    Path("old.pt").touch()
    Path("folder.pt").mkdir()
    assert with_checked_saving(TrainingConfig(best_weight="old.pt", exist_ok=True)).best_weight.endswith("old.pt")


def test_a_checkpoint_does_not_say_where_to_write_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come from someone else; what the user types leads anywhere."""
    folder, elsewhere = tmp_path / "runs" / "exp", str(tmp_path / "elsewhere" / "x.pt")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (elsewhere, "../elsewhere/x.pt"):
        with pytest.raises(UserError, match=r"last\.pt: best_weight .* lies neither .* give it again as --best-weight"):
            with_stored_places(TrainingConfig(best_weight=path), folder, {})
    for path, typed in ((elsewhere, {"best_weight": elsewhere}), (str(folder / "x.pt"), {}), ("x.pt", {}), ("", {})):
        kept = with_stored_places(TrainingConfig(best_weight=path), folder, typed).best_weight
        assert kept == (str(Path(path).absolute()) if path else "")
    with pytest.raises(UserError, match=r"ends in \.pt or \.pth"):
        with_stored_places(TrainingConfig(best_weight="setup.py"), folder, {})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"save_best_only": True, "save_period": 2}, "--save-best-only .* --save-period keeps other epochs"),
        ({"best_weight": "old.pt"}, "old.pt is there already"),
        ({"best_weight": "folder.pt", "exist_ok": True}, "folder.pt is there already"),
        ({"best_weight": "none/new.pt"}, "there is no folder .*none"),
        ({"best_weight": "new.onnx"}, r"ends in \.pt or \.pth"),
        ({"best_weight": "a\0b.pt"}, "has control characters"),
    ],
)
def test_saving_that_cannot_be(
    settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.pt").touch()
    Path("folder.pt").mkdir()
    with pytest.raises(UserError, match=says):
        with_checked_saving(TrainingConfig(**settings))
