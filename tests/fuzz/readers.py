"""Every reader of files with a small good file of its kind, and how a run of one damaged input is judged."""

import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch

from boxwright.centerfusion.calibration import read_calibration
from boxwright.checkpoints.archive import read_archive
from boxwright.data.coco import read_coco
from boxwright.data.csv_boxes import read_csv, read_csv_names
from boxwright.data.data_yaml import read_darknet_data, read_data_yaml, read_names_file
from boxwright.data.folders import describe_folder
from boxwright.data.images import image_size, read_image
from boxwright.data.shards import read_shards
from boxwright.data.voc import VocSplit, read_voc, read_voc_names
from boxwright.data.yolo_txt import read_yolo
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
from boxwright.inference.sources import open_source
from boxwright.nuscenes.radar import read_radar
from boxwright.nuscenes.structures import RADAR_FIELDS
from boxwright.nuscenes.submission import read_submission
from boxwright.nuscenes.tables import whole_table
from boxwright.settings.load import read_yaml_settings
from boxwright.yolo.darknet import DarknetModel, write_darknet
from boxwright.yolo.export import YoloInfo
from boxwright.yolo.hyp import load_run as load_settings
from boxwright.yolo.run_yaml import read_run_yaml
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.weights import load_model
from boxwright.yolo.zoo import build_model, load_spec

LONGEST, MOST_MEMORY = 10.0, 1 << 30  # seconds, bytes that one input may take

YAML = "path: .\ntrain: images\nval: &v [images, 'b']\ntest: *v\nnc: 2\nnames: {0: a, 1: b}\ndownload: x\n"
HYP = "lr0: 0.01\nlrf: 0.1\nbox: 0.05\nanchor_t: 4.0\nmosaic: 1.0\nfl_gamma: 0\n"
CONFIG = "epochs: 3\noptim:\n  lr0: 0.1\n  milestones: [1, 2]\ndata: x\naugment: {hsv_h: 0.1}\ncache: ram\n"
RUN = "train_path: images\nval_path: images\nnames: [a, b]\nmodel: m.yaml\nimgsz: 64\nepochs: 2\ngpu_ids: -1\n"
MODEL = """nc: 2
depth_multiple: 0.33
width_multiple: 0.25
anchors:
  - [10,13, 16,30]
backbone: [[-1, 1, Conv, [16, 3, 8]], [-1, 3, C3, [16, False]], [-1, 1, nn.Upsample, [None, 2, nearest]]]
head: [[[-1, 0], 1, Detect, [nc, anchors]]]
""".replace("[[-1, 0], 1, Detect", "[[-1], 1, Detect")
CFG = """[net]
channels=3
width=64
height=64

[convolutional]
batch_normalize=1
filters=8
size=3
stride=8
pad=1
activation=leaky

[shortcut]
from=-1
activation=linear

[convolutional]
filters=14
size=1

[yolo]
mask=0,1
anchors=10,13, 16,30
classes=2
num=2
scale_x_y=1.05
"""
DATA = "classes=2\ntrain=a.txt\nvalid = a.txt # comment\nnames=x.names\nbackup=b\n"
XML = """<annotation><filename>i.png</filename><size><width>32</width><height>24</height></size>
<object><name>a</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>21</ymax></bndbox>
</object></annotation>"""
COCO = {
    "images": [{"id": 1, "file_name": "i.png", "width": 32, "height": 24}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 8, 9],
            "iscrowd": 0,
            "segmentation": [[1, 2, 9, 2, 5, 9]],
        }
    ],
    "categories": [{"id": 1, "name": "a", "supercategory": "none"}, {"id": 2, "name": "b"}],
}
CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\ni.png,32,24,a,1,2,20,21\ni.png,32,24,b,3,4,9,10\n"
KAGGLE = 'image_id,width,height,bbox\ni,32,24,"[1.0, 2.0, 8.0, 9.0]"\n'
LABELS = "0 .5 .5 .25 .25\n1 0.1 0.1 0.3 0.1 0.2 0.4\n"
INFO = {
    "family": "yolo",
    "names": ["a"],
    "strides": [8, 16],
    "input_size": [64, 64],
    "output": "rows",
    "imgsz": [64, 64],
}
TABLE = [{"token": "a" * 8, "translation": [1.0, 2.0, 3.0], "rotation": [1.0, 0, 0, 0], "timestamp": 15}]
BOX = {"sample_token": "s", "translation": [1, 2, 3], "size": [1, 2, 3], "rotation": [1, 0, 0, 0], "velocity": [0, 0]}
BOX |= {"detection_name": "car", "detection_score": 0.5, "attribute_name": ""}
PLACE = {"translation": [1, 0, 1.5], "rotation": [0.5, -0.5, 0.5, -0.5]}
CALIBRATION = {"intrinsics": [[400, 0, 320], [0, 400, 180], [0, 0, 1]], "image_size": [640, 360], "extrinsics": PLACE}
CALIBRATION |= {"radar": [{"extrinsics": PLACE, "files": "{name}.pcd"}]}
SUBMISSION = {"meta": {"use_camera": True}, "results": {"s": [BOX]}}


@dataclass(frozen=True)
class Reader:
    """A reader, the name that its files need, and good files."""

    name: str
    file: str
    good: tuple[bytes, ...]
    read: Callable[[Path], object]


def readers(folder: Path) -> list[Reader]:
    """Make the files that some readers need beside theirs, and all readers."""
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    (folder / "images").mkdir(exist_ok=True)
    picture = folder / "images" / "i.png"
    cv2.imwrite(str(picture), image)
    for name in ("a.txt", "x.names"):
        (folder / name).write_text("images/i.png\nb\n")
    labels = picture.parent.with_name("labels") / "i.txt"
    labels.parent.mkdir(exist_ok=True)
    info = lambda path: YoloInfo.from_json(path.read_bytes().decode(errors="replace"), path)  # noqa: E731

    def label(path: Path) -> object:
        path.replace(labels)
        with contextlib.suppress(UserError):
            describe_folder(folder / "set")
        index = read_yolo([picture], ["a", "b"])
        if not len(index):
            raise UserError(str(index.problems[0]))
        return index

    (folder / "set").mkdir(exist_ok=True)
    for link in ("images", "labels"):
        (folder / "set" / link).unlink(missing_ok=True)
        (folder / "set" / link).symlink_to(folder / link)

    def voc(path: Path) -> object:
        split = VocSplit([(picture, path)])
        return read_voc(split, ["a"]), read_voc_names(folder, [path])

    def pictures(path: Path) -> object:
        with contextlib.suppress(UserError):
            image_size(path)
        return read_image(path), read_image(path, 2)

    def table(path: Path) -> object:
        rows = whole_table(path.parent, path.stem)
        rows.numbers("translation", 3), rows.rotations("rotation"), rows.integers("timestamp"), rows.tokens()
        return rows

    text = lambda *texts: tuple(str(t).encode() for t in texts)  # noqa: E731
    coded = tuple(cv2.imencode(s, image)[1].tobytes() for s in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".pfm"))
    return [
        Reader("data yaml", "d.yaml", text(YAML), read_data_yaml),
        Reader("hyper-parameters", "h.yaml", text(HYP), lambda path: load_settings(RunConfig, hyp=str(path))),
        Reader("settings", "c.yaml", text(CONFIG), lambda path: load_settings(RunConfig, config=str(path))),
        Reader("yaml", "y.yaml", text(YAML, CONFIG), read_yaml_settings),
        Reader("run yaml", "r.yaml", text(RUN), lambda path: read_run_yaml(path).training()),
        Reader("model yaml", "m.yaml", text(MODEL), lambda path: build_model(load_spec(str(path)))),
        Reader("cfg", "m.cfg", text(CFG), lambda path: build_model(load_spec(str(path)))),
        Reader("Darknet data", "d.data", text(DATA), read_darknet_data),
        Reader("names", "n.names", text("a\nb\nc\n"), read_names_file),
        Reader("labels", "l.txt", text(LABELS), label),
        Reader(
            "list of sources",
            "s.txt",
            text("images/i.png\n\nimages/../images/i.png\n"),
            lambda p: list(open_source(p)),
        ),
        Reader("VOC xml", "v.xml", text(XML), voc),
        Reader("COCO json", "c.json", text(json.dumps(COCO)), lambda path: read_coco([path])),
        Reader("csv", "c.csv", text(CSV, KAGGLE), lambda path: read_csv([path], read_csv_names([path]))),
        Reader("images", "p.jpg", coded, pictures),
        Reader("tar shard", "t.tar", (_shard(picture.read_bytes()),), _read_shard),
        Reader("exported metadata", "e.json", text(json.dumps(INFO)), info),
        Reader("nuScenes table", "t.json", text(json.dumps(TABLE)), table),
        Reader("submission", "u.json", text(json.dumps(SUBMISSION)), lambda path: read_submission(path, ["s"])),
        Reader("radar", "r.pcd", (_sweep(),), read_radar),
        Reader("calibration", "c.json", text(json.dumps(CALIBRATION)), read_calibration),
        *_weights(folder),
    ]


def _shard(picture: bytes) -> bytes:
    """Make a tar shard of an image with its label, and a label alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("a.png", picture), ("a.txt", LABELS.encode()), ("ü.txt", b"")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _read_shard(path: Path) -> object:
    with contextlib.suppress(UserError):
        read_shards([path], ["a", "b"])
    # Once more with checksums that are right, which damage seldom leaves.
    content, file = path.read_bytes(), os.open(path, os.O_WRONLY)
    for at in range(0, len(content) - 511, 512):
        block = content[at : at + 512]
        if block[257:262] == b"ustar":
            os.pwrite(file, b"%06o\0 " % (256 + sum(block[:148] + block[156:])), at + 148)
    os.close(file)
    return read_shards([path], ["a", "b"])


def _sweep() -> bytes:
    """Make a radar sweep of two points."""
    count = len(RADAR_FIELDS)
    head = [f"FIELDS {' '.join(RADAR_FIELDS)}", "SIZE" + " 4" * count, "TYPE" + " F" * count, "COUNT" + " 1" * count]
    head += ["WIDTH 2", "HEIGHT 1", "POINTS 2", "DATA binary"]
    return "\n".join(["# .PCD", *head, ""]).encode() + np.ones((2, count), "<f4").tobytes()


def _weights(folder: Path) -> list[Reader]:
    """Make files of the weights of a small network, in every form that is read."""
    (folder / "good.yaml").write_text(MODEL)
    (folder / "w.cfg").write_text(CFG)
    network = build_model(load_spec(str(folder / "good.yaml")))
    darknet = build_model(load_spec(str(folder / "w.cfg")))
    assert isinstance(darknet, DarknetModel)
    write_darknet(folder / "good.weights", darknet)
    described, state = network.describe(), dict(network.state_dict())
    whole = {"format": "boxwright", "version": 1, "epoch": 1, "model": described, "state_dict": state, "ema": state}
    whole |= {"config": {"epochs": 3}, "engine": {"run": {"epoch": 1}, "optimizer": {}}}
    torch.save(whole, folder / "good.pt")
    torch.save(whole, folder / "old.pt", _use_new_zipfile_serialization=False)
    notes = {"format": "boxwright", "version": "1"} | {key: json.dumps(value) for key, value in described.items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, folder / "good.safetensors", notes)
    files = {kind: (folder / f"good.{kind}").read_bytes() for kind in ("pt", "safetensors", "weights")}
    both = (files["pt"], (folder / "old.pt").read_bytes())
    return [
        Reader("checkpoint", "w.pt", both, lambda path: load_model(path)),
        Reader("run to resume", "l.pt", both, load_run),
        Reader("pickle", "k.pt", both[1:], read_archive),
        Reader("safetensors", "w.safetensors", (files["safetensors"],), lambda path: load_model(path)),
        Reader("Darknet weights", "w.weights", (files["weights"],), lambda path: load_model(path)),
    ]


_NASTY = (
    *(b"\x00", b"\xff\xfe", b"\xe9", b"\xef\xbb\xbf", b"\x1b]0;x\x07", b"\r", b"\xe2\x80\xa8", b"\\ud800"),
    *(b"\xed\xa0\x80", b"9" * 20, b"9" * 5000, b"-1", b"0", b"1e999", b"-.inf", b".nan", b"NaN", b"Infinity"),
    *(b"2000000000", b"1.5", b"0x1F", b"2026-02-31", b"2026-01-01", b"1:30:00", b"null", b"~", b"true", b"''", b'"'),
    *(b"{", b"}", b"[", b"]", b",", b":", b"\n", b"[" * 3000, b"{a: " * 3000, b"<a>" * 3000, b"(" * 3000),
    *(b"- " * 3000, b"&a [*a]", b"&b {<<: *b}", b"*v", b"!!python/name:os.system", b"!!binary x", b"!!timestamp x"),
    *(b"!!set {a}", b"<!DOCTYPE a [<!ENTITY b 'c'>]>&b;", b"../" * 50, b"~nobody", b"/dev/zero", b"a" * 5000),
    *(b"cos\nsystem\n(S'touch hacked'\ntR.", b"\x80\x04\x95", b"=1+1", b"1e5", b"99999", b"nan", b"[[]]", b"{}"),
)


def mutated(good: bytes, draw: random.Random) -> bytes:
    """Damage a file at one place, or at up to four."""
    data = bytearray(good)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 200)))
        kind = draw.randrange(8)
        if kind == 0:
            data[at:to] = bytes(draw.randrange(256) for _ in range(to - at))
        elif kind == 1:
            del data[at:to]
        elif kind == 2:
            data[at:at] = data[at:to] * draw.choice((1, 2, 50))
        elif kind == 3:
            del data[at:]
        elif kind == 4 and at < to:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 5:
            data[at:at] = draw.choice(_NASTY)
        else:  # a word in place of another
            words = [i for i, byte in enumerate(data[:20_000]) if byte in b" ,:=>[\n"] or [0]
            start = draw.choice(words) + 1
            end = start
            while end < len(data) and data[end] not in b' ,:=<]}\n"' and end < start + 40:
                end += 1
            data[start:end] = draw.choice(_NASTY)
    return bytes(data)


class Hang(BaseException):
    """An input took too long."""


_watched: list[str] = []  # what was done that no reader may do; filled while a reader runs
_is_watching = False
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove")


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _is_watching:
        return
    if event in _FORBIDDEN:
        _watched.append(f"{event} {args[:1]}")
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        _watched.append(f"open {args[0]} to write")


@contextlib.contextmanager
def _guarded() -> Generator[None]:
    """Watch for executions and files written, and end what takes longer than `LONGEST`."""
    global _is_watching

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    _is_watching = True
    try:
        yield
    finally:
        _is_watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Found:
    """What a number of damaged inputs of one reader came to."""

    told: int = 0  # by one sentence
    read: int = 0
    slowest: float = 0.0  # seconds
    faults: list[str] = field(default_factory=list[str])  # tracebacks, hangs, executions, memory
    kinds: Counter[str] = field(default_factory=Counter[str])


def run(reader: Reader, folder: Path, count: int, seed: int = 0) -> Found:
    """Give a reader damaged inputs, the same ones for a seed."""
    if not getattr(sys, "_boxwright_watched", False):
        sys.addaudithook(_watch)
        sys._boxwright_watched = True  # type: ignore[attr-defined]  # a hook stays for ever
    found, path = Found(), folder / reader.file
    for i in range(count):
        draw = random.Random(f"{reader.name} {seed} {i}")
        path.write_bytes(mutated(draw.choice(reader.good), draw))
        memory, start = _peak(), time.perf_counter()
        fault = ""
        try:
            with _guarded():
                reader.read(path)
            found.read += 1
        except UserError as error:
            found.told += 1
            if not str(error) or "Traceback" in str(error):
                fault = "an error without a sentence"
        except Hang:
            fault = "hang"
        except Exception as error:
            fault = f"traceback: {type(error).__name__}: {str(error)[:200]}"
        found.slowest = max(found.slowest, time.perf_counter() - start)
        if _watched:
            fault = f"execution: {_watched[0]}"
            _watched.clear()
        if _peak() - memory > MOST_MEMORY:
            fault = f"memory: {(_peak() - memory) >> 20} MB"
        if fault:
            found.kinds[fault.partition(":")[0]] += 1
            found.faults.append(f"{reader.name}, input {i} of seed {seed}: {fault}")
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Run 5,000 inputs over all readers, or COUNT, from SEED on, and print figures; exit code 1 after a fault."""
    import logging
    from tempfile import TemporaryDirectory

    logging.disable()
    os.environ["BOXWRIGHT_MAX_PIXELS"] = "100000000"
    count = int(os.environ.get("COUNT", "5000"))
    seed = int(os.environ.get("SEED", "1"))
    with TemporaryDirectory() as above:
        folder = Path(above, "set")
        folder.mkdir()
        every = readers(folder)
        each, faults = -(-count // len(every)), 0
        print(f"{'reader':<20}{'inputs':>8}{'read':>8}{'told':>8}{'slowest s':>11}  faults")
        for reader in every:
            found = run(reader, folder, each, seed)
            faults += len(found.faults)
            print(
                f"{reader.name:<20}{each:>8}{found.read:>8}{found.told:>8}{found.slowest:>11.2f}  {dict(found.kinds)}"
            )
            for fault in found.faults[:5]:
                print(f"  {fault}")
        print(f"{each * len(every)} inputs, {faults} faults, {_peak() >> 20} MB at most")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
