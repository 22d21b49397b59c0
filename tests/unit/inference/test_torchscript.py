"""TorchScript archives of networks load with the same numbers; those that ask for anything else are refused."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from boxwright.errors import UserError
from boxwright.inference.torchscript import read_torchscript

BODY = "return torch.add(x, 1)"


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Wordy(nn.Module):
    """What scripted networks have: lists, loops, branches, optional values, texts with quotes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.MaxPool2d(2))
        self.names = ["a", "it's"]
        self.scales = [0.5, 0.1]
        self.list = nn.ModuleList([nn.SiLU(), nn.LeakyReLU(0.1)])
        self.register_buffer("anchors", torch.rand(4, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> list[Tensor]:
        x = self.layers(x)
        if bias is not None:
            x = x + bias
        if x.shape[1] != 4:
            raise ValueError('it\'s "wrong": {}'.format(x.shape[1]))  # noqa: UP032  # TorchScript has no f-strings
        found: list[Tensor] = []
        for i, layer in enumerate(self.list):
            found.append(layer(x)[:, :, ::2] * self.scales[i] + self.anchors)
        (total,) = (torch.cat([part.flatten() for part in found]).sum(),)
        found.append(total)
        return found


def save(module: nn.Module, path: Path, *, traced: bool = False) -> Path:
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.trace(module, torch.rand(1, 3, 8, 8)) if traced else torch.jit.script(module)
        torch.jit.save(script, str(path), _extra_files={"boxwright": b'{"names": []}'})
    return path


def load(archive: io.BytesIO) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return torch.jit.load(archive)


def rewritten(path: Path, body: str, more: dict[str, bytes] | None = None) -> Path:
    """Return the archive of `Plain` whose forward has another body, with further entries."""
    target = path.with_name("other.torchscript")
    with zipfile.ZipFile(save(Plain(), path, traced=True)) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for info in old.infolist():
            if info.filename.partition("/")[2] not in (more or {}):
                data = old.read(info)
                if info.filename.endswith(".py"):
                    head, _, _ = data.decode().partition("    _0")
                    head, _, _ = head.partition("    return")
                    data = f"{head}    {body}\n".encode()
                new.writestr(info.filename, data)
        for name, data in (more or {}).items():
            new.writestr(f"{root}/{name}", data)
    return target


@pytest.mark.parametrize("traced", [True, False])
def test_a_network_gives_the_same_numbers(tmp_path: Path, traced: bool) -> None:
    module = (Wordy().layers if traced else Wordy()).eval()
    path = save(module, tmp_path / "net.torchscript", traced=traced)
    archive, texts = read_torchscript(path, ("boxwright", "config.txt"))
    assert texts == {"boxwright": '{"names": []}', "config.txt": ""}
    images = torch.rand(2, 3, 20, 20)
    found, expected = load(archive)(images), module(images)
    if traced:
        found, expected = [found], [expected]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("return torch.from_file('x', True, 3)", "torch.from_file"),
        ("f = torch.from_file\n    return f('x', True, 3)", "torch.from_file"),
        ("return getattr(x, 'from_file')", "from_file"),
        ("return x.set_(x)", "set_"),
        ("return torch.as_strided(x, [9], [9999])", "torch.as_strided"),
        ("torch.save(x, 'x')\n    return x", "torch.save"),
        ("torch.manual_seed(1)\n    return x", "torch.manual_seed"),
        ("print(x)\n    return x", "print"),
        ("print(x)\n    print = x\n    return x", "a variable 'print'"),
        ("ｐrint(x)\n    return x", "print"),
        ("torch.warn('x')\n    return x", "torch.warn"),
        ("return ops.aten.from_file('x', True, 3)", "ops.aten.from_file"),
        ("return ops.profiler._record_function_enter('x')", "ops.profiler._record_function_enter"),
        ("f = ops\n    return x", "ops"),
        ("return ops.prim.PythonOp(x)", "ops.prim.PythonOp"),
        ("return fork(x)", "fork"),
        ("y = __torch__.torch.classes.profiling.X()\n    return x", "__torch__.torch.classes.profiling.X"),
        ("y = unchecked_cast(__torch__.Other, x)\n    return x", "unchecked_cast to __torch__.Other"),
        ("f = unchecked_cast\n    return x", "unchecked_cast"),
        ("torch = x\n    return torch", "a variable 'torch'"),
        ("while True:\n        pass\n    return x", "'while'"),
        ("import os\n    return x", "'import'"),
        ("f = lambda: x\n    return f()", "'lambda'"),
    ],
)
def test_what_no_network_needs_is_refused_by_name(tmp_path: Path, body: str, named: str) -> None:
    path = rewritten(tmp_path / "net.torchscript", body)
    with pytest.raises(UserError) as refused:
        read_torchscript(path, ())
    assert f"asks for {named}, which no network needs; nothing was executed" in str(refused.value)


def test_what_is_loaded_is_what_was_scanned(tmp_path: Path) -> None:
    """No comment, no text that stands alone, and no entry beside the network reaches PyTorch."""
    body = f"'text'\n    {BODY}  # type: (int) -> int"
    archive, _ = read_torchscript(rewritten(tmp_path / "net.torchscript", body, {"extra/x": b"x", "y": b"y"}), ())
    with zipfile.ZipFile(archive) as new:
        code = next(new.read(name).decode() for name in new.namelist() if name.endswith(".py"))
        assert not [name for name in new.namelist() if name.endswith(("/x", "/y"))]
    assert "text" not in code
    assert "#" not in code
    archive.seek(0)
    assert load(archive)(torch.ones(1)) == 2


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("executed",)


def test_a_pickle_inside_that_calls_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("data.pkl", "constants.pkl"):
        path = rewritten(tmp_path / "net.torchscript", BODY, {name: pickle.dumps(Evil(), 2)})
        with pytest.raises(UserError, match=r"asks for .*print"):
            read_torchscript(path, ())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["not zip", "no code", "twice", "bomb", "deep", "nul"])
def test_damaged_archives_are_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "net.torchscript"
    if change == "not zip":
        path.write_bytes(b"no zip")
    elif change == "no code":
        torch.save({"a": torch.ones(3)}, path)
    elif change == "bomb":
        path = rewritten(path, BODY)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/code/__torch__/x.py", b"#" * 10_000_000)
    elif change == "twice":
        path = rewritten(path, BODY)
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr(archive.namelist()[0], b"x")
    else:
        path = rewritten(path, {"deep": f"return {'-' * 5000}x", "nul": "return x\0"}[change])
    with pytest.raises(UserError, match="cannot be read as TorchScript"):
        read_torchscript(path, ())


def test_a_tensor_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    path = save(Wordy().eval(), tmp_path / "net.torchscript")
    cut = tmp_path / "cut.torchscript"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(cut, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info)[: 8 if info.filename.endswith("data/0") else None])
    with pytest.raises(UserError, match="storage data/0 has 8 bytes instead of"):
        read_torchscript(cut, ())
