"""CenterFusion as one system of `boxwright.systems`: its verbs, and what is surely its own. Imports no torch."""

from pathlib import Path

from boxwright.centerfusion import settings
from boxwright.centerfusion.settings import FAMILY, MODEL, find_preset, model_of
from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.errors import UserError
from boxwright.settings.base import TrainingFiles, Verb

HINT = "Camera and radar: `boxwright {call} --help` lists the flags."
CHOSEN_BY = {"model": MODEL, "task": "fusion3d"}
RUN = "boxwright.centerfusion.verbs.train:FusionRun"
LOAD = "boxwright.centerfusion.weights:load_detector"
_NOT_HERE = "leave it out: this is detection on nuScenes; tracking, poses and other data sets are not here"
_NETWORK = "leave it out: the network has the published value, the only one that published weights fit"
_AS_TRAINED = "leave it out: images are resized as in training"
_DRAWN = "leave it out: train draws its first batches, val --plots N and predict draw key frames"
_NO_EFFECT = "leave it out: it had no effect on the published system"
_OF_TRAINING = "leave it out: it is said in training, and weights know it; published ones get the published value"
# Options of the published `opts.py` that are spelled differently here or are not here -> what to do.
_OPTIONS = {
    "dataset test_dataset": "write --data FOLDER, a nuScenes root",
    "dataset_version": "write --version v1.0-trainval, or leave it out where there is one version",
    "exp_id": "write --name NAME",
    "load_model": "write --weights FILE",
    "gpus": "write --device 0,1, or --device cpu",
    "num_workers": "write --workers N",
    "not_set_cuda_env print_iter": "leave it out: nothing has to be switched here",
    "run_dataset_eval": "leave it out: every validation takes the nuScenes metric",
    "eval_render_curves": "leave it out: curves are drawn unless --noplots",
    "eval_n_plots": "write boxwright val --plots N",
    "vis_thresh": "write boxwright predict --conf-thres X",
    "demo": "write boxwright predict --source PATH",
    "skip_first": "leave it out: every image is looked at",
    "save_framerate": "write boxwright predict --fps N",
    "K": "write --max-det N",
    "out_thresh": "write --conf-thres X, of val or predict",
    "iou_thresh": "write --iou-thres X, of val",
    "load_results use_loaded_results": "write boxwright val --json FILE",
    "save_results": "leave it out: val writes the submission, predict with --save-json",
    "model_output_list": "write boxwright export",
    "non_block_test not_prefetch_test": "leave it out: --batch-size and --workers say how images are loaded",
    "reset_hm reuse_hm warm_start_weights": "leave it out: what does not fit keeps its own start, and is listed",
    "nms max_pc r_a r_b reg_loss dense_reg dep_res_weight": _NO_EFFECT,
    "num_head_conv head_kernel down_ratio num_classes num_resnet_layers backbone neck msra_outchannel": _NETWORK,
    "prior_bias": _NETWORK,
    "keep_res fix_short test_scales test_focal_length depth_scale": _AS_TRAINED,
    "tracking pre_hm same_aug_pre zero_pre_hm hm_disturb lost_disturb fp_disturb pre_thresh track_thresh": _NOT_HERE,
    "new_thresh max_frame_dist ltrb ltrb_weight ltrb_amodal ltrb_amodal_weight public_det no_pre_img": _NOT_HERE,
    "zero_tracking hungarian max_age tracking_weight hp_weight hm_hp_weight kitti_split": _NOT_HERE,
    "custom_dataset_img_path custom_dataset_ann_path ignore_loaded_cats": _NOT_HERE,
    "debug no_pause debugger_theme save_imgs save_img_suffix qualitative tango_color not_show_bbox": _DRAWN,
    "not_show_number show_track_color vis_gt_bev img_format hm_transparency show_velocity save_video": _DRAWN,
    "resize_video video_h video_w transpose_video": _DRAWN,
}
_OPTIONS_OF_TRAINING = {
    "not_cuda_benchmark": "write --deterministic",
    "save_all": "write --save-period 1",
    "save_point": "write --save-epochs 20 40",
    "val_intervals": "write --val-period N",
    "num_epochs": "write --epochs N",
    "num_iters": "leave it out: an epoch has all images; --train-split names fewer scenes",
    "master_batch_size": "leave it out: every GPU has the same share of --batch-size",
    "shuffle_train": "leave it out: training images are always shuffled",
    "trainval": "write --train-split all: of v1.0-trainval these are train and val",
    "optim": "write --optimizer Adam, or SGD",
    "lr": "write --optim.lr0 X",
    "lr_step": "write --optim.milestones 50",
    "arch": "leave it out: centerfusion-dla34 is dla_34, and no other backbone is here",
    "dla_node": "write --network.dla_node dcn, or conv",
    "head_conv": "write --network.head_conv N",
    "input_res input_h input_w": "write --imgsz HEIGHT WIDTH",
    "pointcloud": "leave it out: radar is read unless --no-radar",
    "radar_sweeps": "write --radar.sweeps N",
    "max_pc_dist": "write --radar.max_depth X",
    "pc_z_offset": "write --radar.z_offset X",
    "pillar_dims": "write --radar.pillar_dims 1.5 0.2 0.2, which the published code took whatever was given",
    "nuscenes_att velocity": "leave it out: both are always trained, by --loss.nuscenes_att and --loss.velocity",
    "not_rand_crop": "leave it out: nothing is cropped at random without --augment.random_crop",
    "not_max_crop": "write --augment.max_crop false",
    "aug_rot": "write --augment.rotate_prob X",
    "no_color_aug": "write --augment.color false",
    **{name: f"write --augment.{name} X" for name in ("shift", "scale", "rotate", "flip")},
    "off_weight": "write --loss.reg X",
    **{
        f"{name}_weight": f"write --loss.{name} X"
        for name in ("hm", "wh", "dep", "dim", "rot", "amodel_offset", "nuscenes_att", "velocity")
    },
}
ANSWERS = {
    **{f"--{name}": answer for names, answer in _OPTIONS.items() for name in names.split()},
    **{f"--{name}": _OF_TRAINING for names in _OPTIONS_OF_TRAINING for name in names.split()},
    **{f"train --{name}": answer for names, answer in _OPTIONS_OF_TRAINING.items() for name in names.split()},
    "train --eval": "write boxwright val",
    "val --val_split": "write --split NAME",
    "train --flip_test": "leave it out: it is a flag of val and predict",
}
_DATA = "boxwright.centerfusion.system:missing_data"
_FIRST_LAYER = b"base_layer.0.weight"  # ends the name of an entry of DLA, bare or in a network; no YOLO has one


def claims(what: str, value: str) -> bool:
    """Return whether a value is surely of CenterFusion, see `boxwright.systems.System`."""
    if what == "config":
        return model_of(value).startswith(FAMILY)
    if what == "data":
        folder, table = Path(value).expanduser(), "sample.json"  # the table of key frames
        return (folder / table).is_file() or any(folder.glob(f"*/{table}"))
    if what == "task":
        return value == CHOSEN_BY["task"]
    return value.startswith(FAMILY) or names_in_checkpoint(Path(value).expanduser(), _FIRST_LAYER)


find_config = find_preset


def missing_data(config: settings.FusionConfig | settings.FusionValConfig | settings.FusionPredictConfig) -> list[str]:
    """Look for the tables of the data set, if it was named; return what is wrong."""
    from boxwright.nuscenes.tables import version_folder, version_of

    try:
        if config.data:
            root = Path(config.data).expanduser()
            version_folder(root, version_of(root, config.version, settings.USUAL_VERSION))
    except UserError as error:
        return [str(error)]
    return []


VERBS = {
    "demo": Verb(settings.FusionDemoConfig, "boxwright.centerfusion.verbs.demo:fusion_demo", None),
    "train": Verb(settings.FusionConfig, "boxwright.centerfusion.verbs.train:train", TrainingFiles, check=_DATA),
    "val": Verb(settings.FusionValConfig, "boxwright.centerfusion.verbs.use:fusion_val", check=_DATA),
    "predict": Verb(settings.FusionPredictConfig, "boxwright.centerfusion.verbs.use:fusion_predict", check=_DATA),
    "export": Verb(settings.FusionExportConfig, "boxwright.centerfusion.export:fusion_export"),
    "info": Verb(settings.FusionInfoConfig, "boxwright.centerfusion.verbs.files:info", None),
    "check": Verb(settings.FusionCheckConfig, "boxwright.centerfusion.verbs.data:check", None),
    "convert weights": Verb(settings.FusionWeightsConfig, "boxwright.centerfusion.verbs.files:convert_weights", None),
    "convert nuscenes": Verb(settings.NuscenesConfig, "boxwright.centerfusion.verbs.data:convert", None),
    "convert synthetic": Verb(settings.SyntheticConfig, "boxwright.centerfusion.verbs.data:make", None),
}
