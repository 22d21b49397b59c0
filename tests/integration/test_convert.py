"""`convert weights`: every way there and back gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.checkpoints.safetensors_file import is_safetensors, write_safetensors
from boxwright.cli.main import main
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.weights import load_model, read_weights
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import golden_cases


def convert(source: Path, target: Path, *argv: str) -> Path:
    assert main(["convert", "weights", str(source), str(target), *argv]) == 0
    return target


def assert_same(ours: DetectionModel, theirs: DetectionModel) -> None:
    left, right = ours.state_dict(), theirs.state_dict()
    assert list(left) == list(right)
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=0)
    assert ours.spec.to_mapping() == theirs.spec.to_mapping()
    assert (ours.names, ours.strides) == (theirs.names, theirs.strides)


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny"])
def test_random_networks_there_and_back(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    network = build_model(load_spec(name, 2), ["one ü", "two"])
    about = {"spec": network.spec.to_mapping(), "names": list(network.names), "strides": list(network.strides)}
    first = tmp_path / "first.pt"
    content = {"format": "boxwright", "version": 1, "model": about, "state_dict": network.state_dict(), "ema": None}
    torch.save(content, first)
    back = convert(convert(first, tmp_path / "x.safetensors"), tmp_path / "back.pt")
    assert_same(load_model(back), network)


@pytest.mark.parametrize("file", golden_cases("darknet", "*.weights"))
def test_darknet_there_and_back(tmp_path: Path, file: Path) -> None:
    native = convert(file, tmp_path / "a.pt", "--cfg", str(file.with_suffix(".cfg")))
    tensors = convert(native, tmp_path / "b.safetensors")
    again = convert(tensors, tmp_path / "c.weights")  # its cfg and names are written beside it
    body = file.read_bytes()[20:]
    assert again.read_bytes()[20:] == body
    assert_same(load_model(again), load_model(native))


def test_a_cfg_of_another_network_is_not_left_beside_new_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(load_spec("yolov3-tiny", 2))
    write_safetensors(tmp_path / "a.safetensors", model.state_dict(), about(model))
    argv = ["convert", "weights", str(tmp_path / "a.safetensors"), str(tmp_path / "b.weights")]
    assert main(argv) == 0
    assert main(argv) == 0  # the cfg of before is the right one
    cfg = tmp_path / "b.cfg"
    cfg.write_text(cfg.read_text().replace("classes=2", "classes=5").replace("filters=21", "filters=30"))
    before = (tmp_path / "b.weights").read_bytes()
    assert main(argv) == 2
    assert "is of another network" in capsys.readouterr().err
    assert (tmp_path / "b.weights").read_bytes() == before


def about(model: DetectionModel) -> dict[str, Any]:
    return {"spec": model.spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["gone.pt", "OUT/a.pt"], "no weights at gone.pt"),
        (["IN", "OUT/a.onnx"], "convert weights writes .pt (Boxwright checkpoint), .safetensors"),
        (["IN", "IN"], "is the source itself"),
        (["IN", "OUT/nowhere/a.pt"], "there is no folder"),
        (["IN", "OUT/a.weights"], "belongs to a Darknet cfg"),
        (["IN"], "convert weights needs OUT"),
    ],
)
def test_mistakes(tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = build_model(load_spec("yolov5n", 1))
    about = {"spec": network.spec.to_mapping(), "names": ["0"], "strides": list(network.strides)}
    content = {"format": "boxwright", "version": 1, "model": about, "state_dict": network.state_dict(), "ema": None}
    torch.save(content, tmp_path / "in.pt")
    words = [word.replace("IN", str(tmp_path / "in.pt")).replace("OUT", str(tmp_path)) for word in argv]
    words = argv if argv == ["IN"] else words
    assert main(["convert", "weights", *words]) == 2
    assert says in capsys.readouterr().err


def test_safetensors_that_are_not_ours(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from boxwright.errors import UserError

    file = tmp_path / "other.bin"
    save_file({"a": torch.zeros(2)}, str(file), {"made_by": "someone"})
    assert is_safetensors(file)
    with pytest.raises(UserError, match=r"without a description of a network by Boxwright .its metadata has made_by"):
        read_weights(file)
    good = file.read_bytes()
    for damage in (good[:-3], good[:12] + b"\xff" + good[13:]):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=r"damaged safetensors|without a description"):
            read_weights(file)
    for text in (b"", b"{}", b"\0" * 40, (10**6).to_bytes(8, "little") + b"{}"):
        file.write_bytes(text)
        assert not is_safetensors(file)
