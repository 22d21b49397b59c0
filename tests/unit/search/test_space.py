"""The search space: the published table, the user's yaml, and what is said of its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.errors import UserError
from boxwright.search.space import Range
from boxwright.settings.load import load
from boxwright.yolo.hyp import SETTING_OF_KEY
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.evolve import PUBLISHED, make_space, read_hyp_space, start_values

# Spec B6: name, gain, low, high.
TABLE = """lr0 1 1e-5 1e-1; lrf 1 .01 1; momentum .3 .6 .98; weight_decay 1 0 .001; warmup_epochs 1 0 5;
warmup_momentum 1 0 .95; warmup_bias_lr 1 0 .2; box 1 .02 .2; cls 1 .2 4; cls_pw 1 .5 2; obj 1 .2 4; obj_pw 1 .5 2;
iou_t 0 .1 .7; anchor_t 1 2 8; anchors 2 2 10; fl_gamma 0 0 2; hsv_h 1 0 .1; hsv_s 1 0 .9; hsv_v 1 0 .9; degrees 1 0 45;
translate 1 0 .9; scale 1 0 .9; shear 1 0 10; perspective 0 0 .001; flipud 1 0 1; fliplr 0 0 1; mosaic 1 0 1;
mixup 1 0 1; copy_paste 1 0 1"""


def test_the_table_is_the_published_one() -> None:
    rows = [row.split() for row in TABLE.replace("\n", " ").split(";")]
    expected = {SETTING_OF_KEY[name]: Range(float(g), float(low), float(high)) for name, g, low, high in rows}
    assert expected == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_run_takes_every_value_within_the_published_limits(name: str) -> None:
    for value in (PUBLISHED[name].low, PUBLISHED[name].high):
        load(RunConfig, {name: value})


def test_what_has_no_gain_is_not_searched() -> None:
    space = make_space(RunConfig(), "")
    assert {"loss.iou_t", "augment.fliplr"} & space.keys() == set()
    assert len(space) == 25


def test_anchors_are_searched_where_automatic_ones_are_wanted() -> None:
    assert start_values(RunConfig(), make_space(RunConfig(), ""))["anchors"] == 3
    assert start_values(RunConfig(anchors=5), make_space(RunConfig(anchors=5), ""))["anchors"] == 5
    sides = RunConfig(anchors=((1.0, 2.0),))
    for config in (RunConfig(noautoanchor=True), sides):
        assert "anchors" not in make_space(config, "")


def test_a_search_begins_within_the_limits() -> None:
    start = start_values(load(RunConfig, {"augment.scale": 0.95, "loss.box": 0.01}), PUBLISHED)
    assert (start["augment.scale"], start["loss.box"], start["optim.lr0"]) == (0.9, 0.02, 0.01)


def space_of(folder: Path, text: str) -> dict[str, Range]:
    file = folder / "space.yaml"
    file.write_text(text)
    return dict(read_hyp_space(file))


def test_a_file_of_limits(tmp_path: Path) -> None:
    space = space_of(tmp_path, "optim.lr0: [1, 1e-5, 0.1]\nloss:\n  box: [0.02, 0.2]\nmosaic: [0, 0, 1]\n")
    assert space == {
        "optim.lr0": Range(1, 1e-5, 0.1),
        "loss.box": Range(1, 0.02, 0.2),
        "augment.mosaic": Range(0, 0, 1),
    }


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    text = (
        "optim.lr: [1, 0.1, 0.2]\nloss.boxx: [0.1, 0.2]\nepochs: [1, 5]\nmosaic: 3\naugment.scale: [0, 2]\n"
        "loss.cls: [2, 1]\nloss.obj: [-1, 1, 2]\nmixup: [a, b]\n"
    )
    with pytest.raises(UserError) as caught:
        space_of(tmp_path, text)
    _, *lines = str(caught.value).split("\n")
    file = tmp_path / "space.yaml"
    wanted = "[gain, low, high] or [low, high], all of them numbers, low below high and no gain below 0"
    says = [
        "optim.lr is no hyper-parameter; did you mean optim.lr0?",
        "loss.boxx is no hyper-parameter; did you mean loss.box?",
        "epochs is no hyper-parameter; did you mean optim.warmup_epochs?",
        f"augment.mosaic takes {wanted}, got 3",
        "augment.scale",
        f"loss.cls takes {wanted}, got [2, 1]",
        f"loss.obj takes {wanted}, got [-1, 1, 2]",
        f"augment.mixup takes {wanted}, got ['a', 'b']",
    ]
    assert len(lines) == len(says)
    for number, (line, said) in enumerate(zip(lines, says, strict=True), 1):
        assert f"{file}:{number}" in line
        assert said in line


def test_something_is_searched(tmp_path: Path) -> None:
    for text in ("", "mosaic: [0, 0, 1]\n"):
        with pytest.raises(UserError, match="leaves nothing to search"):
            space_of(tmp_path, text)


def test_anchors_in_a_file_do_not_go_with_fixed_ones(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("anchors: [2, 8]\n")
    with pytest.raises(UserError, match="searches the number of anchors"):
        make_space(RunConfig(noautoanchor=True), str(file))
