"""--augment and several --weights of val and predict, on small networks of random weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.inference.exported import METADATA_KEY
from boxwright.yolo.export import YoloInfo
from boxwright.yolo.settings import ValConfig
from boxwright.yolo.verbs.val import val
from boxwright.yolo.zoo import build_model, load_spec

NAMES = ("cell", "Größe", "猫")


def save_weights(path: Path, names: tuple[str, ...] = NAMES, seed: int = 0, model: str = "yolov5n") -> Path:
    torch.manual_seed(seed)
    network = build_model(load_spec(model, len(names)), names)
    description = {"spec": network.spec.to_mapping(), "names": list(names), "strides": list(network.strides)}
    save_checkpoint(path, {"model": description, "state_dict": network.state_dict()})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two networks of the same classes."""
    folder = tmp_path_factory.mktemp("some weights")
    return save_weights(folder / "prémier, 1.pt"), save_weights(folder / "second.pt", seed=1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three labelled images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for i in range(3):
        pixels = cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (140, 90 + 10 * i))
        (root / "images" / f"{i}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        (root / "labels" / f"{i}.txt").write_text(f"{i} 0.5 0.5 0.4 0.4")
    yaml = root / "data.yaml"
    names = json.dumps(list(NAMES), ensure_ascii=False)
    yaml.write_text(f"train: images\nval: images\nnames: {names}\n", encoding="utf-8")
    return yaml


def measure(weights: Any, data: Path, tmp_path: Path, **settings: Any) -> np.ndarray:
    """All detections of a validation: image, box, score, class."""
    given = {"imgsz": 96, "batch_size": 2, "workers": 0, "device": "cpu", "conf_thres": 0.0, "max_det": 20}
    given |= {"noplots": True, "project": str(tmp_path / "runs")} | settings
    found = val(ValConfig(weights=weights, data=str(data), **given))
    assert found.losses is None
    assert found.coco_metrics is not None
    return found.coco_metrics.predictions


@pytest.mark.parametrize("half", [False, True])
def test_augmented_validation_finds_other_boxes(
    weights: tuple[Path, Path], data: Path, tmp_path: Path, half: bool
) -> None:
    plain, augmented = (measure(weights[0], data, tmp_path, augment=flag, half=half) for flag in (False, True))
    assert plain.shape == augmented.shape
    assert (plain != augmented).any()


@pytest.mark.parametrize("augment", [False, True])
def test_a_network_twice_is_the_network(weights: tuple[Path, Path], data: Path, tmp_path: Path, augment: bool) -> None:
    once, twice = (measure((weights[0],) * n, data, tmp_path, augment=augment) for n in (1, 2))
    np.testing.assert_array_equal(once, twice)


def test_rows_of_all_networks_go_into_nms(weights: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    everything = {"iou_thres": 1.0, "max_det": 10_000}
    first, second, both = (measure(chosen, data, tmp_path, **everything) for chosen in (*weights, weights))
    assert len(both) == len(first) + len(second)
    expected = sorted(np.concatenate((first, second)).tolist())
    np.testing.assert_allclose(sorted(both.tolist()), expected, atol=1e-6)


def test_networks_of_other_strides_run_together(weights: tuple[Path, Path], tmp_path: Path) -> None:
    tall = save_weights(tmp_path / "four levels.pt", model="yolov5n6")
    image = np.full((90, 140, 3), 90, np.uint8)
    for chosen in ([weights[0], tall], [tall, weights[0]]):
        detector = bw.load(chosen, device="cpu", augment=True)
        assert max(detector.model.strides) == 64
        result = detector.predict(image, imgsz=100, conf_thres=0.0, max_det=4)
        assert result.input_size == (128, 128)
        assert len(result) == 4


def test_half_precision(weights: tuple[Path, Path]) -> None:
    image = np.full((90, 140, 3), 90, np.uint8)
    full, half = (
        bw.load(weights, device="cpu", half=flag, augment=True).predict(image, imgsz=96, conf_thres=0.0)
        for flag in (False, True)
    )
    assert full.boxes.dtype == half.boxes.dtype
    assert np.abs(full.scores[:5] - half.scores[:5]).max() < 0.05


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"other\.pt has 2 classes but .*1\.pt has 3: networks that run together need the same classes"),
        (
            ("cell", "size", "猫"),
            r"class 1 is 'size' in .*other\.pt but 'Größe' in .*1\.pt: networks that run together",
        ),
    ],
)
def test_other_classes_are_refused(
    weights: tuple[Path, Path], data: Path, tmp_path: Path, names: tuple[str, ...], message: str, augment: bool
) -> None:
    other = save_weights(tmp_path / "other.pt", names)
    with pytest.raises(UserError, match=message):
        measure((weights[0], other), data, tmp_path, augment=augment)
    with pytest.raises(UserError, match=message):
        bw.load([weights[0], other], device="cpu", augment=augment)
    assert not (tmp_path / "runs").exists()


class OneBox(torch.nn.Module):
    """An exported network: one box in the middle of every image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        row = torch.tensor([48.0, 48.0, 40.0, 20.0, 1.0, 0.0, 1.0, 0.0])
        return row.expand(images.shape[0], 1, 8)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A TorchScript file for images of 96x96."""
    path = tmp_path / "one box.torchscript"
    info = YoloInfo(NAMES, (96, 96), (8, 16, 32), "rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.trace(OneBox(), (torch.zeros(1, 3, 96, 96),))
        torch.jit.save(script, str(path), _extra_files={METADATA_KEY: info.to_json().encode()})
    return path


def test_an_exported_file_with_a_checkpoint(weights: tuple[Path, Path], exported: Path) -> None:
    detector = bw.load([weights[0], exported], device="cpu")
    result = detector.predict(np.full((96, 96, 3), 90, np.uint8), conf_thres=0.5)
    assert result.input_size == (96, 96)
    assert result.labels.tolist() == [1]
    np.testing.assert_allclose(result.boxes, [[28, 38, 68, 58]])


def test_an_exported_file_cannot_be_augmented(weights: tuple[Path, Path], exported: Path) -> None:
    for chosen in (exported, [weights[0], exported]):
        with pytest.raises(UserError, match=r"--augment needs the levels .*: leave out .*one box\.torchscript"):
            bw.load(chosen, device="cpu", augment=True)


def test_no_weights() -> None:
    with pytest.raises(UserError, match="no weights are given"):
        bw.load([])


def test_messages_name_all_weights(weights: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    data.write_text("train: images\nval: images\nnames: [a, b, c, d]\n")
    with pytest.raises(UserError, match=r"1\.pt, .*second\.pt predicts 3 classes but .* names 4"):
        measure(weights, data, tmp_path)


def test_command_lines(
    weights: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--weights", *map(str, weights), "--augment", "--imgsz", "96", "--device", "cpu"]
    common += ["--project", str(tmp_path / "runs"), "--conf-thres", "0"]
    assert main(["val", "--data", str(data), "--workers", "0", "--noplots", "--name", "val", *common]) == 0
    assert (tmp_path / "runs" / "val" / "metrics.json").is_file()
    source = str(data.parent / "images")
    assert main(["predict", "--source", source, "--max-det", "2", "--name", "predict", *common]) == 0
    assert "6 boxes in 3 images" in capsys.readouterr().out
    missing = str(tmp_path / "none.pt")
    assert main(["predict", "--source", source, "--weights", str(weights[0]), missing, "--device", "cpu"]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_settings_from_a_yaml(weights: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    chosen = [str(path) for path in weights]
    settings = {"weights": chosen, "augment": True, "imgsz": 96, "device": "cpu", "max_det": 2, "conf_thres": 0}
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    folders = [
        bw.predict(source=data.parent / "images", config=str(file), project=str(tmp_path / "runs"), save_json=True),
        bw.predict(weights, data.parent / "images", project=str(tmp_path / "runs"), save_json=True, **{
            name: value for name, value in settings.items() if name != "weights"
        }),
    ]  # fmt: skip
    first, second = (json.loads((folder / "predictions.json").read_text(encoding="utf-8")) for folder in folders)
    assert first == second
