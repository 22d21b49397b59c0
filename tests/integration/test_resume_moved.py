"""A run goes on after its data was moved: `--resume RUN --data PLACE`, where the same images and classes lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import boxwright as bw
from boxwright.checkpoints.native import load_checkpoint, save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from tests.integration.small_runs import small_settings
from tests.unit.data.small_sets import write_image


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """A run of one epoch, and the data yaml where it lies by now."""
    settings = small_settings(tmp_path, epochs=1, noval=True)
    folder = bw.train(**settings)
    return folder, shutil.move(tmp_path / "data", tmp_path / "else where") / "data.yaml"


def test_it_goes_on_from_there(moved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, data = moved
    monkeypatch.chdir(tmp_path)
    train = ["train", "--resume", str(folder), "--epochs", "2", "--data", str(data.relative_to(tmp_path))]
    assert main(train) == 0
    last = torch.load(folder / "weights" / "last.pt", weights_only=True)
    assert (last["epoch"], last["config"]["data"]) == (2, str(data))
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"] == str(data)
    bw.train(resume=folder, epochs=3)  # it knows the place now


def test_the_error_says_how(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(moved[0]), "--epochs", "2"]) == 2
    assert f"if the data was moved: --resume '{moved[0]}' --data" in capsys.readouterr().err


def _add_an_image(data: Path) -> None:
    write_image(data.parent / "images" / "train" / "one more.jpg", seed=50)


def _rename_an_image(data: Path) -> None:
    first = min((data.parent / "images" / "train").iterdir())
    first.rename(first.with_name("other.jpg"))


def _rename_a_class(data: Path) -> None:
    data.write_text(data.read_text().replace("[a, b]", "[a, c]"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_add_an_image, "its train split has 7 images, not 6"),
        (_rename_an_image, "its train split has 6 images as well, but of other names or sizes"),
        (_rename_a_class, "the data has the classes a, c, the run was started with a, b"),
    ],
)
def test_other_data_is_refused(moved: tuple[Path, Path], change: Any, says: str) -> None:
    folder, data = moved
    change(data)
    before = (folder / "config.yaml").read_text()
    with pytest.raises(UserError, match=says):
        bw.train(resume=folder, data=data, epochs=2)
    assert (folder / "config.yaml").read_text() == before


def test_what_may_be_meant_is_said(moved: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Labels that were mended, images that came in at the old place, checkpoints that note no images."""
    folder, data = moved
    label = min((data.parent / "labels" / "train").iterdir())
    label.write_text("0 .5 .5 .4 .4\n")
    bw.train(resume=folder, data=data, epochs=2)
    assert "the labels of the train split changed since this run was started" in caplog.text
    _add_an_image(data)
    caplog.clear()
    bw.train(resume=folder, epochs=3)
    assert "7 images, not 6; what follows is not what the run would have been" in caplog.text
    last = folder / "weights" / "last.pt"
    content = load_checkpoint(last)
    del content["data"]
    save_checkpoint(last, content)
    caplog.clear()
    bw.train(resume=folder, data=shutil.move(data.parent, data.parent.with_name("third")) / "data.yaml", epochs=4)
    assert "only the classes were compared" in caplog.text
