"""Mistakes in a cfg are named with their line, before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.errors import UserError
from boxwright.yolo.darknet_cfg import DarknetSpec, read_cfg
from boxwright.yolo.zoo import build_model

STEM = "[convolutional]\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
HEAD = (
    "[convolutional]\nfilters=12\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,13, 16,30\nclasses=1\n"
)
NET = "[net]\nchannels=3\n"


def test_a_small_network_with_a_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "käse.cfg"
    path.write_bytes(b"\xef\xbb\xbf" + (NET + "; a remark\n" + STEM + HEAD).replace("\n", "\r\n").encode())
    model = build_model(read_cfg(path))
    assert model.strides == (2,)
    assert model.num_classes == 1


def test_keys_of_training_alone_are_passed_over() -> None:
    """Two lines of one such key, as in cfgs that have values to test and to train with, are none of our business."""
    net = NET + "width=96\nheight=64\nbatch=1\nsubdivisions=1\nbatch=64\nletter_box=1\nema_alpha=0.9\nsteps=1,2\n"
    stem = STEM + "stopbackward=800\nlearning_rate=.1\n"
    head = HEAD + "jitter=.3\niou_loss=ciou\nobjectness_smooth=1\nmax_delta=5\nnms_kind=diounms\nresize=1.5\n"
    spec = DarknetSpec.from_text(net + stem + head)
    assert spec == DarknetSpec.from_text(NET + STEM + HEAD)
    assert spec.input_size == (96, 64)
    written = spec.to_text()
    assert "width=96\nheight=64\n" in written
    assert DarknetSpec.from_text(written).input_size == (96, 64)


def test_published_anchors_from_fine_to_coarse_are_no_slip(caplog: pytest.LogCaptureFixture) -> None:
    """As networks that end in a path from fine to coarse have them; other masks of these anchors are warned of."""
    anchors = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
    head = (
        "[convolutional]\nfilters=18\nsize=1\nactivation=linear\n[yolo]\nmask={}\nclasses=1\nanchors=" + anchors + "\n"
    )
    for masks, warned in ((("0,1,2", "3,4,5", "6,7,8"), 0), (("0,1,2", "6,7,8", "3,4,5"), 3)):
        caplog.clear()
        DarknetSpec.from_text(NET + STEM + "".join(head.format(mask) for mask in masks))
        assert len(caplog.records) == warned


def test_short_names_of_sections() -> None:
    text = (NET + STEM + HEAD).replace("[net]", "[network]").replace("[convolutional]", "[conv]")
    assert DarknetSpec.from_text(text) == DarknetSpec.from_text(NET + STEM + HEAD)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (NET + STEM + NET + HEAD, r"cfg:9: \[net\] stands once"),
        ("[net]\nchannels=x\n" + STEM + HEAD, "cfg:2: channels must be a whole number, not 'x'"),
        (NET + STEM.replace("filters=8", "filters=99999999") + HEAD, "filters can be at most 65536"),
        (NET + STEM + "filters=9\n" + HEAD, "cfg:9: filters stands in this section already"),
        ("[net]\nchannels=0\n" + STEM + HEAD, r"images of 3 channels \(RGB\) or 1 \(grey\) here, not 0"),
        (NET + STEM.replace("size=3", "size=-3") + HEAD, "size must be at least 1, not -3"),
        (NET + STEM.replace("size=3", "size=0,3") + HEAD, "size must be at least 1, not 0"),
        (NET + STEM + HEAD.replace("16,30", "16,nan"), "pairs of width and height above 0"),
        (NET + STEM + HEAD.replace("16,30", "16,inf"), "pairs of width and height above 0"),
        (NET + STEM + "[shortcut]\nfrom=-1\nactivation=loud\n" + HEAD, "cfg:9: unknown activation loud"),
        (
            NET + STEM + "[shortcut]\nfrom=-1\nweights_type=per_channel\n" + HEAD,
            "cfg:9: .* needs weights_normalization",
        ),
        (
            NET + STEM + "[shortcut]\nfrom=-1\nweights_type=per_feature\nweights_normalization=max\n" + HEAD,
            "cfg:9: weights_normalization is one of none, relu, avg_relu, softmax, not max",
        ),
        (NET + STEM + "[route]\nlayers=-1\ngroups=3\n" + HEAD, "cfg:9: 8 channels cannot be divided into groups=3"),
        (NET + STEM + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n" + HEAD, "cfg:9: group_id=2 names no group"),
        (NET + STEM + "[route]\nlayers=-1\ngroup_id=1\n" + HEAD, "cfg:9: group_id=1 names no group"),
        (NET + STEM + HEAD + "scale_x_y=0\n", "scale_x_y must be a number above 0, not 0"),
        (NET + STEM + HEAD + "scale_x_y=wide\n", "cfg:19: scale_x_y must be a number, not 'wide'"),
        (NET + STEM + HEAD + "new_coords=2\n", "new_coords is 0 or 1, not 2"),
        (NET + STEM + HEAD + "new_coords=1\n", "that .convolutional. lacks it"),
        (NET + STEM + HEAD.replace("linear", "logistic"), "this .yolo. lacks it"),
        (NET + STEM + HEAD + "scalexy=1\n", r"cfg:19: \[yolo\] has no key scalexy"),
        (NET + STEM + HEAD + "antialiasing=1\n", r"cfg:19: \[yolo\] has no key antialiasing"),
        (NET + "chanels=1\n" + STEM + HEAD, r"cfg:3: \[net\] has no key chanels"),
        (NET + "channels=1\n" + STEM + HEAD, "cfg:3: channels stands in this section already"),
        (NET + "[reorg]\nstride=2\n" + STEM + HEAD, r"cfg:3: unknown section \[reorg\]"),
        (NET + STEM + "[shortcut]\nfrom=-1\nweights_type=foo\n" + HEAD, "weights_type is one of none"),
        (
            NET + STEM + HEAD + HEAD.replace("mask=0,1", "mask=0").replace("=12", "=6"),
            "differ in their number of anchors",
        ),
        (NET + STEM.replace("stride=2", "stride_x=2\nstride_y=1") + HEAD, "the same in width and height"),
        (NET + STEM.replace("stride=2", "stride=3") + HEAD, "a cell must be a whole number of pixels"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_model(DarknetSpec.from_text(text))
