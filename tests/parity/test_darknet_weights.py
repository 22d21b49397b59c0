"""Darknet `.weights` files against the recorded one, and bad files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.darknet import DarknetModel, is_darknet, read_darknet, write_darknet
from boxwright.yolo.darknet_cfg import read_cfg
from boxwright.yolo.weights import load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import golden_cases, read_case

CASES = golden_cases("darknet", "*.weights")


def load_case(file: Path) -> DarknetModel:
    model = load_model(file)
    assert isinstance(model, DarknetModel)
    return model


@pytest.mark.parametrize("file", CASES)
def test_numbers_go_where_they_were_recorded(file: Path) -> None:
    arrays, _ = read_case(file)
    state = load_case(file).state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value.numpy(), arrays[f"state|{key}"], err_msg=key)


@pytest.mark.parametrize("file", CASES)
def test_outputs(file: Path) -> None:
    arrays, _ = read_case(file)
    model = load_case(file)
    with torch.no_grad():
        raw = model(torch.from_numpy(arrays["input"]))
    for i, maps in enumerate(raw):
        np.testing.assert_allclose(maps.numpy(), arrays[f"raw{i}"], rtol=1e-4, atol=5e-4)
    np.testing.assert_allclose(model.decode(raw).numpy(), arrays["decoded"], rtol=5e-4, atol=1e-2)


@pytest.mark.parametrize("file", CASES)
def test_written_file_has_the_same_bytes(file: Path, tmp_path: Path) -> None:
    write_darknet(tmp_path / "again.weights", load_case(file))
    written, recorded = (tmp_path / "again.weights").read_bytes(), file.read_bytes()
    facts = [value for _, _, value in json.loads(file.with_suffix(".json").read_text())["header"]["fields"]]
    assert header(*facts) == recorded[:20]
    assert written == header(0, 2, 5, 0) + recorded[20:]


def header(major: int, minor: int, revision: int, seen: int, count: str = "<i8") -> bytes:
    return np.array([major, minor, revision], "<i4").tobytes() + np.array([seen], count).tobytes()


@pytest.mark.parametrize(
    "begin", [header(0, 1, 0, 77, "<i4"), header(0, 2, 0, 2**40), header(1, 0, 0, 3)], ids=["0.1", "0.2", "1.0"]
)
@pytest.mark.parametrize("file", CASES)
def test_header_versions(file: Path, begin: bytes, tmp_path: Path) -> None:
    model = load_case(file)
    (tmp_path / "other.weights").write_bytes(begin + file.read_bytes()[20:])
    read = read_darknet(tmp_path / "other.weights", model.spec)
    assert read.state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in read.state_dict.items())


@pytest.mark.parametrize("file", CASES)
def test_cut_off_backbone_starts_a_training_but_is_no_model(file: Path, tmp_path: Path) -> None:
    state = load_case(file).state_dict()
    counted = [value for key, value in state.items() if int(key.split(".")[1]) < 7 and "num_batches" not in key]
    cut = tmp_path / "backbone.conv.7"
    cut.write_bytes(file.read_bytes()[: 20 + 4 * sum(value.numel() for value in counted)])
    cfg = str(file.with_suffix(".cfg"))
    weights = read_weights(cut, cfg)
    assert {key.split(".")[1] for key in weights.state_dict} == {"0", "1", "2", "3", "4", "6"}
    model = build_model(load_spec(cfg, 5))
    done, total = transfer(model, weights)
    assert 0 < done < total
    with pytest.raises(UserError, match=r"too short: layer 7 .* needs 608 values and 0 are left; in all 1,196 of"):
        load_model(cut, cfg)


@pytest.mark.parametrize("file", CASES)
def test_file_of_other_classes_gives_its_backbone(file: Path, tmp_path: Path) -> None:
    cfg = tmp_path / "five.cfg"
    cfg.write_text(read_cfg(file.with_suffix(".cfg")).with_classes(5).to_text())
    weights = read_weights(file, str(cfg))
    assert weights.spec.num_classes == 2
    with pytest.raises(UserError, match="too short: layer"):
        load_model(file, str(cfg))


@pytest.mark.parametrize("file", CASES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b + b"\0" * 12, "too long: after the last convolution .* 3 values more than the 2,400"),
        (lambda b: b[:-8], r"too short: layer 18 .* needs 238 values and 236 are left; in all 2 of 2,400"),
        (lambda b: b[:-7], "damaged"),
        (lambda b: b[:14], "damaged"),
    ],
)
def test_bad_files(file: Path, change, message: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.weights"
    bad.write_bytes(change(file.read_bytes()))
    for read in (load_model, read_weights):
        with pytest.raises(UserError, match=message):
            read(bad, str(file.with_suffix(".cfg")))


def test_other_formats_are_told_apart(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    assert not is_darknet(tmp_path / "other.pt")
    (tmp_path / "some.weights").write_bytes(header(0, 2, 5, 0) + b"\0" * 40)
    with pytest.raises(UserError, match="does not say its network: put the cfg beside it"):
        read_weights(tmp_path / "some.weights")
    with pytest.raises(UserError, match="yolov5n is no Darknet network"):
        read_weights(tmp_path / "some.weights", "yolov5n")
