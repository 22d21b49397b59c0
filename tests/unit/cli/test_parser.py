"""Flags: YOLOv5's names and aliases, dotted paths, switches, and the answer to a flag that is not there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from boxwright.cli.main import main
from boxwright.cli.parser import Parser
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.systems import SYSTEMS, load_system
from boxwright.yolo.hyp import load_run
from boxwright.yolo.settings import EvolveConfig, PredictConfig, RunConfig, ValConfig


def parser(verb: str, name: str = "yolo") -> Parser:
    return Parser(verb, load_system(name))


def settings(*argv: str, kind: type[RunConfig] = RunConfig) -> Any:
    given = parser("evolve" if kind is EvolveConfig else "train").read(argv)
    files = {name: given.pop(name).value for name in ("hyp", "config") if name in given}
    return load_run(kind, given, **files)


@pytest.mark.parametrize(
    ("argv", "setting", "value"),
    [
        ("--img 320", "imgsz", (320,)),
        ("--imgsz 640 320", "imgsz", (640, 320)),
        ("--img-size=320", "imgsz", (320,)),
        ("--batch 4", "batch_size", 4),
        ("--batch-size 4", "batch_size", 4),
        ("--cfg yolov5s.yaml", "model", "yolov5s.yaml"),
        ("--model yolov5s", "model", "yolov5s"),
        ("--weights ", "weights", ""),
        ("--cache", "cache", "ram"),
        ("--cache disk", "cache", "disk"),
        ("--freeze 10", "freeze", (10,)),
        ("--freeze 0 1 2", "freeze", (0, 1, 2)),
        ("--rect", "rect", True),
        ("--rect=false", "rect", False),
        ("--cos-lr", "optim.cos_lr", True),
        ("--optimizer AdamW", "optim.optimizer", "AdamW"),
        ("--label-smoothing 0.1", "loss.label_smoothing", 0.1),
        ("--optim.momentum 0.9", "optim.momentum", 0.9),
        ("--loss.box=0.1", "loss.box", 0.1),
        ("--optim.lr0 1e-5", "optim.lr0", 1e-5),
        ("--save-period -1", "save_period", -1),
        ("--patience 0", "patience", 0),
        ("--name 2024", "name", "2024"),
    ],
)
def test_flags_of_train(argv: str, setting: str, value: object) -> None:
    found: Any = settings(*argv.split(" "))
    for part in setting.split("."):
        found = getattr(found, part)
    assert found == value


def test_flags_beat_the_preset() -> None:
    merged = settings("--hyp", "VOC", "--optim.lr0", "0.02")
    assert (merged.optim.lr0, merged.optim.lrf) == (0.02, 0.15135)


def test_a_wrong_value_names_the_flag() -> None:
    with pytest.raises(UserError, match=r"epochs \(--epochs\): should be a valid integer, got 'ten'"):
        settings("--epochs", "ten")


def answer(verb: str, *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parser(verb).read(argv)
    return str(caught.value)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--epochz", "there is no flag --epochz; did you mean --epochs?"),
        ("--batch_size", "did you mean --batch-size?"),
        ("--single_cls", "did you mean --single-cls?"),
        ("--lr0", "did you mean --optim.lr0?"),
        ("--momentum=0.9", "there is no flag --momentum; did you mean --optim.momentum?"),
        ("--optim.weight-decay", "did you mean --optim.weight_decay?"),
        ("--visualize", "there is no flag --visualize: leave it out: feature maps"),
        ("--adam", "write --optimizer Adam"),
        ("--evolve", "there is no flag --evolve: write boxwright evolve --generations N"),
        ("--qqqq", "there is no flag --qqqq ("),
        ("--upload-dataset", "there is no flag --upload_dataset: leave it out"),
        ("--plots", "there is no flag --plots ("),  # no --noplots
        ("--comet", "there is no flag --comet ("),  # no --compat
        ("--half", "there is no flag --half ("),  # no --save-half
        ("--eval", "there is no flag --eval; if centerfusion is meant"),  # no --noval
        ("--lr", "there is no flag --lr; if centerfusion is meant"),  # no --optim.lrf
    ],
)
def test_an_unknown_flag_is_answered(typed: str, says: str) -> None:
    assert says in answer("train", "--rect", typed)


def test_words_that_no_flag_takes() -> None:
    assert "'4' stands alone: no flag before it takes it (--epochs takes one value)" in answer(
        "train", "--epochs", "3", "4"
    )
    assert "takes one value" not in answer("train", "640", "--rect")
    assert "expected one argument" in answer("train", "--epochs")


@pytest.mark.parametrize(
    ("verb", "typed", "setting"),
    [
        ("train", "--epo", "epochs"),
        ("train", "--opt", ""),
        ("train", "--optim", ""),
        ("train", "--optim.m", ""),
        ("train", "--optim.mom", "optim.momentum"),
        ("val", "--conf", "conf_thres"),
        ("val", "--iou", "iou_thres"),
        ("val", "--img", "imgsz"),
        ("val", "--im", "imgsz"),
        ("predict", "--conf", "conf_thres"),
        ("predict", "--i", ""),
        ("train", "--ba", "batch_size"),
        ("train", "--no", ""),
    ],
)
def test_unambiguous_beginnings_are_taken(verb: str, typed: str, setting: str) -> None:
    if setting:
        assert list(parser(verb).read([typed, "1"])) == list(parser(verb).read([f"{typed}=1"])) == [setting]
    else:
        assert f"{typed} is ambiguous: it could be --" in answer(verb, typed, "1")


@pytest.mark.parametrize(
    ("verb", "words", "flag", "value"),
    [
        ("convert weights", "a.pt --strip b.pt", "strip", "true"),
        ("convert weights", "--strip a.pt b.pt", "strip", "true"),
        ("convert weights", "a.pt --strip no b.pt", "strip", "no"),
        ("convert data", "a.pt --to coco b.pt", "to", "coco"),
    ],
)
def test_flags_may_stand_between_in_and_out(verb: str, words: str, flag: str, value: str) -> None:
    found = {name: setting.value for name, setting in parser(verb).read(words.split()).items()}
    assert found == {"source": "a.pt", "target": "b.pt", flag: value}


def test_three_sizes_of_a_training_are_answered() -> None:
    with pytest.raises(
        UserError, match=r"imgsz \(--imgsz\): it is the size of training, .* --multi-scale, which varies it, got"
    ):
        settings("--img-size", "320", "640", "512")


def test_an_ambiguous_beginning_lists_what_it_could_be() -> None:
    assert (
        "--sa is ambiguous: it could be --save-period, --save-epochs, --save-half, --save-best-only, --save-name ("
        in answer("train", "--sa", "1")
    )
    assert " and " in answer("train", "--optim.", "1").partition("(")[0]


def test_flags_that_are_here_are_not_called_missing() -> None:
    for name in SYSTEMS:
        for verb in load_system(name).VERBS:
            assert not set(parser(verb, name).spellings) & set(parser(verb, name).answers)


PUBLISHED_FLAGS = {  # of YOLOv5 v1.0 to v7.0, and of the published training script for YOLOv3-SPP
    "train": """
        weights cfg data hyp epochs batch-size batch imgsz img img-size rect resume nosave noval notest noautoanchor
        noplots evolve bucket cache cache-images image-weights img-weights device multi-scale single-cls optimizer adam
        sync-bn workers project name exist-ok quad cos-lr linear-lr label-smoothing patience freeze save-period seed
        local_rank entity upload_dataset bbox_interval artifact_alias log-imgs log-artifacts logdir
        result-name best-weight savebest freeze-layers augment mosaic warmup
        evolve_population resume_evolve names classes
    """,
    "val": """
        data weights batch-size batch imgsz img img-size conf-thres conf iou-thres iou max-det task device workers
        single-cls augment verbose save-txt save-hybrid save-conf save-json project name exist-ok half dnn merge
        save-dir names nms-thres rect
    """,
    "predict": """
        weights source data imgsz img img-size conf-thres conf iou-thres iou max-det device view-img save-txt save-conf
        save-crop nosave classes agnostic-nms augment visualize update project name exist-ok line-thickness hide-labels
        hide-conf half dnn vid-stride output fourcc save-dir save-csv save-format nms-thres
    """,
    "export": """
        data weights imgsz img img-size batch-size batch device include half inplace keras optimize int8 dynamic
        simplify opset verbose workspace nms agnostic-nms topk-per-class topk-all iou-thres iou conf-thres conf train
        grid
    """,
}


@pytest.mark.parametrize("verb", PUBLISHED_FLAGS)
def test_every_published_flag_is_taken_or_answered(verb: str) -> None:
    words = [f"--{name}" for name in PUBLISHED_FLAGS[verb].split()]
    taken = parser(verb).spellings
    for word in words:
        if word not in taken:
            said = answer(verb, word, "1")
            assert f"there is no flag {word}: " in said, said
            assert "write " in said or "leave it out" in said


@pytest.mark.parametrize("name", SYSTEMS)
def test_answers_name_flags_that_are_there(name: str) -> None:
    system = load_system(name)
    of_verb = {verb: set(parser(verb, name).spellings) for verb in system.VERBS}
    anywhere = set().union(*of_verb.values())
    for key, said in system.ANSWERS.items():
        named = set(re.findall(r"--[a-z][\w.-]*", said))
        assert named <= of_verb.get(key.rpartition(" ")[0], anywhere), key


@pytest.mark.parametrize(
    ("verb", "typed", "says"),
    [
        ("train", "--saveb", "--save-best-only"),  # beginnings too, as the published parsers took them
        ("train", "--ev", "boxwright evolve"),
        ("predict", "--view", "no window"),
        ("train", "--view-img=1", "no window"),
    ],
)
def test_a_beginning_of_an_answered_flag(verb: str, typed: str, says: str) -> None:
    assert says in answer(verb, typed)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_setting_has_a_flag_and_a_meaning(name: str) -> None:
    for verb in load_system(name).VERBS:
        for flag in parser(verb, name).flags:
            assert flag.names[0].startswith("--")
            assert flag.meaning, flag.setting


def test_help_says_meaning_limits_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = parser("train").format_help().splitlines()
    text = " ".join(" ".join(lines).split())
    assert "--augment.mosaic N probability of a mosaic (from 0 to 1; default 1.0)" in text
    assert "--imgsz, --img, --img-size N ... network input side" in text
    assert "--optim.lr0 N initial learning rate (above 0; default 0.01)" in text
    assert max(map(len, lines)) <= 80


def test_flags_of_train_are_taken_by_evolve() -> None:
    config = settings(*"--epochs 5 --optim.lr0 0.1 --hyp VOC --generations 20 --prune".split(), kind=EvolveConfig)
    assert (config.epochs, config.optim.lr0, config.optim.lrf) == (5, 0.1, 0.15135)
    assert (config.generations, config.prune, config.noval) == (20, "median", True)
    assert not settings("--noval=false", kind=EvolveConfig).noval


@pytest.mark.parametrize("argv", ["--generations 0", "--sampler genetic", "--parents two", "--prune best"])
def test_wrong_values_name_their_flag(argv: str) -> None:
    with pytest.raises(UserError, match=argv.split()[0]):
        settings(*argv.split(), kind=EvolveConfig)


def test_val_and_predict_flags() -> None:
    given = parser("val").read("--task speed --half --verbose --save-json --iou-thres 0.65".split())
    checked = load(ValConfig, given)
    assert (checked.task, checked.half, checked.verbose, checked.save_json) == ("speed", True, True, True)
    given = parser("predict").read("--classes 0 2 --agnostic-nms --source 0 --vid-stride 3".split())
    found = load(PredictConfig, given)
    assert (found.classes, found.agnostic_nms, found.source, found.vid_stride) == ((0, 2), True, "0", 3)


def test_a_value_is_named_once() -> None:
    assert "two values are named for DATA: a.yaml and --data b.yaml" in answer("check", "a.yaml", "--data", "b.yaml")


def test_a_help_page_breaks_no_word_at_its_hyphens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if line.endswith("-") and not line.endswith("+-")] == []
