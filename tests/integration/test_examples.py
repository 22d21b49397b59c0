"""The programs and the notebook in examples/: a server, tracking, own data."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import json
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.errors import UserError
from boxwright.yolo.result import Result, Speed
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import NETWORK

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    """Import a program of examples/."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pt, which finds something everywhere, and photo.jpg."""
    folder = tmp_path_factory.mktemp("server ü")
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8), (96, 64))
    cv2.imwrite(str(folder / "photo.jpg"), image)
    model = build_model(load_spec("yolov5n", 1), ["box"])
    for layer in model.head.m:
        layer.bias.data += 4
    save_checkpoint(folder / "best.pt", {"model": model.describe(), "state_dict": model.state_dict(), "ema": None})
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    pytest.importorskip("httpx2", reason="httpx2, which plays FastAPI's client, is not installed")
    from fastapi.testclient import TestClient

    with TestClient(example("rest_server").create_app(folder / "best.pt", max_bytes=50_000)) as client:
        yield client


def test_a_photo_is_answered_by_its_boxes(client: Any, folder: Path) -> None:
    answer = client.post("/detect?conf=0.4", content=(folder / "photo.jpg").read_bytes())
    assert answer.status_code == 200, answer.text
    expected = bw.load(folder / "best.pt")(folder / "photo.jpg", conf_thres=0.4)
    told = answer.json()
    assert (told["width"], told["height"]) == (96, 64)
    assert len(told["boxes"]) == len(expected) > 0
    assert told["boxes"][0]["name"] == "box"
    assert np.allclose([box["box"] for box in told["boxes"]], expected.boxes)
    assert np.allclose([box["score"] for box in told["boxes"]], expected.scores)


def test_requests_at_the_same_time_get_the_same_answer(client: Any, folder: Path) -> None:
    content = (folder / "photo.jpg").read_bytes()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/detect", content=content).json(), range(4)))
    assert all(answer == answers[0] for answer in answers)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 pixels a side."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"no image", 400, "the upload: cannot be read as an image"),
        (b"", 400, "the upload"),
        (bomb(), 400, "60000 x 60000 pixels"),
        (bytes(50_000), 400, "the upload: cannot be read as an image"),
        (bytes(50_001), 413, "the upload has more than 50000 bytes"),
    ],
)
def test_what_is_no_image_of_that_size_is_refused_in_one_sentence(
    client: Any, content: bytes, status: int, says: str
) -> None:
    answer = client.post("/detect", content=content)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert says in answer.json()["detail"]
    assert "upload.jpg" not in answer.text  # nothing of the server's folders


def test_a_threshold_out_of_range_is_refused(client: Any) -> None:
    assert client.post("/detect?conf=2", content=b"").status_code == 422


@pytest.mark.parametrize(("wait", "status"), [(0.0, 413), (0.01, 408)])
def test_an_upload_without_an_end_is_not_read_to_its_end(wait: float, status: int) -> None:
    fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed")

    class Endless:
        async def stream(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(wait)
                yield bytes(1000)

    with pytest.raises(fastapi.HTTPException) as refused:
        asyncio.run(example("rest_server").read_body(Endless(), 50_000, 0.1))
    assert refused.value.status_code == status


def test_one_request_too_many_is_refused_and_the_others_are_answered(folder: Path) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    app = example("rest_server").create_app(folder / "best.pt", at_once=1)
    content = (folder / "photo.jpg").read_bytes()
    scope = {"type": "http", "method": "POST", "path": "/detect", "query_string": b"", "headers": []}

    async def ask(begun: asyncio.Event, sent: asyncio.Event) -> int:
        async def receive() -> dict[str, Any]:
            begun.set()
            await sent.wait()
            return {"type": "http.request", "body": content}

        statuses: list[int] = []

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status", 0))

        await app(scope, receive, send)
        return statuses[0]

    async def talk() -> list[int]:
        begun, sent = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(ask(begun, sent))
        await begun.wait()
        answers = [await ask(asyncio.Event(), asyncio.Event())]  # one too many
        sent.set()
        return [*answers, await first, await ask(begun, sent)]

    assert asyncio.run(asyncio.wait_for(talk(), 60)) == [503, 200, 200]


def test_a_video_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("trackers", reason="trackers is not installed: pip install --no-deps -r examples/tracking.txt")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"broken\.mp4 cannot be opened as a video"):
        example("track_video").track(bw.load, tmp_path / "broken.mp4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_track_goes_on_through_the_video(tmp_path: Path) -> None:
    """Two squares that cross the picture, one of which is not seen for two frames."""
    pytest.importorskip("trackers", reason="trackers is not installed: pip install --no-deps -r examples/tracking.txt")
    video, size = tmp_path / "two squares.mp4", (160, 120)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for number in range(12):
        frame = np.zeros((120, 160, 3), np.uint8)
        frame[20:50, 10 + 5 * number : 40 + 5 * number] = 255
        frame[70:100, 120 - 5 * number : 150 - 5 * number] = 255
        writer.write(frame)
    writer.release()

    def detector(source: str, *, stream: bool) -> Iterator[Result]:
        assert stream
        capture = cv2.VideoCapture(source)
        for number in range(1, 13):
            _, frame = capture.read()
            _, _, stats, _ = cv2.connectedComponentsWithStats((frame[..., 0] > 128).astype(np.uint8))
            left, top, width, height = stats[1:, :4].astype(np.float32).T
            boxes = np.stack((left, top, left + width, top + height), axis=1)[: 1 if number in (6, 7) else None]
            labels = np.arange(len(boxes))
            scores = np.full(len(boxes), 0.9, np.float32)
            yield Result(
                boxes, scores, labels, ("a", "b"), video, (120, 160), (120, 160), Speed(0, 0, 0), number, frame
            )

    assert example("track_video").track(detector, video, tmp_path) == 2
    rows = list(csv.DictReader((tmp_path / "two squares_tracks.csv").open(encoding="utf-8")))
    frames = {name: [int(row["frame"]) for row in rows if row["name"] == name] for name in "ab"}
    assert frames["a"] == list(range(frames["a"][0], 13))
    assert frames["b"] == [number for number in range(frames["b"][0], 13) if number not in (6, 7)]
    assert frames["a"][0] <= 2
    assert len({(row["track"], row["name"]) for row in rows}) == 2
    capture = cv2.VideoCapture(str(tmp_path / "two squares_tracks.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert capture.get(cv2.CAP_PROP_FPS) == 10


def test_the_notebook_goes_from_photos_to_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "classes.txt").write_text("box\n")
    for number in range(10):
        image = random.integers(0, 80, (96, 128, 3), dtype=np.uint8)
        x, y = random.integers(0, 80), random.integers(0, 50)
        image[y : y + 40, x : x + 40] = 220
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.jpg"), image)
        row = f"0 {(x + 20) / 128:.5f} {(y + 20) / 96:.5f} {40 / 128:.5f} {40 / 96:.5f}\n"
        (tmp_path / "photos" / f"{number}.txt").write_text(row)
    text = (EXAMPLES / "own_data.ipynb").read_text(encoding="utf-8")
    assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])  # committed without them
    (tmp_path / "tiny.yaml").write_text(NETWORK)
    smaller = {"EPOCHS = 100": "EPOCHS = 1", "IMGSZ = 640": "IMGSZ = 64", 'model=\\"yolov5n': 'model=\\"tiny.yaml'}
    for written, small in smaller.items():
        assert text.count(written) == 1
        text = text.replace(written, small)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.reads(text, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert (tmp_path / "runs" / "train" / "mine" / "weights" / "best.onnx").is_file()
