"""`train --run` and `predict --run`: everything from one yaml, date folders, log.log, converted annotations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from boxwright.cli.main import main
from tests.integration.small_runs import NETWORK
from tests.unit.data.small_sets import voc_object, write_image, write_voc, write_yolo

DATE = re.compile(r"\d{4}-\d\d-\d\d")
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def write_voc_world(root: Path) -> Path:
    """A VOC root with two splits of two classes."""
    objects = {f"{i}": voc_object("ab"[i % 2], 5, 5, 30 + i, 40) for i in range(6)}
    voc = write_voc(root / "voc", objects, "train")
    write_voc(root / "voc", {f"v{i}": voc_object("ab"[i % 2], 5, 5, 30, 40) for i in range(2)}, "val")
    (root / "net.yaml").write_text(NETWORK)
    return voc


def run_yaml(root: Path, text: str) -> str:
    file = root / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


COMMON = "task_name: cells\nmodel: net.yaml\ngpu_ids: -1\nimgsz: 64\nbatch_size: 2\n"
FAST = ("--workers", "0", "--noplots", "--optim.warmup_epochs", "0")


def test_train_and_predict_from_one_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc_world(tmp_path)
    text = (
        COMMON + "train_path: voc/ImageSets/Main/train.txt\nval_path: voc\nconvertor_path: labels\n"
        "names: [b, a]\nepochs: 5\neval_interval: 2\n"
    )
    assert main(["train", "--run", run_yaml(tmp_path, text), *FAST]) == 0
    (day,) = (tmp_path / "work_dir" / "cells").iterdir()
    (folder,) = day.iterdir()
    assert DATE.fullmatch(day.name)
    assert DATE_TIME.fullmatch(folder.name)
    kept = {file.name for file in (folder / "weights").iterdir()}
    assert kept >= {"epoch_2.pt", "epoch_4.pt", "last.pt"}
    assert "epoch_3.pt" not in kept
    log = (folder / "log.log").read_text()
    assert "epoch 1/5 done  not validated" in log
    assert "epoch 2/5 done  precision" in log
    assert (tmp_path / "labels/labels/train/0.txt").read_text().startswith("1 ")  # "a" is class 1 of the names
    weights = torch.load(folder / "weights" / "epoch_4.pt", weights_only=True)
    assert weights["model"]["names"] == ["b", "a"]

    write_image(tmp_path / "pictures" / "one.jpg")
    text = (
        f"weights: {folder / 'weights' / 'last.pt'}\nsource: pictures\noutput_pos: found here\nimgsz: 64\ngpu_ids: -1\n"
    )
    capsys.readouterr()
    assert main(["predict", "--run", run_yaml(tmp_path, text), "--conf-thres", "0.9"]) == 0
    assert (tmp_path / "found here" / "one.jpg").is_file()
    log = (tmp_path / "found here" / "log.log").read_text()
    assert "image 1/1" in log
    machine, printed = capsys.readouterr().out.split("\n", 1)
    assert machine.startswith("boxwright ")
    assert log == printed


def test_coco_and_plain_labels(tmp_path: Path) -> None:
    write_voc_world(tmp_path)
    write_yolo(tmp_path / "yolo", {str(i): "0 .5 .5 .3 .4\n" for i in range(4)})
    write_image(tmp_path / "coco" / "one.jpg")
    content = {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [8, 8, 20, 20]}],
        "categories": [{"id": 3, "name": "b"}, {"id": 9, "name": "a"}],
    }
    (tmp_path / "coco" / "gt.json").write_text(json.dumps(content))
    text = COMMON + "train_path: yolo/images/train\nval_path: coco/gt.json\nnames: [a, b]\nepochs: 1\n"
    assert main(["train", "--run", run_yaml(tmp_path, text), *FAST]) == 0
    (folder,) = (tmp_path / "work_dir" / "cells").glob("*/*")
    data = (folder / "data.yaml").read_text()
    assert str(tmp_path / "yolo/images/train") in data
    assert (folder / "converted/labels/val/one.txt").read_text().startswith("1 ")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("train_path: voc\n", "run.yaml lacks val_path"),
        ("train_path: voc\nval_path: gone\n", "run.yaml:7: val_path names"),
        ("train_path: voc\nval_path: voc/ImageSets/Main/test.txt\n", "run.yaml:7: val_path names"),
        ("train_path: voc\nval_path: voc\nnames: [a, c]\n", "run.yaml:8: .* has no class 'c'; it has a, b"),
        ("train_path: pictures\nval_path: pictures\n", "run.yaml lacks names"),
        ("train_path: voc\nval_path: voc\ngpu_ids: '0,99'\n", "run.yaml:8, gpu_ids: device '.*' is not there"),
        ("train_path: voc\nval_path: voc\nepochs: 0\n", r"epochs \(.*run.yaml:8, epochs\)"),
        (
            "train_path: voc\nval_path: voc\ntask: x\n",
            "run.yaml:8: task is no key .*; did you mean task_name",
        ),
        ("train_path: broken.json\nval_path: voc\n", "run.yaml:6: train_path: .*broken.json:1: not valid json"),
    ],
)
def test_mistakes(tmp_path: Path, lines: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc_world(tmp_path)
    write_image(tmp_path / "pictures" / "one.jpg")
    (tmp_path / "broken.json").write_text("{")
    common = COMMON.replace("gpu_ids: -1\n", "# the gpu\n" if "gpu_ids" in lines else "gpu_ids: -1\n")
    assert main(["train", "--run", run_yaml(tmp_path, common + lines), *FAST]) == 2
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "work_dir").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train", "--run", "gone.yaml"], "cannot read gone.yaml: no such file"),
        (["train", "--run", "RUN", "--data", "d.yaml"], "--data does not go with --run"),
        (["train", "--run", "RUN", "--resume"], "--resume"),
        (["train", "--run", "RUN", "--config", "c.yaml"], "--config does not go with --run"),
        (["predict", "--run", "RUN", "--project", "x"], "--project does not go with --run"),
        (["predict", "--run", "RUN"], "lacks weights .*, source"),
        (["predict", "--run", "RUN", "--weights", "w.pt", "--source", "x"], "there is no checkpoint w.pt"),
    ],
)
def test_flags_beside_a_run(tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc_world(tmp_path)
    file = run_yaml(tmp_path, COMMON + "train_path: voc\nval_path: voc\n")
    assert main([file if word == "RUN" else word for word in argv]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "work_dir").exists()
