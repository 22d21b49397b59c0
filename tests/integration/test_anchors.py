"""`boxwright anchors`, and training that begins with a check of the anchors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import boxwright as bw
from boxwright.cli.main import main
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
from boxwright.yolo import anchors as auto_anchor
from boxwright.yolo.anchors import anchors_of
from boxwright.yolo.verbs import train as train_job
from boxwright.yolo.weights import load_model
from tests.integration.small_runs import write_world
from tests.unit.data.small_sets import write_yolo

QUICK = ["--gen", "20", "--noplots"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 images of 64 x 48 pixels with wide boxes, two each."""
    return write_yolo(tmp_path / "set", {f"{i}": f"0 .5 .5 .9 .{i % 9 + 1}\n1 .5 .5 .5 .05\n" for i in range(20)})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(auto_anchor, "GENERATIONS", 20)


def test_what_it_says_and_writes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", str(data), "--imgsz", "320", "--gen", "20", "--seed", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"40 boxes of {data} at 320 pixels, side ratio up to 4"
    assert said[1].startswith("published: best possible recall 1.0000, 1.")
    assert said[2].startswith("found: best possible recall 1.0000, ")
    assert "anchors a box, fitness 0." in said[2]
    assert len(said) == 7
    folder = Path("runs/anchors/exp")
    levels = yaml.safe_load((folder / "anchors.yaml").read_text())["anchors"]
    assert [len(level) for level in levels] == [6, 6, 6]
    assert ",".join(f"{side:g}" for side in levels[0][:2]) in said[3]
    areas = np.prod(np.array(levels).reshape(-1, 2), axis=1)
    assert (np.diff(areas) >= 0).all()
    assert (folder / "anchors.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_anchors(data: Path) -> None:
    found = [bw.anchors(data, generations=20, seed=seed, noplots=True).anchors for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_the_threshold_decides_what_matches(data: Path) -> None:
    narrow, wide = (bw.anchors(data, anchor_t=thr, generations=0, noplots=True).current for thr in (1.5, 8.0))
    assert narrow is not None
    assert wide is not None
    assert narrow.recall < wide.recall


def test_number_and_model(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, network = write_world(Path("world"))
    assert [len(level) for level in bw.anchors(data, generations=0, num_anchors=6, noplots=True).anchors] == [4, 4, 4]
    assert [len(level) for level in bw.anchors(data, generations=0, num_anchors=5, noplots=True).anchors] == [10]
    tiny = bw.anchors(data, generations=0, model="yolov3-tiny", noplots=True)
    assert [len(level) for level in tiny.anchors] == [6, 6]
    network.write_text(network.read_text().replace("anchors: [[8", "anchors: 2 #"))
    asked = bw.anchors(data, generations=0, model=str(network), noplots=True)
    assert asked.current is None
    assert [len(level) for level in asked.anchors] == [4, 4, 4]
    assert f"{network}: has no anchors yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--n 0", "(--n): should be greater than or equal to 1, got '0'"),
        ("--n 10 --model yolov5n", "10 anchors cannot be spread over the 3 levels of the model; take 9 or 12"),
        ("--n 2 --model yolov5n6", "2 anchors cannot be spread over the 4 levels of the model; take 4"),
        ("--thr 1", "(--thr): should be greater than 1, got '1'"),
        ("--thr nan", "(--thr): should be a finite number, got 'nan'"),
        ("--gen -1", "(--gen): should be greater than or equal to 0, got '-1'"),
        ("--imgsz 0", "(--imgsz): should be greater than or equal to 1, got '0'"),
        (
            "--imgsz 100000000000000000000",
            "(--imgsz): should be less than or equal to 65536, got '100000000000000000000'",
        ),
        ("--thr 1e300", "(--thr): should be less than or equal to 1000, got '1e300'"),
        ("--n 10000", "(--n): should be less than or equal to 100, got '10000'"),
        ("--imgsz 2", "no label has a side of 2 pixels or more"),
        ("--model yolov5q", "no model 'yolov5q'"),
    ],
)
def test_mistakes(argv: str, says: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", str(data), *QUICK, *argv.split()]) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs").exists()


def test_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_yolo(tmp_path / "empty", {"a": "", "b": None})
    assert main(["anchors", str(empty), *QUICK]) == 2
    assert "has no box at all, so there is nothing to fit anchors to" in capsys.readouterr().err


def trained(data: Path, network: Path, **settings: object) -> Path:
    given = {"epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0, "device": "cpu", "noplots": True, **settings}
    return bw.train(data, model=str(network), **given)


def test_training_takes_better_anchors_and_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, network = write_world(tmp_path, num_images=8)
    network.write_text(network.read_text().replace("[8, 8, 16, 12, 12, 16]", "[1, 1, 1, 1, 1, 1]"))
    text = network.read_text().replace("[20, 20, 30, 24, 24, 30]", "[1, 2, 1, 2, 1, 2]")
    network.write_text(text.replace("[40, 40, 56, 44, 44, 56]", "[2, 2, 2, 2, 2, 2]"))
    folder = trained(data, network)
    assert "anchors: best possible recall 0.0000" in capsys.readouterr().out
    content = load_run(folder / "weights" / "last.pt")
    written = [side for level in content["model"]["spec"]["anchors"] for side in level]
    assert min(written) > 5
    model = load_model(folder / "weights" / "best.pt")
    np.testing.assert_allclose(anchors_of(model).ravel(), written, rtol=5e-4)  # in half precision
    train_job.resume(folder, {"epochs": 2})
    assert "anchors" not in capsys.readouterr().out  # a resumed run is not checked again
    assert load_run(folder / "weights" / "last.pt")["model"]["spec"]["anchors"] == content["model"]["spec"]["anchors"]

    kept = load_model(trained(data, network, noautoanchor=True) / "weights" / "best.pt")
    assert anchors_of(kept).max() == 2
    with pytest.raises(UserError, match="settings: anchors must list 3 levels"):
        trained(data, network, anchors=((8, 8), (16, 16)))


def test_anchors_by_number_or_from_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, network = write_world(tmp_path, num_images=8)
    network.write_text(network.read_text().replace("anchors: [[8", "anchors: 2 # [[8"))
    model = load_model(trained(data, network, nosave=True) / "weights" / "last.pt")
    assert model.anchors.shape == (3, 2, 2)
    assert "anchors: [[" in capsys.readouterr().out

    Path("hyp.yaml").write_text("anchors: 4.2\n")
    assert load_model(trained(data, network, hyp="hyp.yaml") / "weights" / "last.pt").anchors.shape == (3, 4, 2)

    report = bw.anchors(data, imgsz=64, num_anchors=9, generations=5, noplots=True)
    file = str(report.folder / "anchors.yaml")
    for taken in ({"config": file}, {"hyp": file}):
        model = load_model(trained(data, network, **taken) / "weights" / "last.pt")
        expected = [side for level in report.anchors for side in level]
        np.testing.assert_allclose(anchors_of(model).ravel(), expected, rtol=5e-4)  # in half precision


def test_number_with_noautoanchor(tmp_path: Path) -> None:
    data, network = write_world(tmp_path, num_images=4)
    with pytest.raises(UserError, match=r"`anchors: 3` asks for anchors .* --noautoanchor forbids"):
        trained(data, network, anchors=3, noautoanchor=True)
    assert not Path("runs").exists()


def test_anchors_by_setting_are_those_of_the_loss_and_the_weights_stay(tmp_path: Path) -> None:
    """With weights alone the network is theirs, but for the anchors that the settings name."""
    data, network = write_world(tmp_path, num_images=4)
    first = trained(data, network, noautoanchor=True)
    levels = ((9.0, 9.0, 12.0, 12.0, 14.0, 14.0), (20.0, 20.0, 24.0, 24.0, 28.0, 28.0), (30.0, 30.0) * 3)
    weights = first / "weights" / "last.pt"
    settings = {"epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0, "device": "cpu", "noplots": True}
    second = bw.train(data, weights=weights, anchors=levels, optim={"lr0": 1e-12, "warmup_bias_lr": 0}, **settings)
    model = load_model(second / "weights" / "last.pt")
    np.testing.assert_allclose(anchors_of(model), np.array(levels).reshape(-1, 2), rtol=1e-6)
    before, after = load_model(weights).state_dict(), model.state_dict()
    key = next(name for name in before if name.endswith("conv.weight"))
    assert math.isclose(float((before[key] - after[key]).abs().max()), 0, abs_tol=1e-4)
    assert not torch.equal(load_model(weights).anchors, model.anchors)
