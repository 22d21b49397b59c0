"""The val verb on a small data set with a small network of random weights: what it prints, writes and refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.data.structures import Batch
from boxwright.errors import UserError
from boxwright.yolo.evaluation import Evaluation
from boxwright.yolo.settings import ValConfig
from boxwright.yolo.verbs import val as verb
from boxwright.yolo.verbs.val import val
from boxwright.yolo.zoo import build_model, load_spec

NAMES = ("cell", "Größe", "猫")
METRICS = "metrics.json"
PLOTS = {"PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png", "val_batch0.jpg"}
PLOTS |= {"worst_images.jpg", "report.html"}


def save_weights(path: Path, names: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    model = build_model(load_spec("yolov5n", len(names)), names)
    description = {"spec": model.spec.to_mapping(), "names": list(names), "strides": list(model.strides)}
    save_checkpoint(path, {"model": description, "state_dict": model.state_dict()})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("some weights") / "bést.pt", NAMES)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images with labels, one without; a train split of one image; an empty test split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "mes données 猫"
    rng = np.random.default_rng(0)
    for split, count in (("val", 4), ("train", 1)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            pixels = cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (140, 90 + 10 * i))
            (root / "images" / split / f"{i} é.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            rows = [] if i == 3 else [f"{i} 0.5 0.5 0.4 0.4", "1 0.2 0.3 0.2 0.2"]
            (root / "labels" / split / f"{i} é.txt").write_text("\n".join(rows))
    (root / "images" / "test").mkdir()
    yaml = root / "data.yaml"
    names = json.dumps(list(NAMES), ensure_ascii=False)
    yaml.write_text(f"train: images/train\nval: images/val\ntest: images/test\nnames: {names}\n", encoding="utf-8")
    return yaml


def run(weights: Path, data: Path, tmp_path: Path, **settings: Any) -> Evaluation:
    given = {"imgsz": 96, "batch_size": 3, "workers": 0, "device": "cpu", "project": str(tmp_path / "runs")} | settings
    return val(ValConfig(weights=str(weights), data=str(data), **given))


def test_everything_written(weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"conf_thres": 0.0, "max_det": 5, "save_json": True, "save_txt": True, "save_conf": True}
    found = run(weights, data, tmp_path, verbose=True, **settings)
    folder = tmp_path / "runs" / "exp"
    assert {p.name for p in folder.iterdir()} == {
        *PLOTS,
        METRICS,
        "val_batch1.jpg",
        "labels",
        "classes.txt",
        "predictions.json",
    }
    assert found.num_images == 4
    assert found.num_labels == 6

    page = (folder / "report.html").read_text(encoding="utf-8")
    for word in (
        "bést.pt measured on data.yaml",
        "mes données 猫",
        "val, 4 images, 3 classes",
        "torch",
        "96 pixels",
        "Größe",
    ):
        assert word in page
    assert page.count("data:image/") >= 8
    results = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    assert len(results) == 20
    assert {tuple(sorted(row)) for row in results} == {("bbox", "category_id", "file_name", "image_id", "score")}
    assert {Path(row["file_name"]).name for row in results} == {f"{i} é.png" for i in range(4)}
    assert (folder / "classes.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    assert {row["image_id"] for row in results} == {0, 1, 2, 3}
    assert all(row["bbox"] == [round(v, 3) for v in row["bbox"]] for row in results)

    rows = [line.split() for line in (folder / "labels" / "0 é.txt").read_text().splitlines()]
    assert len(rows) == 5
    boxes = np.array(rows, float)[:, 1:5]
    json_boxes = np.array([row["bbox"] for row in results if row["image_id"] == 0])
    size = np.array([140, 90])
    np.testing.assert_allclose((boxes[:, :2] - boxes[:, 2:] / 2) * size, json_boxes[:, :2], atol=2e-3)
    np.testing.assert_allclose(boxes[:, 2:] * size, json_boxes[:, 2:], atol=2e-3)
    scores = [row["score"] for row in results if row["image_id"] == 0]
    np.testing.assert_allclose([float(row[5]) for row in rows], scores, atol=1e-5)

    printed = capsys.readouterr().out
    for word in ("mAP50-95", "AP75", "ARl", "Größe", "against the labels", "ms inference", str(folder)):
        assert word in printed


def test_hybrid_labels(weights: Path, data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"conf_thres": 0.0, "max_det": 6, "noplots": True}
    plain = run(weights, data, tmp_path, name="plain", **settings)
    found = run(weights, data, tmp_path, save_hybrid=True, save_conf=True, **settings)
    assert (found.map, found.map50) == (plain.map, plain.map50)  # of the network alone
    folder = tmp_path / "runs/exp/labels"
    for i in range(4):
        rows = np.array([line.split() for line in (folder / f"{i} é.txt").read_text().splitlines()], float)
        truth = np.array(
            [line.split() for line in (data.parent / f"labels/val/{i} é.txt").read_text().splitlines()], float
        ).reshape(-1, 5)
        np.testing.assert_array_equal(rows[: len(truth), :5], truth)
        assert (rows[: len(truth), 5] == 1).all()
        assert len(rows) == 6  # labels count as well
        assert (rows[len(truth) :, 5] < 1).all()
    run(weights, data, tmp_path, name="sure", save_hybrid=True, conf_thres=0.99, noplots=True)
    files = sorted((tmp_path / "runs/sure/labels").iterdir())
    assert [file.name for file in files] == [f"{i} é.txt" for i in range(3)]
    assert files[0].read_text() == "0 0.5 0.5 0.4 0.4\n1 0.2 0.3 0.2 0.2\n"
    run(weights, data, tmp_path, name="one", save_hybrid=True, single_cls=True, **settings)
    assert {line[0] for line in (tmp_path / "runs/one/labels/1 é.txt").read_text().splitlines()} == {"0"}


def test_noplots_draws_nothing(weights: Path, data: Path, tmp_path: Path) -> None:
    run(weights, data, tmp_path, batch_size=1, noplots=True)
    assert [p.name for p in (tmp_path / "runs" / "exp").iterdir()] == [METRICS]


def test_tasks_choose_the_split(weights: Path, data: Path, tmp_path: Path) -> None:
    assert run(weights, data, tmp_path, task="train", noplots=True).num_images == 1
    with pytest.raises(UserError, match=r"test split .* no image"):
        run(weights, data, tmp_path, task="test", noplots=True)


def test_task_speed_only_times(weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(weights, data, tmp_path, task="speed", save_json=True)
    assert not (tmp_path / "runs").exists()
    assert found.coco is None
    printed = capsys.readouterr().out
    assert printed.startswith("Speed:")
    assert "mAP" not in printed


def test_single_class_takes_any_weights(weights: Path, data: Path, tmp_path: Path) -> None:
    found = run(weights, data, tmp_path, single_cls=True, conf_thres=0.0, noplots=True)
    assert found.names == ("item",)
    assert found.num_labels == 6


def test_half_precision_on_the_cpu(weights: Path, data: Path, tmp_path: Path) -> None:
    full, half = (run(weights, data, tmp_path, conf_thres=0.0, noplots=True, half=flag) for flag in (False, True))
    assert full.coco_metrics is not None
    assert half.coco_metrics is not None
    assert half.coco_metrics.predictions.shape == full.coco_metrics.predictions.shape
    assert (half.coco_metrics.predictions != full.coco_metrics.predictions).any()


def test_no_label_at_all_warns_and_is_zero(
    weights: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in (data.parent / "labels" / "val").iterdir():
        file.write_text("")
    with caplog.at_level(logging.WARNING, "boxwright"):
        found = run(weights, data, tmp_path, conf_thres=0.0)
    assert "no label in the val split" in caplog.text
    assert (found.precision, found.recall, found.map50, found.map) == (0, 0, 0, 0)
    assert found.coco is not None
    assert (found.coco == -1).all()


def test_nothing_found(weights: Path, data: Path, tmp_path: Path) -> None:
    found = run(weights, data, tmp_path, conf_thres=0.99, save_txt=True, save_json=True)
    assert found.map == 0
    folder = tmp_path / "runs" / "exp"
    assert json.loads((folder / "predictions.json").read_text()) == []
    assert not (folder / "labels").exists()


def test_weights_of_other_classes(weights: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = save_weights(tmp_path / "two.pt", ("a", "b"))
    with pytest.raises(UserError, match=r"predicts 2 classes but .* names 3"):
        run(other, data, tmp_path)
    renamed = save_weights(tmp_path / "renamed.pt", ("cell", "size", "cat"))
    with caplog.at_level(logging.WARNING, "boxwright"):
        run(renamed, data, tmp_path, noplots=True)
    assert "2 class names differ: class 1 is 'size'" in caplog.text


@pytest.mark.parametrize("missing", ["weights", "data"])
def test_what_is_needed(missing: str) -> None:
    given = {"weights": "w.pt", "data": "d.yaml"} | {missing: ""}
    with pytest.raises(UserError, match=f"val needs --{missing}"):
        val(ValConfig(**given))


def test_odd_image_size_is_rounded_up(
    weights: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "boxwright"):
        run(weights, data, tmp_path, imgsz=83, noplots=True)
    assert "imgsz 83 is not a multiple of the largest stride 32; using 96" in caplog.text


def test_ground_truth_beside_the_images_is_used(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [{"id": 10 + i, "file_name": f"{i} é.png", "width": 140, "height": 90 + 10 * i} for i in range(4)]
    categories = [{"id": 5 * i, "name": name} for i, name in enumerate(NAMES)]
    whole = {"id": 1, "image_id": 10, "category_id": 5, "bbox": [0, 0, 140, 90], "area": 12600, "iscrowd": 0}
    content = {"images": images, "categories": categories, "annotations": [whole]}
    (data.parent / "images" / "instances.json").write_text(json.dumps(content))
    run(weights, data, tmp_path, conf_thres=0.0, max_det=2, save_json=True, noplots=True)
    assert "instances.json" in capsys.readouterr().out
    results = json.loads((tmp_path / "runs" / "exp" / "predictions.json").read_text())
    assert {row["image_id"] for row in results} == {10, 11, 12, 13}
    assert {tuple(sorted(row)) for row in results} == {("bbox", "category_id", "image_id", "score")}
    assert {row["category_id"] for row in results} <= {0, 5, 10}


def test_command_line(weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["val", "--weights", str(weights), "--data", str(data), "--img", "96", "--workers", "0", "--noplots"]
    words += ["--device", "cpu", "--project", str(tmp_path / "runs"), "--name", "chosen"]
    assert main(words) == 0
    assert (tmp_path / "runs" / "chosen").is_dir()
    capsys.readouterr()
    assert main([*words, "--weights", str(tmp_path / "none.pt")]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_tables_fit_80_columns(weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(weights, data, tmp_path, verbose=True, noplots=True)
    lines = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("class "))
    table = lines[head : lines.index("", head)]
    assert len(table) == 5  # its head, all, three classes
    assert table[0].endswith("COCO AP")
    assert max(map(len, table)) <= 80


def test_without_rect_no_image_depends_on_the_batch_size(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    real = verb.evaluate

    def evaluate(network: Any, batches: Any, *args: Any, **kwargs: Any) -> Evaluation:
        def kept() -> Iterator[Batch]:
            for batch in batches:
                rows = zip(batch.paths, batch.images, strict=True)
                found.update({path.name: image.clone() for path, image in rows})
                yield batch

        found: dict[str, torch.Tensor] = {}
        done = real(network, kept(), *args, **kwargs)
        for name, image in found.items():
            seen.setdefault(name, []).append(image)
        return done

    monkeypatch.setattr(verb, "evaluate", evaluate)
    shared = {"weights": (str(weights),), "data": str(data), "imgsz": (64,), "workers": 0, "device": "cpu"}
    shared |= {"noplots": True, "project": str(tmp_path / "runs")}
    for no_rect in (True, False):
        for batch_size in (1, 4):
            val(ValConfig.model_validate({**shared, "batch_size": batch_size, "no_rect": no_rect}))
    assert len(seen) == 4
    assert all(torch.equal(one, four) and one.shape[1:] == (64, 64) for one, four, *_ in seen.values())
    assert any(one.shape != four.shape for *_, one, four in seen.values())
