"""`predict` on streams: videos of each side by side, stopped by Ctrl-C, and nothing gathered in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.yolo.detector import Detector, load
from boxwright.yolo.zoo import build_model, load_spec
from tests.unit.inference.test_sources import make_video
from tests.unit.inference.test_streams import Server, server

__all__ = ["server"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(load_spec("yolov5n", 2), ("a", "b"))
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    save_checkpoint(path, {"model": model.describe(), "state_dict": model.state_dict(), "ema": None})
    return path


def words(weights: Path, source: object, project: Path, *more: str) -> list[str]:
    settings = ["--img", "64", "--conf", "0", "--max-det", "2", "--device", "cpu", "--project", str(project)]
    return ["predict", "--weights", str(weights), "--source", str(source), *settings, *more]


def frames_in(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


def test_ctrl_c_ends_a_stream(server: Server, weights: Path, tmp_path: Path) -> None:
    server.frames, server.pause = 10_000, 0.02
    listing = tmp_path / "two.streams"
    listing.write_text("".join(f"{server.address}/live?camera={i}\n" for i in (1, 2)))
    # A test that runs in the background was started with Ctrl-C ignored, which processes inherit.
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from boxwright.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-u", "-c", start, *words(weights, listing, tmp_path / "runs", "--save-json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        seen = [line for line, _ in zip(process.stdout, range(10), strict=False)]
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert {line.partition(",")[0] for line in seen} >= {"stream 1/2", "stream 2/2"}
    assert "stopped" in said
    assert "Traceback" not in complaints
    folder = tmp_path / "runs" / "exp"
    videos = sorted(folder.glob("*.mp4"))
    assert len(videos) == 2
    assert all(frames_in(video) >= 3 for video in videos)
    rows = json.loads((folder / "predictions.json").read_text())
    assert len({row["file_name"] for row in rows}) == 2


def test_a_video_on_a_server(server: Server, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_video(tmp_path / "clip.mp4", 4)
    assert main(words(weights, f"{server.address}/clip.mp4", tmp_path / "runs", "--save-txt")) == 0
    assert "8 boxes in 4 images" in capsys.readouterr().out
    (video,) = (tmp_path / "runs" / "exp").glob("*.mp4")
    assert frames_in(video) == 4
    assert video.stem.startswith("127_0_0_1_")
    assert len(list((tmp_path / "runs" / "exp" / "labels").glob("*_4.txt"))) == 1


def test_an_image_on_a_server(server: Server, weights: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    assert main(words(weights, f"{server.address}/a.png", tmp_path / "runs")) == 0
    (image,) = (tmp_path / "runs" / "exp").iterdir()
    assert image.suffix == ".png"


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:9/live", "http://127.0.0.1:9/a.jpg"])
def test_nothing_listens(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert main(words(weights, source, tmp_path / "runs")) == 2
    assert f"{source} cannot be opened as a stream" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_weights_by_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(["predict", "--weights", "https://example.org/a.pt", "--source", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "https://example.org/a.pt" in said
    assert "nothing is downloaded" in said


def test_a_long_video_gathers_nothing(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "long.mp4", 20)
    living: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    run = Detector.run

    def counted(self: Detector, *args: Any, **more: Any) -> Any:
        nonlocal most
        most = max(most, len(living))
        result = run(self, *args, **more)
        living.add(result)
        return result

    monkeypatch.setattr(Detector, "run", counted)
    settings = ("--save-txt", "--save-json", "--label-studio", "--save-crop")
    assert main(words(weights, tmp_path / "long.mp4", tmp_path / "runs", *settings)) == 0
    assert most == 1  # the one before

    most = 0
    detector = load(weights, device="cpu")
    results = detector.predict(tmp_path / "long.mp4", imgsz=64, conf_thres=0.0, max_det=2, stream=True)
    numbers = [(result.number, len(result), result.image is not None) for result in results]
    assert numbers == [(i, 2, True) for i in range(1, 21)]
    assert most == 1

    most = 0
    gathered = detector.predict(tmp_path / "long.mp4", imgsz=64)
    assert len(gathered) == 20
    assert most == 19  # the measure can fail
    assert all(result.image is None for result in gathered)  # a list of results holds no frames
