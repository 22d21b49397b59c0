"""What goes wrong in training ends in one clear sentence, and what can go on goes on."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.data.letterbox import fit_imgsz
from boxwright.data.structures import Batch
from boxwright.engine.callbacks import Callback, Progress, StartReport
from boxwright.engine.stopping import FiniteWatch
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import train
from tests.integration.small_runs import write_world
from tests.unit.data.small_sets import write_image


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, network = write_world(tmp_path, num_images=6)
    return {
        "data": str(data),
        "model": str(network),
        "epochs": 1,
        "batch_size": 4,
        "imgsz": 64,
        "workers": 0,
        "device": "cpu",
        "noplots": True,
        "project": str(tmp_path / "runs"),
    }


def start(settings: dict[str, Any], **changes: Any) -> Path:
    return train(load(RunConfig, settings | changes))


def test_broken_images_and_labels_are_left_out(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = tmp_path / "data/images/train", tmp_path / "data/labels/train"
    cut = write_image(images / "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-200])
    (labels / "image 0.txt").write_text("0 .5 .5 .2 .2\nzero .5 .5 .2 .2\n")
    (labels / "image 1.txt").write_text("0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n")
    with caplog.at_level(logging.WARNING):
        folder = start(settings)
    assert (folder / "weights/last.pt").exists()
    assert "2 of 7 images left out" in caplog.text
    assert "1 of 10 boxes left out" in caplog.text


@pytest.mark.parametrize(("imgsz", "expected"), [(333, 352), (64, 64), (1, 64), (640, 640), (641, 672)])
def test_image_size_is_rounded_up(imgsz: int, expected: int) -> None:
    assert fit_imgsz(imgsz, 32, least=2) == expected


def test_batch_larger_than_the_data(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    folder = start(settings, batch_size=50, imgsz=33)
    assert "larger than the data set of 6 images" in caplog.text
    assert "using 64" in caplog.text
    assert len((folder / "results.csv").read_text().splitlines()) == 2


def test_empty_val_split(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data/empty").mkdir()
    yaml = Path(settings["data"])
    yaml.write_text("train: images/train\nval: empty\nnames: [a, b]\n")
    with pytest.raises(UserError, match=r"the val split of .* holds no image"):
        start(settings)
    assert not (tmp_path / "runs").exists()


def test_no_label_at_all(settings: dict[str, Any], tmp_path: Path) -> None:
    for file in (tmp_path / "data/labels/train").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="has no box at all"):
        start(settings)


def test_run_folder_that_cannot_be_written(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be"):
        start(settings, project=str(tmp_path / "file" / "runs"))


def test_full_disk_keeps_the_old_checkpoint(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.save, []

    def full_in_the_second_epoch(*args: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    monkeypatch.setattr(torch, "save", full_in_the_second_epoch)
    with pytest.raises(UserError, match="no space left on device"):
        start(settings, epochs=3)
    monkeypatch.setattr(torch, "save", real)
    weights = Path(settings["project"]) / "exp/weights"
    assert torch.load(weights / "last.pt", weights_only=True)["epoch"] == 1
    assert sorted(file.name for file in weights.iterdir()) == ["best.pt", "last.pt"]


def test_loss_that_is_not_finite_names_step_and_images(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    note_loss = FiniteWatch.note_loss

    def poisoned(self: FiniteWatch, items: Tensor, step: int) -> None:
        note_loss(self, items * float("nan") if step == 3 else items, step)

    monkeypatch.setattr(FiniteWatch, "note_loss", poisoned)
    with pytest.raises(UserError) as error:
        start(settings, epochs=3)
    assert "epoch 2, step 2" in str(error.value)
    assert "image " in str(error.value)
    weights = Path(settings["project"]) / "exp/weights"
    state = torch.load(weights / "last.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_weights_of_another_size(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    best = start(settings) / "weights/best.pt"
    network = Path(settings["model"])
    wider = tmp_path / "wider.yaml"
    wider.write_text(network.read_text().replace("width_multiple: 1.0", "width_multiple: 2.0"))
    start(settings, model=str(wider), weights=str(best))
    assert "of another size" in caplog.text
    assert "Transferred" in capsys.readouterr().out
    content = torch.load(best, weights_only=True)
    content["state_dict"] = {f"x.{key}": value for key, value in content["state_dict"].items()}
    save_checkpoint(tmp_path / "other.pt", content)
    with pytest.raises(UserError, match="none of its weights fits"):
        start(settings, weights=str(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": ""}, "needs --data"),
        ({"model": ""}, "needs --model"),
        ({"model": "yolov5q"}, "yolov5n"),
        ({"weights": "gone.pt"}, "gone.pt"),
        ({"device": "99"}, "device '99'"),
        ({"precision": "fp16"}, "needs a GPU"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        start(settings, **changes)
    assert not Path(settings["project"]).exists()


def test_resume_from_python_takes_no_other_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out imgsz"):
        bw.train(resume=tmp_path, workers=1, imgsz=64)
    with pytest.raises(UserError, match="there is no checkpoint"):  # data may be named: it may have moved
        bw.train("data.yaml", resume=tmp_path)


def test_resume_of_a_checkpoint_outside_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(UserError, match="does not lie in a run folder"):
        bw.train(resume=tmp_path / "last.pt")


def test_one_cell_is_too_little(settings: dict[str, Any]) -> None:
    """The last batch has one image, and of sides 32 to 96 for 64 the smallest is drawn before long."""
    with pytest.raises(UserError, match="a batch of one image of 32 pixels is one cell"):
        start(settings, batch_size=5, multi_scale=True, epochs=20, noval=True, patience=0)


def test_a_run_in_the_folder_of_another(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """One that ends before it has saved leaves no checkpoint of the run before, which --resume would take for its."""

    class Faulty(Callback):
        def on_train_batch_start(self, progress: Progress, batch: Batch) -> None:
            raise ValueError("stop")

    first = start(settings, name="same")
    config = load(RunConfig, settings | {"name": "same", "exist_ok": True, "seed": 5, "epochs": 3})
    with pytest.raises(UserError, match="go on with"):
        train(config, [Faulty()])
    assert "last.pt of an earlier run is removed" in caplog.text
    content = torch.load(first / "weights" / "last.pt", weights_only=True)
    assert (content["config"]["seed"], content["config"]["epochs"]) == (5, 3)
    assert not (first / "weights" / "best.pt").exists()


def test_a_mistake_before_the_first_step_leaves_no_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    class Faulty(Callback):
        def on_pretrain_routine_end(self, report: StartReport) -> None:
            raise ValueError("stop")

    with pytest.raises(UserError, match="on_pretrain_routine_end"):
        train(load(RunConfig, settings), [Faulty()])
    assert not list((tmp_path / "runs").iterdir())
    notes = tmp_path / "runs" / "exp" / "my notes.txt"
    notes.parent.mkdir()
    notes.touch()
    with pytest.raises(UserError, match="on_pretrain_routine_end"):
        train(load(RunConfig, settings | {"exist_ok": True}), [Faulty()])
    assert notes.exists()  # a folder that was there before stays


def test_image_weights_without_validation_are_told(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    start(settings, image_weights=True, noval=True)
    assert "goes by the number of labels alone" in caplog.text
