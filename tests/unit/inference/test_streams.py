"""Streams from a server on the loopback: the newest frame, lost ones again, several at once, passwords kept."""

from __future__ import annotations

import http.server
import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.errors import UserError
from boxwright.inference import streams
from boxwright.inference.sources import open_source
from boxwright.inference.streams import Frame, read_streams
from tests.unit.inference.test_sources import make_video


class Server:
    """Answers at /live with an MJPEG stream whose n-th frame has the grey level n, and with files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.connections = folder, 0
        self.frames, self.pause = 30, 0.01  # of one connection, and seconds between two
        self.sent = 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                file = server.folder / self.path.strip("/").partition("?")[0]
                if self.path.startswith("/live"):
                    server.connections += 1
                    self.send_response(200)
                    self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                    self.end_headers()
                    self.send_frames()
                elif file.is_file():
                    self.send_response(200)
                    self.send_header("Content-Length", str(file.stat().st_size))
                    self.end_headers()
                    self.wfile.write(file.read_bytes())
                else:
                    self.send_error(404)

            def send_frames(self) -> None:
                try:
                    for i in range(server.frames):
                        data = cv2.imencode(".jpg", np.full((48, 64, 3), i, np.uint8))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        server.sent = i + 1
                        time.sleep(server.pause)
                except OSError:  # the reader has gone
                    pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stream ")]


def take(source: str, count: int, between: Callable[[], object] = lambda: None) -> list[Frame]:
    frames = open_source(source)
    taken: list[Frame] = []
    try:
        for frame in itertools.islice(frames, count):
            taken.append(frame)
            between()
    finally:
        frames.close()
    return taken


def test_a_slow_reader_gets_the_newest_frame(server: Server) -> None:
    server.frames = 200
    frames = take(f"{server.address}/live", 5, lambda: time.sleep(0.15))
    assert all(frame.number is not None and frame.seconds is not None for frame in frames)
    steps = np.diff([frame.number for frame in frames])
    assert (steps > 2).all()  # what came meanwhile is passed over
    shades = [int(np.median(frame.image)) + 1 for frame in frames]
    np.testing.assert_allclose(shades, [frame.number for frame in frames], atol=1)  # and is what its number says
    assert threads() == []


def test_a_lost_stream_is_connected_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.frames = 5
    with caplog.at_level(logging.WARNING):
        frames = take(f"{server.address}/live", 14)
    assert server.connections >= 3
    assert [frame.number for frame in frames] == sorted({frame.number for frame in frames})
    assert f"{server.address}/live is lost; connecting again" in caplog.text


def test_a_stream_that_does_not_come_back_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streams, "_ATTEMPTS", 2)
    monkeypatch.setattr(streams, "_LONGEST_PAUSE", 0.05)
    server.frames = 5
    frames = open_source(f"{server.address}/live")
    next(frames)
    server.close()
    with caplog.at_level(logging.WARNING):
        assert len(list(frames)) < 20
    assert "is given up" in caplog.text


def test_a_video_on_a_server_is_read_frame_by_frame(server: Server, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 7)
    address = f"{server.address}/clip.mp4"
    frames = take(address, 100, lambda: time.sleep(0.03))
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5, 6, 7]
    assert frames[-1].position == "stream 1/1, frame 7/7"
    assert frames[0].fps == pytest.approx(10)
    assert frames[0].path is not None
    assert frames[0].path.stem == f"{server.address.removeprefix('http://')}/clip.mp4".translate(
        dict.fromkeys(map(ord, ".:/"), "_")
    )
    local = list(open_source(tmp_path / "clip.mp4"))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, local, strict=True))
    assert [frame.number for frame in read_streams([address], stride=3)] == [3, 6]


@pytest.mark.parametrize("stride", [1, 3])
def test_an_image_on_a_server_is_one_image(server: Server, tmp_path: Path, stride: int) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30, 3), 90, np.uint8))
    (frame,) = read_streams([f"{server.address}/a.png?token=abc"], stride=stride)
    assert frame.number is None
    assert frame.image.shape == (20, 30, 3)
    assert str(frame.path).endswith("a.png")


def test_several_at_once(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_video(tmp_path / "clip.mp4", 5)
    server.frames = 100
    listing = tmp_path / "all.streams"
    addresses = [f"{server.address}/live?camera={i}" for i in (1, 2)] + [f"{server.address}/clip.mp4"]
    listing.write_text("# the yard\n" + "\n".join(addresses) + "\nrtsp://me:secret@127.0.0.1:9/gone\n")
    with caplog.at_level(logging.WARNING):
        frames = take(str(listing), 40)
    assert {frame.position.partition(",")[0] for frame in frames} == {f"stream {i}/4" for i in (1, 2, 3)}
    assert len({frame.path for frame in frames}) == 3  # each has a name of its own
    assert [frame.number for frame in frames if frame.position.startswith("stream 3")] == [1, 2, 3, 4, 5]
    assert "127.0.0.1:9/gone cannot be opened; connecting again" in caplog.text
    assert "secret" not in caplog.text


def test_addresses_in_a_text_list(tmp_path: Path) -> None:
    listing = tmp_path / "cams.txt"
    listing.write_text("rtsp://127.0.0.1:9/one\n\nrtsp://127.0.0.1:9/two\n")
    with pytest.raises(UserError, match=r"none of rtsp://127.0.0.1:9/one, rtsp://.*/two, of .*cams\.txt, can be open"):
        list(open_source(listing))
    listing.write_text("rtsp://127.0.0.1:9/one\nphoto.jpg\n")
    with pytest.raises(UserError, match=r"cams\.txt, line 2: photo\.jpg is no address"):
        open_source(listing)
    (tmp_path / "empty.streams").write_text("\n# nothing\n")
    with pytest.raises(UserError, match="lists no streams"):
        open_source(tmp_path / "empty.streams")


@pytest.mark.parametrize("address", ["rtsp://me:secret@127.0.0.1:9/live", "http://127.0.0.1:9/a.jpg"])
def test_nothing_listens(address: str) -> None:
    for source in (address, Path(address)):
        with pytest.raises(UserError, match=r"127\.0\.0\.1:9/.* cannot be opened as a stream") as error:
            list(open_source(source))
        assert "secret" not in str(error.value)
    assert threads() == []


def test_opencv_and_ffmpeg_say_nothing_beside_the_sentence() -> None:
    """In a process of its own: FFmpeg asks for its level once, when the first video is opened."""
    code = (
        "from boxwright.inference.sources import open_source\n"
        "try: next(open_source('http://127.0.0.1:9/a.jpg'))\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "cannot be opened as a stream" in done.stdout


def test_nothing_is_there(server: Server) -> None:
    with pytest.raises(UserError, match="cannot be opened as a stream"):
        list(open_source(f"{server.address}/none.jpg"))


def test_another_protocol() -> None:
    with pytest.raises(UserError, match=r"s3://bucket/a\.jpg: streams are opened by rtsp"):
        open_source("s3://bucket/a.jpg")
