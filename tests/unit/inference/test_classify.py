"""Second stage: crops at borders, the rule of agreement, heads of every family, files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.inference.classify import crop_windows, keep_agreed, load_classifier, load_second_stage

CPU = torch.device("cpu")
SMALL = "squeezenet1_1"  # quick to make, and its last layer is a convolution
HEADS = {  # family -> where its last layer is
    "resnet18": "fc",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "vit_b_32": "heads.head",
    "swin_t": "head",
    "densenet121": "classifier",
    "squeezenet1_1": "classifier.1",
    "googlenet": "fc",
    "regnet_x_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
}


class Recorder(nn.Module):
    """Says the given classes one after the other, and keeps what it was shown."""

    def __init__(self, classes: list[int], num_classes: int = 3) -> None:
        super().__init__()
        self.answers = torch.nn.functional.one_hot(torch.tensor(classes), num_classes).float()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        start = sum(len(images) for images in self.seen)
        self.seen.append(images)
        return self.answers[start : start + len(images)]


def detections(boxes: list[list[float]], labels: list[int]) -> Detections:
    scores = torch.linspace(0.9, 0.5, len(labels))
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), scores, torch.tensor(labels).long())


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ([100, 100, 140, 120], [79, 69, 161, 151]),  # 40 x 1.3 + 30 = 82, around (120, 110)
        ([0, 0, 40, 20], [0, 0, 61, 51]),  # (20, 10) +- 41, cut at left and top
        ([360, 280, 400, 300], [339, 249, 400, 300]),  # cut at right and bottom
        ([0, 0, 400, 300], [0, 0, 400, 300]),  # the whole image
        ([200, 150, 200, 150], [185, 135, 215, 165]),  # a point
    ],
)
def test_a_crop_is_a_larger_square_within_the_image(box: list[float], window: list[int]) -> None:
    assert crop_windows(np.array([box], np.float32), (300, 400)).tolist() == [window]


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_a_crop_is_never_empty(size: tuple[int, int], corners: list[float]) -> None:
    height, width = size
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([[x1 * width, y1 * height, x2 * width, y2 * height]], np.float32)
    left, top, right, bottom = crop_windows(box, size)[0].tolist()
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_only_boxes_of_the_same_class_stay() -> None:
    found = detections([[0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 8, 30], [2, 2, 9, 9]], [0, 1, 2, 1])
    kept = keep_agreed(Recorder([0, 2, 2, 1]), np.zeros((40, 30, 3), np.uint8), found, CPU)
    assert kept.labels.tolist() == [0, 2, 1]
    assert torch.equal(kept.boxes, found.boxes[[0, 2, 3]])
    assert torch.equal(kept.scores, found.scores[[0, 2, 3]])


def test_without_boxes_nothing_is_asked() -> None:
    network = Recorder([0])
    assert len(keep_agreed(network, np.zeros((40, 30, 3), np.uint8), Detections.empty(), CPU)) == 0
    assert network.seen == []


def test_a_crowd_is_shown_in_parts_and_in_order() -> None:
    labels = [i % 3 for i in range(150)]
    network = Recorder(labels)
    found = detections([[0, 0, 9, 9]] * 150, labels)
    assert len(keep_agreed(network, np.zeros((40, 30, 3), np.uint8), found, CPU)) == 150
    assert [len(images) for images in network.seen] == [64, 64, 22]


def test_the_classifier_sees_normalised_rgb_of_the_crop() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[69:151, 79:161] = (0, 51, 255)  # BGR, exactly the window of this box
    network = Recorder([0])
    keep_agreed(network, image, detections([[100, 100, 140, 120]], [0]), CPU)
    (seen,) = network.seen
    assert seen.shape == (1, 3, 224, 224)
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    assert torch.allclose(seen, expected.view(1, 3, 1, 1).expand_as(seen), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_the_last_layer_is_new_and_zero(name: str) -> None:
    network = load_classifier(name, 5)
    head = network.get_submodule(HEADS[name])
    assert head.weight.shape[0] == 5
    assert head.bias is not None
    assert not head.weight.any()
    assert not head.bias.any()
    assert sum(bool(p.any()) for p in network.parameters()) > 10  # the others are not
    assert not network.training
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, 224, 224))
        head.bias[3] = 1.0  # it is the layer that speaks
        assert network(torch.randn(2, 3, 224, 224)).argmax(1).tolist() == [3, 3]
    assert torch.equal(logits, torch.zeros(2, 5))


def test_all_classifiers_and_nothing_else_are_there() -> None:
    with pytest.raises(UserError, match="there are ") as caught:
        load_classifier("", 5)
    known = str(caught.value).partition("there are ")[2].split(", ")
    assert {"alexnet", "resnet101", "vgg16_bn", "vit_b_16", "swin_t", "wide_resnet50_2"} <= set(known)
    assert not [name for name in known if any(word in name for word in ("rcnn", "fcn", "quantized", "raft"))]


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet1O1", "resnet101"), ("fasterrcnn_resnet50_fpn", "no classifier"), ("", "alexnet")]
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        load_classifier(name, 3)


def saved(path: Path, network: nn.Module, within: str = "") -> Path:
    state = network.state_dict()
    torch.save({within: state, "epoch": 3} if within else state, path)
    return path


def trained(num_classes: int, name: str = SMALL) -> nn.Module:
    network = load_classifier(name, num_classes)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("within", ["", "model", "state_dict"])
def test_weights_are_read(tmp_path: Path, within: str) -> None:
    network = trained(3)
    read = load_second_stage(SMALL, 3, saved(tmp_path / "cls.pt", network, within)).state_dict()
    assert read.keys() == network.state_dict().keys()
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


def test_the_last_layer_must_be_trained_for_the_classes(tmp_path: Path) -> None:
    for network in (trained(7), load_classifier(SMALL, 3)):
        path = saved(tmp_path / "cls.pt", network)
        with pytest.raises(UserError, match=r"no trained last layer \(classifier.1\) for the detector's 3 classes"):
            load_second_stage(SMALL, 3, path)


def test_batch_norms_of_old_files_had_no_count(tmp_path: Path) -> None:
    state = {k: v for k, v in trained(3, "resnet18").state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    load_second_stage("resnet18", 3, tmp_path / "old.pt")


def test_weights_of_something_else(tmp_path: Path) -> None:
    state = trained(3).state_dict()
    path = tmp_path / "cls.pt"
    for content, complaint in (
        ({"a": torch.zeros(2)}, "it lacks features.0.weight and 51 more"),
        ({**state, "more": torch.zeros(2)}, "has no more"),
        ({**state, "features.0.bias": torch.zeros(2)}, r"features.0.bias is \(2,\), not \(64,\)"),
        ({**state, "classifier.1.bias": torch.zeros(())}, "no trained last layer"),
        ({key: value for key, value in state.items() if key != "classifier.1.bias"}, "it lacks classifier.1.bias"),
        ({}, "no state dict"),
        ([1, 2], "no state dict"),
        ({"epoch": 3}, "no state dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=complaint):
            load_second_stage(SMALL, 3, path)
    with pytest.raises(UserError, match="no weights at"):
        load_second_stage(SMALL, 3, tmp_path / "none.pt")


def test_a_pickled_network_is_not_run(tmp_path: Path) -> None:
    torch.save(trained(3), tmp_path / "cls.pt")
    with pytest.raises(UserError):
        load_second_stage(SMALL, 3, tmp_path / "cls.pt")
