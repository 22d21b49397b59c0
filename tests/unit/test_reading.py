"""The door of readers: what is no file, what stands for more than it holds, and how an error of a parser is told."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from xml.parsers import expat

import pytest
import torch

from boxwright.errors import UserError, is_out_of_memory, missing_operator
from boxwright.reading import load_yaml, parsing, read_bytes, read_text, reads

CHAIN = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
MERGED = "\n".join(f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}], k{i}: 1}}" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"a0: &a0 [x, x]\n{CHAIN}", r"x\.yaml:1\d: not valid yaml: its aliases stand for more values"),
        (f"b0: &b0 {{k: 1}}\n{MERGED}", "aliases stand for more values"),
        ("a: &a {b: *a}", r"x\.yaml:1: not valid yaml: a value contains itself"),
        ("a: &a [1, [*a]]", "contains itself"),
        ("[" * 1000, "nested deeper than 50 levels"),
        ("\n".join(f"{' ' * i}a:" for i in range(100)), "nested deeper than 50"),
        ("a: !!python/object/apply:os.system [ls]", r"x\.yaml:1: not valid yaml: could not determine a constructor"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a: \x00", "special characters are not allowed"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: [", "not valid yaml"),
        ("# " + "x" * (5 << 20), "at most"),
    ],
)
def test_a_yaml_that_stands_for_too_much_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_yaml(text, "x.yaml")


def test_aliases_and_merges_of_a_reasonable_size_are_read() -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, z: 3}\nc: [*a, *a]"
    a = {"x": 1, "y": [1, 2]}
    assert load_yaml(text, "x.yaml") == {"a": a, "b": a | {"z": 3}, "c": [a, a]}
    assert load_yaml("", "x.yaml") is None


def test_dates_and_endless_numbers_stay_text() -> None:
    digits = "9" * 10_000
    found = load_yaml(f"[2026-02-31, 2026-01-01 10:00:00, {digits}, 12, 0x1F, 1e999]", "x.yaml")
    assert found[:5] == ["2026-02-31", "2026-01-01 10:00:00", digits, 12, 31]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        socket.socket(socket.AF_UNIX).bind("x")
    with pytest.raises(UserError, match="cannot read"):
        read_bytes(path)


def test_a_file_larger_than_its_kind_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: a terabyte of zeros
    with pytest.raises(UserError, match="at most 1,000"):
        read_bytes(file, 1000)
    assert read_bytes(file, first=3) == bytes(3)


def test_text_is_utf8_and_its_lines_end_in_one_way(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(file) == "a\nb\nc\n"
    file.write_bytes(b"a\nb\xe9\n")
    with pytest.raises(UserError, match=r"cannot read .*x\.txt: not UTF-8 text \(byte 0xe9 in line 2\)"):
        read_text(file)
    for encoding in ("utf-16-le", "utf-16-be"):  # as Windows writes it, with a mark
        file.write_bytes("\ufeffä\r\n".encode(encoding))
        assert read_text(file) == "ä\n"


def _expat() -> None:
    expat.ParserCreate().Parse("<a>\n<b></a>", True)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: json.loads('{\n"a": 1,,}'), r"^x:2: not valid json: Expecting"),
        (lambda: json.loads("9" * 5000), "^x: not valid json: a number has too many digits"),
        (lambda: json.loads("[" * 100_000), "^x: not valid json: it is nested too deeply"),
        (_expat, "^x:2: not valid json: mismatched tag"),
        (lambda: {}["a"], "^x: not valid json: it lacks 'a'"),
        (lambda: os.stat("a\0b"), "^x: not valid json: embedded null"),
        (lambda: int("1\n2"), "^x: not valid json: invalid literal"),
        (lambda: 1 // 0, "^x: not valid json: integer division"),
        (lambda: os.stat("x" * 5000), "^cannot read x: file name too long"),
    ],
)  # fmt: skip
def test_any_error_of_a_parser_is_one_sentence(act: object, says: str) -> None:
    with pytest.raises(UserError, match=says) as told:
        reads("json")(lambda file: act())("x")  # type: ignore[operator]
    assert "\n" not in str(told.value)


def test_memory_that_ran_out_is_no_mistake_of_the_file() -> None:
    def hungry() -> None:
        try:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        except RuntimeError as error:
            raise ValueError("later") from error

    with pytest.raises(ValueError, match="later"), parsing("x"):
        hungry()
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert is_out_of_memory(RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"))
    assert not is_out_of_memory(RuntimeError("something else"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))


def test_an_operator_that_a_device_lacks_is_named() -> None:
    of_mac = (
        "The operator 'aten::_embedding_bag' is not currently implemented for the MPS device. If you want this op ..."
    )
    assert missing_operator(NotImplementedError(of_mac)) == (
        "PyTorch has no operator aten::_embedding_bag for MPS: give --device cpu, or set "
        "PYTORCH_ENABLE_MPS_FALLBACK=1, so that the CPU computes this one"
    )
    cpu_only = "Could not run 'torchvision::nms' with arguments from the 'CUDA' backend. This could be because ..."
    assert "torchvision was built without CUDA" in missing_operator(NotImplementedError(cpu_only))
    assert missing_operator(RuntimeError(of_mac)) == missing_operator(NotImplementedError("later")) == ""
    with pytest.raises(NotImplementedError) as real:  # as this PyTorch says it
        torch.empty(2, device="vulkan")
    assert (
        missing_operator(real.value)
        == "PyTorch has no operator aten::empty.memory_format for Vulkan: give --device cpu"
    )
