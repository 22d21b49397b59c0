"""A hostile file is refused by name, and nothing of it runs."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from boxwright.checkpoints.archive import read_archive
from boxwright.errors import UserError
from boxwright.yolo.weights import read_weights

HARMLESS = b"\x80\x02}q\x00."


def archive(
    path: Path, data: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", data)
        for key, value in (storages or {}).items():
            file.writestr(f"archive/data/{key}", value)
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def calls(module: str, name: str, *args: str) -> bytes:
    """module.name(*args) as a protocol-2 call."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, args)) + b"tR"


def hostile(sentinel: Path) -> dict[str, tuple[bytes, str]]:
    """Name of the attack -> (pickle, what the message must name). Each would create the sentinel file if it ran."""
    touch = f"touch '{sentinel}'"
    code = f"open({str(sentinel)!r}, 'w').close()"
    start, stop = b"\x80\x02", b"."
    in_tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + calls("os", "system", touch)
        + text("0")
        + text("cpu")
    )
    return {
        "os.system": (start + calls("os", "system", touch) + stop, "os.system"),
        "posix.system": (start + calls("posix", "system", touch) + stop, "posix.system"),
        "subprocess": (start + calls("subprocess", "getoutput", touch) + stop, "subprocess.getoutput"),
        "eval": (start + calls("builtins", "eval", code) + stop, "builtins.eval"),
        "eval of python 2": (start + calls("__builtin__", "eval", code) + stop, "__builtin__.eval"),
        "exec": (start + calls("builtins", "exec", code) + stop, "builtins.exec"),
        "getattr chain": (
            start
            + b"cbuiltins\ngetattr\n("
            + b"cbuiltins\n__import__\n("
            + text("os")
            + b"tR"
            + text("system")
            + b"tR.",
            "builtins.getattr",
        ),
        "getattr of a module": (
            start
            + b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n("
            + text("os")
            + b"tR"
            + text("system")
            + b"tR.",
            "__builtin__.__import__",
        ),
        "getattr of a stand-in": (
            start + b"c__builtin__\ngetattr\n(cmodels.yolo\nModel\n)R" + text("__class__") + b"tR.",
            "__builtin__.getattr",
        ),
        "getattr of a name": (
            start + b"c__builtin__\ngetattr\n(cmodels.yolo\nModel\n" + text("forward_fuse") + b"tR.",
            "__builtin__.getattr",
        ),
        "torch.load": (start + calls("torch", "load", str(sentinel)) + stop, "torch.load"),
        "torch.hub": (start + calls("torch.hub", "load", "x", "y") + stop, "torch.hub.load"),
        "numpy.load": (start + calls("numpy", "load", str(sentinel)) + stop, "numpy.load"),
        "tensor method": (start + calls("torch", "Tensor.__setstate__") + stop, "torch.Tensor.__setstate__"),
        "in a key of a storage": (start + in_tensor + b"K\x01tQK\x00K\x01\x85K\x01\x85tR.", "os.system"),
        "text protocol": (f"cos\nsystem\n(S{touch!r}\ntR.".encode(), "os.system"),
        "INST": (f"(S{touch!r}\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (start + b"(cos\nsystem\n" + text(touch) + b"o.", "os.system"),
        "OBJ of a stand-in": (start + b"(cmodels.yolo\nModel\n" + text(touch) + b"o.", "OBJ"),
        "STACK_GLOBAL": (b"\x80\x04" + text("os") + text("system") + b"\x93(" + text(touch) + b"tR.", "os.system"),
        "EXT1": (start + b"\x82\x01(" + text(touch) + b"tR.", "EXT1"),
        "EXT4": (start + b"\x84\x01\x00\x00\x00.", "EXT4"),
        "NEWOBJ_EX": (b"\x80\x04cmodels.yolo\nModel\n)}\x92.", "NEWOBJ_EX"),
        "text persistent id": (b"Pstorage\n.", "PERSID"),
        "call of a stand-in's method": (start + b"cmodels.yolo\nModel\n)\x81)R.", "a call of a StandIn"),
        "call of a storage class": (start + b"ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        "state of a listed callable": (
            start + b"ctorch._utils\n_rebuild_parameter\nN}" + text("__code__") + text("x") + b"s\x86b.",
            "setting the state of a Name",
        ),
        "import through a list": (
            start + b"cmodels.yolo\nModel\n)\x81}" + text("a") + calls("os", "popen", touch) + b"sb.",
            "os.popen",
        ),
    }


@pytest.mark.parametrize("attack", list(hostile(Path("x"))))
def test_is_refused_by_name_and_not_executed(attack: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    data, named = hostile(sentinel)[attack]
    path = archive(tmp_path / "evil.pt", data)
    with pytest.raises(UserError, match="nothing was executed") as caught:
        read_weights(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert not sentinel.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """The same bytes do run in Python's own unpickler, so the test above can fail."""
    sentinel = tmp_path / "executed"
    pickle.loads(hostile(sentinel)["os.system"][0])
    assert sentinel.exists()


def test_hostile_file_of_before_torch_1_6(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    buffer = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, buffer, protocol=2)
    buffer.write(hostile(sentinel)["os.system"][0])
    path = tmp_path / "old.pt"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"os\.system"):
        read_weights(path)
    assert not sentinel.exists()


def storage(key: str, items: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", items)
        + b"tQ"
    )


def tensor(items: int, offset: int, size: int, stride: int) -> bytes:
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage("0", items)
    numbers = [b"J" + struct.pack("<i", n) for n in (offset, size, stride)]
    return head + numbers[0] + numbers[1] + b"\x85" + numbers[2] + b"\x85\x89}tR."


@pytest.mark.parametrize(
    ("items", "offset", "size", "stride"),
    [
        (4, 1, 4, 1),
        (4, 0, 5, 1),
        (4, 0, 2, 4),
        (4, -1, 2, 1),
        (4, 0, 2, -1),
        (4, 0, -2, 1),
        (4, 0, 2**30, 0),
        (9, 0, 4, 1),
    ],
)
def test_tensor_must_lie_in_its_storage(tmp_path: Path, items: int, offset: int, size: int, stride: int) -> None:
    path = archive(tmp_path / "a.pt", tensor(items, offset, size, stride), {"0": bytes(16)})
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_weights(path)


def test_good_tensor_is_read(tmp_path: Path) -> None:
    """The builder above makes valid files where the numbers are right."""
    path = archive(tmp_path / "a.pt", tensor(4, 1, 3, 1), {"0": torch.arange(4.0).numpy().tobytes()})
    with pytest.raises(UserError, match="holds no YOLOv5 network"):
        read_weights(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02K\x01e.",
        b"\x80\x02K\x01\x87.",
        b"\x80\x02}](K\x01esK\x01s.",
        b"\x80\x02" + b"X\xff\xff\xff\x7fabc.",
        b"\x80\x02" + storage("missing", 4) + b".",
        b"\x80\x02" + storage("0", 1 << 30) + b".",
        b"\x80\x02K\x01Q.",
        b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.",
        b"\x80\x04K\x01K\x02\x93.",
    ],
)
def test_damaged_pickle_gives_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = archive(tmp_path / "a.pt", data, {"0": bytes(16)})
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_weights(path)


def test_nested_tuples_as_a_key_do_not_take_for_ever(tmp_path: Path) -> None:
    doubling = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(100))
    path = archive(tmp_path / "a.pt", b"\x80\x02}(K\x01\x85q\x00" + doubling + b"K\x01u.")
    with pytest.raises(UserError, match="is used as a key"):
        read_weights(path)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(1 << 24, 0, 4, 1), {"0": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="claims more bytes than the file has"):
        read_weights(path)


def test_damaged_bytes_are_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(4, 0, 4, 1), {"0": b"abcdefghijklmnop"})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgX"))
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_weights(path)


def test_module_that_contains_itself(tmp_path: Path) -> None:
    """The memo lets a network be its own layer."""
    loop = b"cmodels.yolo\nDetect\n)\x81q\x01}(" + text("_modules") + b"}" + text("a") + b"h\x01sub"
    network = b"cmodels.yolo\nModel\n)\x81}" + text("_modules") + b"}" + text("m") + loop + b"ssb"
    path = archive(tmp_path / "a.pt", b"\x80\x02}" + text("model") + network + b"s.")
    with pytest.raises(UserError, match="contains itself"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100)), ("empty.pt", b""), ("text.pt", b"not a checkpoint\n")],
)
def test_other_files_are_no_checkpoints(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_weights(path)


def test_other_zip_files_and_missing_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_weights(tmp_path / "a.zip")
    with pytest.raises(UserError, match="no weights at"):
        read_weights(tmp_path / "missing.pt")
    with pytest.raises(UserError, match="holds no YOLOv5 network"):
        read_weights(archive(tmp_path / "plain.pt", HARMLESS))


@pytest.mark.parametrize(
    ("module", "name", "parts", "read"),
    [
        ("pathlib", "PosixPath", ("/", "a", "b.pt"), "/a/b.pt"),  # Python up to 3.12, and from 3.14 on
        ("pathlib._local", "PosixPath", ("a", "b.pt"), "a/b.pt"),  # Python 3.13
        ("pathlib._local", "WindowsPath", ("C:\\", "a", "b.pt"), "C:\\a\\b.pt"),
        ("pathlib", "PurePosixPath", ("a",), "a"),
        ("pathlib", "PureWindowsPath", ("a", "b"), "a\\b"),
    ],
)
def test_paths_of_any_python_and_system_are_text(
    tmp_path: Path, module: str, name: str, parts: tuple[str, ...], read: str
) -> None:
    path = archive(tmp_path / "a.pt", b"\x80\x02}" + text("weights") + calls(module, name, *parts) + b"s.")
    assert read_archive(path) == {"weights": read}


def shared_lists() -> object:
    """Nest sixty lists of which each has the one before twice: 2^60 values in a few hundred bytes."""
    value: object = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


def with_itself() -> object:
    value: dict[str, object] = {}
    value["a"] = [value]
    return value


def nested() -> object:
    value: object = ()
    for _ in range(500):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("make", "says"),
    [(shared_lists, "share others so often"), (with_itself, "contains itself"), (nested, "deeper than")],
)
def test_containers_that_stand_for_too_much_are_refused(tmp_path: Path, make: object, says: str) -> None:
    file = tmp_path / "a.pt"
    torch.save({"format": "boxwright", "model": {"names": make()}}, file)  # type: ignore[operator]
    for read in (read_archive, read_weights):
        with pytest.raises(UserError, match=says):
            read(file)


def test_shared_containers_of_a_reasonable_size_are_read(tmp_path: Path) -> None:
    names, file = ["a", "b"], tmp_path / "a.pt"
    torch.save({"x": names, "y": [names] * 50, "z": {"n": names}}, file)
    assert read_archive(file) == {"x": names, "y": [names] * 50, "z": {"n": names}}


def test_views_of_one_storage_do_not_multiply_it(tmp_path: Path) -> None:
    numbers, file = torch.zeros(300_000, dtype=torch.float16), tmp_path / "a.pt"
    torch.save({str(i): numbers[: len(numbers) - i] for i in range(100)}, file)
    with pytest.raises(UserError, match="the same numbers again and again"):
        read_archive(file)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pt", b"\n<!DOCTYPE html><html>", r"a\.pt is not a readable checkpoint: it is a web page"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        ("a.pt", b"[net]\nwidth=416\n", "it is no file of torch.save"),
        ("a.cfg", b"[net]\nwidth=416\n", r"a\.cfg describes a network and holds no weights: --cfg takes it"),
    ],
)
def test_what_is_given_in_place_of_weights_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_archive(tmp_path / name)


def test_a_claim_of_bytes_that_are_not_there_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"\x80\x02\x8d" + (1 << 40).to_bytes(8, "little") + b"x.")  # a text of a terabyte
    with pytest.raises(UserError, match=r"a\.pt is not a readable checkpoint"):
        read_archive(file)
