"""Settings of camera and radar: published defaults, presets, and which settings choose the system."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from boxwright.centerfusion import system
from boxwright.centerfusion.settings import MODEL, FusionConfig, FusionExportConfig, find_preset
from boxwright.centerfusion.verbs.train import with_milestones
from boxwright.cli.main import main
from boxwright.cli.parser import Parser
from boxwright.engine.schedule import check_schedule
from boxwright.errors import UserError
from boxwright.settings.load import dump, dump_yaml, load
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
    assert published == with_milestones(FusionConfig(precision="fp32"))


def test_the_camera_only_recipe_crops_at_random_and_is_measured_at_its_end() -> None:
    """Published: no shift, and no validation before the 140 epochs are over."""
    baseline = load(FusionConfig, config=find_preset("centernet-baseline"))
    assert baseline.augment == FusionConfig().augment.model_copy(update={"random_crop": True, "shift": 0.0})
    assert (baseline.epochs, baseline.val_period, baseline.batch_size, baseline.optim.lr0) == (140, 140, 128, 5e-4)
    assert (baseline.optim.milestones, baseline.save_epochs, baseline.precision) == ((90, 120), (90, 120), "fp32")
    assert "--weights dla34-ba72cf86.pth" in Path(find_preset("centernet-baseline")).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "epochs", "falls"),
    [("centerfusion", 20, (16,)), ("centerfusion", 120, (100,)), ("centernet-baseline", 14, (9, 12))],
)
def test_a_recipe_of_another_length_falls_in_proportion(
    name: str, epochs: int, falls: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = load(FusionConfig, {"epochs": epochs}, config=find_preset(name))
    check_schedule(config.optim, config.epochs)
    assert config.optim.milestones == falls
    assert f"{name}.yaml is for" in caplog.text
    assert "--optim.milestones sets it" in caplog.text


def test_what_a_shortened_recipe_is_told_goes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Named falls are kept; another schedule has none; of one epoch there is none; a run folder is a recipe, too."""
    caplog.set_level("INFO")
    preset = find_preset("centerfusion")
    named = load(FusionConfig, {"epochs": 20, "optim.milestones": [5]}, config=preset)
    assert named.optim.milestones == (5,)
    cosine = load(FusionConfig, {"epochs": 20, "optim.schedule": "cosine"}, config=preset)
    check_schedule(cosine.optim, 20)
    assert load(FusionConfig, {"epochs": 60}, config=preset).optim.milestones == (50,)
    assert not caplog.text
    one = with_milestones(load(FusionConfig, {"epochs": 1}, config=preset))
    check_schedule(one.optim, 1)
    assert "of 1, the rate falls nowhere" in caplog.text
    (tmp_path / "config.yaml").write_text(dump_yaml(with_milestones(FusionConfig(epochs=12))), encoding="utf-8")
    assert load(FusionConfig, {"epochs": "6"}, config=str(tmp_path)).optim.milestones == (5,)


@pytest.mark.parametrize(
    ("given", "decay"),
    [
        ({}, 0.0),
        ({"optim.optimizer": "SGD"}, 1e-4),
        ({"optim.optimizer": "SGD", "optim.weight_decay": 0.0}, 0.0),
        ({"optim.optimizer": "AdamW"}, 0.0),
    ],
)
def test_sgd_decays_as_published(given: dict[str, object], decay: float) -> None:
    config = load(FusionConfig, given)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.9, decay)
    assert load(FusionConfig, dump(config)) == config


# Every option of the published program; `task` stands alone there.
PUBLISHED_OPTIONS = """
    dataset test_dataset exp_id eval debug no_pause demo load_model resume gpus num_workers not_cuda_benchmark seed
    not_set_cuda_env print_iter save_all vis_thresh debugger_theme run_dataset_eval save_imgs save_img_suffix
    skip_first save_video save_framerate resize_video video_h video_w transpose_video show_track_color not_show_bbox
    not_show_number qualitative tango_color arch dla_node head_conv num_head_conv head_kernel down_ratio num_classes
    num_resnet_layers backbone neck msra_outchannel prior_bias input_res input_h input_w dataset_version optim lr
    lr_step save_point num_epochs batch_size master_batch_size num_iters val_intervals trainval ltrb ltrb_weight
    reset_hm reuse_hm dense_reg shuffle_train flip_test test_scales nms K not_prefetch_test fix_short keep_res
    out_thresh depth_scale save_results load_results use_loaded_results ignore_loaded_cats model_output_list
    non_block_test vis_gt_bev kitti_split test_focal_length not_rand_crop not_max_crop shift scale aug_rot rotate flip
    no_color_aug tracking pre_hm same_aug_pre zero_pre_hm hm_disturb lost_disturb fp_disturb pre_thresh track_thresh
    new_thresh max_frame_dist ltrb_amodal ltrb_amodal_weight public_det no_pre_img zero_tracking hungarian max_age
    tracking_weight reg_loss hm_weight off_weight wh_weight hp_weight hm_hp_weight amodel_offset_weight dep_weight
    dep_res_weight dim_weight rot_weight nuscenes_att nuscenes_att_weight velocity velocity_weight
    custom_dataset_img_path custom_dataset_ann_path pointcloud train_split val_split max_pc r_a r_b img_format
    max_pc_dist freeze_backbone radar_sweeps warm_start_weights pc_z_offset eval_n_plots eval_render_curves
    hm_transparency iou_thresh pillar_dims show_velocity
""".split()


def test_every_published_option_has_an_equal_or_is_answered() -> None:
    """What an answer says to write is a flag of this verb, or names the verb that has it."""
    parser = Parser("train", system)
    flags = {*parser.spellings, *Parser("val", system).spellings}
    for option in PUBLISHED_OPTIONS:
        try:
            parser.read([f"--{option}", "1"])
            continue
        except UserError as error:
            answer = str(error)
        assert f"there is no flag --{option}: " in answer or f"did you mean --{option.replace('_', '-')}?" in answer
        written = re.search(r"write (boxwright )?(\w+ )?(--[\w.-]+)", answer)
        if written and not written[1]:
            assert written[3] in flags, answer


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --load_model x.pth", "if centerfusion is meant (--model centerfusion-dla34), write --weights FILE"),
        ("val --lr-step 5", "if centerfusion is meant (--model centerfusion-dla34), leave it out: it is said in tr"),
        ("val --val_split x --model centerfusion-dla34", "there is no flag --val_split: write --split NAME"),
        ("train --adam --model centerfusion-dla34", "there is no flag --adam (`boxwright train --model centerf"),
    ],
)
def test_published_options_are_answered_where_nothing_names_the_system(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert says in capsys.readouterr().err


def test_options_of_training_belong_to_training() -> None:
    for option in ("lr", "radar_sweeps", "velocity", "flip"):
        with pytest.raises(UserError, match=f"no flag --{option}: leave it out: it is said in training"):
            Parser("val", system).read([f"--{option}", "1"])


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
