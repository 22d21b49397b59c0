"""Training on camera and radar: what a run leaves, exact resume, camera only and two stages, several processes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.verbs.train import train
from boxwright.cli.main import main
from boxwright.engine.run import resume
from boxwright.engine.stopping import FiniteWatch
from boxwright.settings.load import load
from boxwright.systems import training_of
from tests.integration.fusion_runs import VERSION, WORLD, tiny_settings, write_root
from tests.integration.small_runs import run
from tests.integration.test_resume import assert_same, assert_same_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("fahrten ünd mehr") / "nuscenes")


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """The run that nothing disturbed. Sums over more than one thread would have other bits than those of `run`."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return train(load(FusionConfig, settings_of(root, "whole")))
    finally:
        torch.set_num_threads(threads)


def settings_of(root: Path, name: str) -> dict[str, Any]:
    """Objects have a size from the start: without one, as an untrained network says, none would be kept."""
    start = root.parent / "start.pth"
    torch.save({"state_dict": {"dim.2.bias": torch.full((3,), 2.0)}}, start)
    more: dict[str, Any] = {"optim.ema_decay": 0.9, "save_epochs": [1], "noplots": False, "network.first_depth": 20.0}
    more["weights"] = str(start)
    return tiny_settings(root, root.parent / "runs", name=name, **more)


def test_what_a_run_leaves(whole: Path) -> None:
    with (whole / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"train/tot", "train/hm", "val/velocity", "metrics/NDS", "metrics/mAVE", "AP/overall", "AP/car"} <= set(
        rows[0]
    )
    assert {"Scores/trans_err", "Scores/NDS"} <= set(rows[0])
    summary = json.loads((whole / "metrics_summary.json").read_text(encoding="utf-8"))
    assert 0 <= summary["nd_score"] <= 1
    submission = json.loads((whole / "results_nuscenes_det_val.json").read_text(encoding="utf-8"))
    assert len(submission["results"]) == 2
    assert submission["meta"]["use_radar"]
    pictures = {path.relative_to(whole).as_posix() for path in whole.rglob("*.*g")}
    assert {"results.png", "train_batch0.jpg", "curves/PR_curves.png", "curves/TP_errors.png"} <= pictures
    assert "velocity error" in (whole / "report.html").read_text(encoding="utf-8")
    assert (whole / "weights" / "epoch1.pt").is_file()
    bias = torch.load(whole / "weights" / "last.pt", weights_only=True)["state_dict"]["dep_sec.6.bias"]
    assert 1 / bias.sigmoid().item() - 1 == pytest.approx(20.0, rel=0.02)  # three metres more take many more steps


def test_killed_and_told_to_stop(root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the first epoch, SIGKILL in the second: the same bits as undisturbed."""
    folder, note_loss = whole.parent / "told", FiniteWatch.note_loss

    def note_and_signal(self: FiniteWatch, items: torch.Tensor, step: int) -> None:
        note_loss(self, items, step)
        if step == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(FiniteWatch, "note_loss", note_and_signal)
            with pytest.raises(SystemExit, match="143"):
                train(load(FusionConfig, settings_of(root, "told")))
        killed = run({}, resume=folder, at_step=4)
        assert killed.returncode == -9, killed.stderr
        resume(folder, {}, training_of)
    finally:
        torch.set_num_threads(threads)
    assert_same_run(folder, whole)


def test_camera_only_then_radar_from_its_checkpoint(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"no_radar": True, "balance_classes": True, "version": ""}  # of which there is one
    first = train(load(FusionConfig, tiny_settings(root, tmp_path, epochs=1, **more)))
    assert f"version: {VERSION}\n" in (first / "config.yaml").read_text(encoding="utf-8")
    state = torch.load(first / "weights" / "best.pt", weights_only=True)["state_dict"]
    assert not any(key.startswith(("dep_sec", "rot_sec")) for key in state)
    summary = json.loads((first / "metrics_summary.json").read_text(encoding="utf-8"))
    assert not summary["meta"]["use_radar"]
    capsys.readouterr()
    weights = str(first / "weights" / "best.pt")
    settings = tiny_settings(root, tmp_path, epochs=1, weights=weights, freeze_backbone=True, noval=True)
    second = train(load(FusionConfig, settings))
    told = capsys.readouterr().out
    assert "416 of 446 entries taken (" in told
    own = told.partition("own start: ")[2].partition("\n")[0]  # its second heads, which are not there, do not fit
    assert {"dep_sec", "rot_sec"} <= set(own.partition(";")[0].split(", "))
    assert "are frozen" in told
    after = torch.load(second / "weights" / "last.pt", weights_only=True)["state_dict"]
    backbone = [key for key in state if key.startswith(("base.", "dla_up.", "ida_up.")) and "running" not in key]
    assert all(torch.equal(after[key], state[key]) for key in backbone if "num_batches" not in key)
    assert not torch.equal(after["hm.0.weight"], state["hm.0.weight"])


def test_two_processes(root: Path, tmp_path: Path) -> None:
    """One step with `--sync-bn`: batch norm sees the images of both, as one process sees them."""
    shared: dict[str, Any] = {"epochs": 1, "batch_size": 12, "sync_bn": True}
    done = run(tiny_settings(root, tmp_path, name="two", nproc=2, precision="fp32", **shared))
    assert done.returncode == 0, done.stderr
    one = train(load(FusionConfig, tiny_settings(root, tmp_path, name="one", precision="fp32", **shared)))
    assert (tmp_path / "two" / "metrics_summary.json").is_file()
    files = [folder / "weights" / "last.pt" for folder in (tmp_path / "two", one)]
    contents = [torch.load(file, weights_only=True) for file in files]
    ours, theirs = (content["state_dict"] for content in contents)
    for name in ("base.base_layer.1.running_mean", "base.base_layer.1.running_var", "base.level1.1.running_mean"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
    # The average is off by default: it is the network itself.
    averaged, own = ({k: v for k, v in contents[1][n].items() if "num_batches" not in k} for n in ("ema", "state_dict"))
    assert_same(averaged, own)


def test_val_measures_what_training_measured(root: Path, whole: Path, tmp_path: Path) -> None:
    best = str(whole / "weights" / "best.pt")
    settings: dict[str, Any] = {
        "model": "centerfusion-dla34",
        "version": VERSION,
        "workers": 0,
        "project": str(tmp_path),
    }
    found = bw.val(best, root, **settings, plots=1)
    first = json.loads((whole / "metrics_summary.json").read_text(encoding="utf-8"))
    assert found.metrics.nd_score == pytest.approx(first["nd_score"], abs=1e-12)
    submissions = [folder / "results_nuscenes_det_val.json" for folder in (whole, tmp_path / "exp")]
    boxes = [json.loads(path.read_text(encoding="utf-8"))["results"] for path in submissions]
    assert boxes[0].keys() == boxes[1].keys()
    for ours, theirs in ((boxes[0][token], boxes[1][token]) for token in boxes[0]):
        assert [box["detection_score"] for box in ours] == pytest.approx(
            [box["detection_score"] for box in theirs], abs=1e-5
        )
        assert len(ours) > 10
    none = bw.val(best, root, **settings, conf_thres=0.99, noplots=True)
    assert len(none.predictions) == 0
    few = bw.val(best, root, **settings, max_det=2, noplots=True)
    assert 0 < len(few.predictions) <= 2 * 12 < len(found.predictions)
    assert (tmp_path / "exp" / "plots" / "scene-9002" / "0001.png").is_file()
    again = bw.val(data=root, json_file=str(tmp_path / "exp" / "results_nuscenes_det_val.json"), **settings)
    assert again.metrics.nd_score == pytest.approx(first["nd_score"], abs=1e-6)
    flipped = bw.val(best, root, **settings, flip_test=True, noplots=True)
    assert len(flipped.predictions) > 0


def test_predict_draws_a_scene(root: Path, whole: Path, tmp_path: Path) -> None:
    best = str(whole / "weights" / "best.pt")
    words = ["predict", "--model", "centerfusion-dla34", "--weights", best, "--data", str(root), "--version", VERSION]
    words += ["--iou-thres", "0.01"]
    assert main([*words, "--scene", "scene-9002", "--project", str(tmp_path), "--save-json"]) == 0
    folder = tmp_path / "exp"
    assert sorted(path.name for path in folder.rglob("*.png")) == ["0001.png", "0002.png"]
    assert (folder / "scene-9002.mp4").stat().st_size > 1000
    files = folder / "results.json", whole / "results_nuscenes_det_val.json"
    ours, all_boxes = (sum(map(len, json.loads(file.read_text())["results"].values())) for file in files)
    assert 2 <= ours < all_boxes  # of boxes that overlap the best is left


def test_a_root_without_lidar_maps_some_sweeps_and_with_small_images_of_one_camera(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_root(tmp_path / "root")
    folder = root / VERSION
    tables = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("sample_data", "calibrated_sensor")}
    back = [record for record in tables["sample_data"] if "/CAM_BACK/" in record["filename"]]
    for record in back:
        picture = cv2.imread(str(root / record["filename"]))
        assert picture is not None
        assert cv2.imwrite(str(root / record["filename"]), picture[::2, ::2])
        record["width"], record["height"] = WORLD.width // 2, WORLD.height // 2
    tables["sample_data"] = [record for record in tables["sample_data"] if "LIDAR" not in record["filename"]]
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    (folder / "map.json").unlink()
    shutil.rmtree(root / "maps")
    shutil.rmtree(root / "samples" / "LIDAR_TOP")
    for sweep in sorted(root.glob("s*/RADAR_FRONT/*.pcd"))[::3]:
        sweep.unlink()
    assert main(["check", str(root)]) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"CAM_BACK, 4 images: the principal point .* not near the middle of images of 64 x 36 pixels", said
    )
    assert "problems: 3 missing radar sweep" in said
    words = ["--model", "centerfusion-dla34", "--weights", str(whole / "weights" / "best.pt"), "--data", str(root)]
    words += ["--version", VERSION, "--workers", "0", "--noplots", "--project", str(tmp_path)]
    assert main(["val", *words]) == 2
    assert "allow missing files (--allow-missing)" in capsys.readouterr().err
    cameras = {record["calibrated_sensor_token"] for record in back}
    for record in tables["calibrated_sensor"]:
        if record["token"] in cameras:
            record["camera_intrinsic"] = (np.diag([0.5, 0.5, 1]) @ record["camera_intrinsic"]).tolist()
    (folder / "calibrated_sensor.json").write_text(json.dumps(tables["calibrated_sensor"]))
    assert main(["val", *words, "--allow-missing"]) == 0
    told = capsys.readouterr()
    assert "val: 2 of 20 radar sweeps are missing and left out" in told.err
    assert "principal point" not in told.err
    assert len(json.loads((tmp_path / "exp" / "results_nuscenes_det_val.json").read_text())["results"]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imgsz": [60, 128]}, "--imgsz): should be a multiple of 32, got '60'"),
        ({"version": "v1.0-big"}, "v1.0-mini"),
        ({"batch_size": 500}, "500"),
        ({"train_split": "middle"}, "no split middle"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"data": ""}, "train needs --data"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    settings = tiny_settings(root, tmp_path, **changes)
    flags = [part for name, value in settings.items() for part in _flag(name, value)]
    assert main(["train", *flags]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name.replace('_', '-')}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name if '.' in name else name.replace('_', '-')}", *map(str, values)]
