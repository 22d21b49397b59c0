"""What the verbs do with a CenterFusion file, of this tool or published, and with images of an own camera."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.centerfusion.detector import CenterFusionDetector
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.weights import open_trained
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.nuscenes.radar import RADAR_DTYPE, write_radar
from boxwright.settings.load import dump, load
from boxwright.yolo.weights import read_weights
from tests.unit.centerfusion.test_calibration import GOOD, PLACE, RADAR


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of this tool, and a published file of a camera alone."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = CenterFusion(CenterFusionSpec(width=0.125, head_conv=32))
    with torch.no_grad():
        model.hm[2].bias.fill_(1.0)  # type: ignore[union-attr]
        model.dim[2].bias.fill_(2.0)  # type: ignore[union-attr]
    config = load(FusionConfig, {"imgsz": [64, 96], "network.width": 0.125})
    content = {"model": {"family": "centerfusion", "spec": dict(model.spec)}, "state_dict": model.state_dict()}
    save_checkpoint(folder / "best.pt", content | {"config": dump(config), "epoch": 3})
    camera = CenterFusion(CenterFusionSpec(width=0.125, head_conv=32, radar=False))
    torch.save({"epoch": 60, "state_dict": camera.state_dict()}, folder / "e60.pth")
    return folder / "best.pt", folder / "e60.pth"


def said(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str]:
    """Run a verb; return its code and its last line."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, " ".join((err if code else out).split("\n")[-2:]).strip()


def test_info_says_what_a_file_is(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    own, published = files
    code, line = said(capsys, "info", "--model", "centerfusion-dla34", "--weights", own)
    assert code == 0
    assert "camera and radar, width 0.125, Boxwright checkpoint, after 3 epochs, trained at 64 x 96" in line
    assert "all 446 entries are loaded" in line
    assert (
        "camera only, width 0.125, published weights, after 60 epochs, run at 448 x 800"
        in said(capsys, "info", published)[1]
    )


def test_info_of_a_file_that_only_starts_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"base_layer.0.weight": torch.zeros(16, 3, 7, 7)}, tmp_path / "dla.pth")
    code, line = said(capsys, "info", tmp_path / "dla.pth")
    assert code == 0
    assert "a training would start with" in line
    torch.save({"state_dict": {"base.base_layer.0.weight": torch.zeros(2)}}, tmp_path / "dla.pth")
    assert said(capsys, "info", tmp_path / "dla.pth")[0] == 2


def test_a_published_file_reads_back_to_the_same_bits(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = files
    code, line = said(capsys, "convert", "weights", own, tmp_path / "out.pth")
    assert code == 0
    assert "a .pth holds no settings: whoever opens it takes the published ones, but this one has imgsz 64 96" in line
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(content) == {"epoch", "state_dict"}
    assert content["epoch"] == 3
    wanted = torch.load(own, weights_only=True)["state_dict"]
    assert list(content["state_dict"]) == list(wanted)
    again = bw.convert("weights", tmp_path / "out.pth", tmp_path / "back.pt", model="centerfusion-dla34")
    for state in (content["state_dict"], open_trained(str(again))[0].state_dict()):
        assert all(torch.equal(state[name], value) for name, value in wanted.items())


def test_what_weights_are_not_converted_to(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = files
    code, line = said(capsys, "convert", "weights", own, tmp_path / "out.safetensors")
    assert code == 2
    assert "CenterFusion is written as .pth (published layout) or .pt (Boxwright checkpoint)" in line
    assert said(capsys, "convert", "weights", own, own)[1].endswith("is the source itself; name another file")
    assert said(capsys, "convert", "weights", own)[1].endswith("only with --strip it may be IN itself")
    code, line = said(capsys, "convert", "weights", own, tmp_path / "out.pth", "--strip")
    assert (code, line.endswith("hold single precision; leave out --strip")) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_published_file_is_stripped(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published, small = files[1], tmp_path / "small.pt"
    assert said(capsys, "convert", "weights", published, small, "--strip")[0] == 0
    assert small.stat().st_size < 0.6 * published.stat().st_size


def test_other_doors_name_the_right_one(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    own, _ = files
    with pytest.raises(UserError, match=r"is a checkpoint of centerfusion: .* bw.load"):
        read_weights(own)
    code, line = said(capsys, "predict", "--weights", own, "--source", "x.jpg")
    assert code == 2
    assert "`boxwright predict --model centerfusion-dla34 --help`" in line
    assert "`boxwright val --model centerfusion-dla34 --help`" in said(capsys, "val", "--weights", own, "--sorce", 1)[1]


def test_load_opens_the_files_of_every_system(files: tuple[Path, Path]) -> None:
    for file in (*files, str(files[0])):
        detector = bw.load(file, device="cpu")
        assert isinstance(detector, CenterFusionDetector)
        assert detector.config.no_radar == (file == files[1])
    with pytest.raises(UserError, match=r"load of .*best.pt has no augment; it has device, half, no_radar, compat"):
        bw.load(files[0], augment=True)
    with pytest.raises(UserError, match="one network at a time"):
        bw.load(files)


def test_predict_on_images_and_a_video(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = files
    source = tmp_path / "in"
    (tmp_path / "radar").mkdir()
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (180, 320, 3), np.uint8)
    cv2.imwrite(str(source / "a.jpg"), pixels)
    video = cv2.VideoWriter(str(source / "b.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 180))
    for _ in range(2):
        video.write(pixels)
    video.release()
    points = np.zeros(1, RADAR_DTYPE)
    points["x"], points["ambig_state"] = 20, 3
    write_radar(tmp_path / "radar/a.pcd", points)
    (tmp_path / "calib.json").write_text(json.dumps(GOOD))
    words = ["predict", "--weights", own, "--source", source, "--calib", tmp_path / "calib.json", "--save-json"]
    words += ["--project", tmp_path / "runs", "--name", "x", "--conf-thres", 0.1, "--max-det", 5, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert "in 3 images; results are in" in out
    assert "2 radar files are not there" in err
    folder = tmp_path / "runs/x"
    assert sorted(file.name for file in folder.iterdir()) == ["a.jpg", "b.mp4", "detections.json"]
    assert cv2.imread(str(folder / "a.jpg")).shape == (360, 640 + 360, 3)
    rows = json.loads((folder / "detections.json").read_text())
    assert [(Path(row["image"]).name, row["frame"], row["width"]) for row in rows] == [
        ("a.jpg", None, 320),
        ("b.mp4", 1, 320),
        ("b.mp4", 2, 320),
    ]
    best = rows[0]["objects"][0]
    # From the camera, that looks to the left of the car, to the car: z forward is y left, y down is -z.
    right, down, forward = best["location"]
    height = best["dimensions"][0]
    np.testing.assert_allclose(best["center_ego"], (2 + right, forward, 1.5 - down + height / 2), atol=1e-3)
    turned = -best["rotation_y"]
    assert np.cos(best["yaw_ego"] - turned) == pytest.approx(1, abs=1e-4)
    found = bw.load_fusion(own).predict(
        source / "a.jpg", np.array(GOOD["intrinsics"]) * [[0.5], [0.5], [1]], None, conf_thres=0.1, max_det=5
    )
    assert best["score"] == pytest.approx(float(found.scores[0]), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "in"], "predict --source needs --calib, a json with the camera matrix"),
        (["--source", "in", "--calib", "c.json", "--scene", "a"], "leave out --scene"),
        (["--source", "none.jpg", "--calib", "c.json"], "nothing to predict on at none.jpg"),
        ([], "predict needs --data DIR or --source SOURCE"),
    ],
)
def test_mistakes_leave_no_run_folder(
    words: list[str],
    message: str,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("c.json").write_text(json.dumps({"intrinsics": GOOD["intrinsics"], "extrinsics": PLACE, "radar": []}))
    assert RADAR
    code, line = said(capsys, "predict", "--weights", files[0], *words)
    assert code == 2
    assert message in line
    assert not Path("runs").exists()
