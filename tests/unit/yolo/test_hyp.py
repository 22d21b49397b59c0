"""Hyper-parameter files in the published flat form, and the presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.errors import UserError
from boxwright.settings.flags import setting_names
from boxwright.settings.load import dump, load
from boxwright.yolo.hyp import SETTING_OF_KEY, find_hyp, load_run, preset_names, read_hyp
from boxwright.yolo.settings import RunConfig

# What every v7.0 file sets besides `iou_t` and `anchors`.
PUBLISHED_KEYS = """
    lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw obj obj_pw anchor_t
    fl_gamma hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic mixup copy_paste
""".split()


def write(folder: Path, text: str) -> str:
    path = folder / "hyp.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_key_leads_to_a_setting() -> None:
    assert set(SETTING_OF_KEY.values()) <= set(setting_names(RunConfig))
    assert set(PUBLISHED_KEYS) <= set(SETTING_OF_KEY)


def test_scratch_low_is_the_default() -> None:
    assert load_run(RunConfig, hyp="scratch-low") == RunConfig()


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete_and_says_where_it_is_from(name: str) -> None:
    file = find_hyp(name)
    assert find_hyp(f"hyp.{name}.yaml") == file
    header = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    for part in ("Source:", "Expected", "Command: boxwright train"):
        assert part in header
    keys = {SETTING_OF_KEY[key] for key in PUBLISHED_KEYS}
    if name == "yolov3-spp":
        keys = keys - {"optim.warmup_momentum", "optim.warmup_bias_lr", "loss.anchor_t"} | {"loss.iou_t"}
    assert set(read_hyp(name)) == keys
    load_run(RunConfig, hyp=name)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("scratch-med", "loss.cls", 0.3),
        ("scratch-med", "augment.copy_paste", 0.0),
        ("scratch-high", "augment.copy_paste", 0.1),
        ("scratch-high", "augment.scale", 0.9),
        ("VOC", "optim.lrf", 0.15135),
        ("VOC", "augment.mosaic", 0.85834),
        ("Objects365", "optim.momentum", 0.779),
        ("Objects365", "loss.anchor_t", 3.44),
    ],
)
def test_published_values(name: str, setting: str, value: float) -> None:
    group, key = setting.split(".")
    assert getattr(getattr(load_run(RunConfig, hyp=name), group), key) == value


def test_a_file_beats_a_preset_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyp.VOC.yaml").write_text("lr0: 0.5\n")
    assert load_run(RunConfig, hyp="hyp.VOC.yaml").optim.lr0 == 0.5


def test_early_files(tmp_path: Path) -> None:
    settings = load_run(RunConfig, hyp=write(tmp_path, "giou: 0.05\niou_t: 0.2\nlabel_smoothing: 0.1\n"))
    assert (settings.loss.box, settings.loss.label_smoothing) == (0.05, 0.1)


@pytest.mark.parametrize(
    ("text", "anchors"),
    [
        ("3", 3),
        ("3.4", 3),  # as hyper-parameter evolution wrote them
        ("0", 0),
        ("[[10, 13, 16, 30], [33.5, 23, 30, 61]]", ((10, 13, 16, 30), (33.5, 23, 30, 61))),
    ],
)
def test_anchors(text: str, anchors: object, tmp_path: Path) -> None:
    settings = load_run(RunConfig, hyp=write(tmp_path, f"anchors: {text}\n"))
    assert settings.anchors == anchors
    assert load(RunConfig, dump(settings)) == settings


@pytest.mark.parametrize("text", ["true", "-1", "[]", "[10, 13]", "many", "[[10, a]]"])
def test_what_anchors_cannot_be(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hyp\.yaml:1\): .*number"):
        load_run(RunConfig, hyp=write(tmp_path, f"anchors: {text}\n"))


def test_unknown_keys_are_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_hyp(write(tmp_path, "lr0: 0.01\nmosaik: 1.0\n\nepochs: 3\n"))
    assert f"{tmp_path / 'hyp.yaml'}:2: mosaik is not a hyper-parameter; did you mean mosaic?" in str(caught.value)
    assert f"{tmp_path / 'hyp.yaml'}:4: epochs is not a hyper-parameter" in str(caught.value)


def test_both_names_of_the_box_gain(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r":2: giou sets loss\.box a second time \(first at .*:1\)"):
        read_hyp(write(tmp_path, "box: 0.05\ngiou: 0.06\n"))


def test_a_bad_value_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augment\.fliplr \(.*hyp\.yaml:2\): should be less than or equal to 1"):
        load_run(RunConfig, hyp=write(tmp_path, "lr0: 0.01\nfliplr: 5\n"))


def test_a_missing_hyp_names_the_presets() -> None:
    with pytest.raises(UserError, match=r"scratch-high, scratch-low.*did you mean scratch-low\?"):
        find_hyp("hyp.scratch-lo.yaml")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("data/hyps/hyp.scratch-low.yaml", "scratch-low"),
        ("data/hyp.finetune.yaml", "VOC"),
        ("hyp.finetune_objects365.yaml", "Objects365"),
    ],
)
def test_published_paths_of_presets(name: str, preset: str) -> None:
    assert find_hyp(name) == find_hyp(preset)


def test_other_published_files_are_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no hyper-parameters data/hyp\.scratch\.yaml: .* v6\.0 is scratch-low with"):
        find_hyp("data/hyp.scratch.yaml")
    file = tmp_path / "hyp.yaml"
    file.write_text("lr0: 0.01\npaste_in: 0.05\n")
    with pytest.raises(UserError, match=r"hyp\.yaml:2: paste_in is not a hyper-parameter; it is of YOLOv7"):
        read_hyp(str(file))
    file.write_text("optimizer: SGD\ngiou: 0.04\n")  # as runs of v1.0 wrote
    assert {name: entry.value for name, entry in read_hyp(str(file)).items()} == {
        "optim.optimizer": "SGD",
        "loss.box": 0.04,
    }
