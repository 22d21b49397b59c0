"""Settings of camera and radar: published defaults, presets, and which settings choose the system."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from boxwright.centerfusion import system
from boxwright.centerfusion.settings import MODEL, FusionConfig, FusionExportConfig, find_preset
from boxwright.centerfusion.verbs.train import with_milestones
from boxwright.cli.parser import Parser
from boxwright.errors import UserError
from boxwright.settings.load import dump_yaml, load
from boxwright.systems import NAMED_BY, choose
from boxwright.yolo import system as yolo_system

PRESETS = sorted(
    file.name.removesuffix(".yaml") for file in (resources.files("boxwright.centerfusion") / "presets").iterdir()
)


def test_defaults_are_those_of_the_published_run() -> None:
    config = FusionConfig()
    assert (config.epochs, config.batch_size, config.imgsz, config.save_epochs) == (60, 32, (448, 800), (20, 40, 50))
    assert (config.radar.sweeps, config.radar.max_depth, config.radar.pillar_dims) == (3, 60.0, (1.5, 0.2, 0.2))
    assert (config.augment.flip, config.augment.shift, config.augment.scale) == (0.5, 0.1, 0.0)
    assert (config.optim.optimizer, config.optim.lr0, config.optim.weight_decay) == ("Adam", 2.5e-4, 0.0)
    assert (config.optim.clip_norm, config.optim.ema_decay, config.optim.warmup_epochs) == (0.0, 0.0, 0.0)
    weights = config.loss.model_dump()
    assert weights.pop("wh") == 0.1
    assert set(weights.values()) == {1.0}


@pytest.mark.parametrize(("epochs", "falls"), [(60, (50,)), (12, (10,)), (2, (1,))])
def test_the_rate_falls_after_five_sixths(epochs: int, falls: tuple[int, ...]) -> None:
    assert with_milestones(FusionConfig(epochs=epochs)).optim.milestones == falls


def test_the_rate_of_one_epoch_stays_and_what_was_named_is_kept() -> None:
    assert with_milestones(FusionConfig(epochs=1)).optim.schedule == "step"
    named = load(FusionConfig, {"epochs": 90, "optim.milestones": [60, 80]})
    assert with_milestones(named).optim.milestones == (60, 80)
    cosine = load(FusionConfig, {"optim.schedule": "cosine"})
    assert with_milestones(cosine) == cosine


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_source_result_and_command(name: str) -> None:
    text = Path(find_preset(name)).read_text(encoding="utf-8")
    for word in ("# Source:", "# Expected:", "# Command: boxwright train --model centerfusion-dla34"):
        assert word in text
    config = load(FusionConfig, config=find_preset(name))
    assert config.no_radar == (name == "centernet-baseline")
    assert f"--config {name}" in text


def test_published_settings_are_the_preset() -> None:
    published = load(FusionConfig, config=find_preset("centerfusion"))
    assert published == with_milestones(FusionConfig())


def test_what_chooses_the_system(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump_yaml(FusionConfig()), encoding="utf-8")
    yolo = tmp_path / "yolo.yaml"
    yolo.write_text("model: yolov5n\n")
    for named in ([("model", MODEL)], [("config", "centerfusion")], [("config", str(run))]):
        assert choose("train", named) is system
    root = tmp_path / "root" / "v1.0-mini"
    root.mkdir(parents=True)
    (root / "sample.json").write_text("[]")
    assert choose("check", [("data", str(root.parent))]) is system
    for named in (
        [("model", "yolov5n"), ("config", "centerfusion")],
        [("config", str(yolo))],
        [("config", str(tmp_path / "nowhere.yaml"))],
        [("data", str(tmp_path))],
        [],
    ):
        assert choose("train", named) is not system
    for words in (["--model", MODEL], [f"--cfg={MODEL}"], ["--epochs", "3", "--config", str(run)]):
        assert choose("train", words_of(words)) is system
    for words in ([], ["--model", "yolov5n", "--config", "centerfusion"], ["--name", MODEL], ["--config"]):
        assert choose("train", words_of(words)) is not system


def words_of(argv: list[str]) -> list[tuple[str, str]]:
    return Parser("train", yolo_system).named(argv, NAMED_BY)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"imgsz": [448]}, "imgsz"),
        ({"imgsz": [448, 800, 3]}, "imgsz"),
        ({"imgsz": [450, 800]}, "imgsz.*should be a multiple of 32, got 450"),
        ({"imgsz": [448, 0]}, "imgsz"),
        ({"model": "centerfusion-dla60"}, "model"),
        ({"batch_size": -1}, "batch_size"),
        ({"radar.pillar_dims": [1.0, 0.0, 0.2]}, "radar.pillar_dims"),
        ({"mosaic": 1.0}, "no such setting"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(FusionConfig, settings)


def test_a_network_is_exported_for_sides_that_it_takes() -> None:
    with pytest.raises(UserError, match="imgsz: should be a multiple of 32, got 100"):
        load(FusionExportConfig, {"imgsz": [64, 100]})
