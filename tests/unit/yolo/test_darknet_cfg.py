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
        (NET + STEM + "[shortcut]\nfrom=-1\nactivation=leaky\n" + HEAD, "activation=linear, not leaky"),
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
