"""Camera and radar prediction from Python: what the network is given, and what becomes of its answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion.detector import CenterFusionDetector
from boxwright.centerfusion.heads import raw_from_depth
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.structures import RawHeads
from boxwright.errors import UserError
from tests.unit.centerfusion.scenes3d import make_sample
from tests.unit.drawing.scenes3d import CALIB, camera, radar

CONFIG = FusionConfig(imgsz=(128, 224))  # 32 x 56 cells, 7.14 pixels of the image each
RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 255, (225, 400, 3), np.uint8)
POINTS = radar((0.0, 1.0, 10.0, 3.0, -4.0), (2.0, 1.0, 25.0, 0, 0))
CHANNELS = {"hm": 10, "reg": 2, "wh": 2, "dep": 1, "rot": 8, "dim": 3, "amodel_offset": 2}
CHANNELS |= {"dep_sec": 1, "rot_sec": 8, "nuscenes_att": 8, "velocity": 3}


class OneCar(nn.Module):
    """Sees a car of 1.5 x 2 x 4 m at cell (28, 16), as deep as the radar map says there, else 20 m."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.given: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def __deepcopy__(self, memo: object) -> OneCar:
        return self

    def forward(self, images: Tensor, maps: Tensor | None = None, calibs: Tensor | None = None) -> RawHeads:
        assert calibs is not None
        assert not self.training
        self.given.append((images, maps, calibs))
        size = (images.shape[0], images.shape[2] // 4, images.shape[3] // 4)
        heads = {name: torch.zeros(size[0], n, *size[1:]) for name, n in CHANNELS.items()}
        heads["hm"] -= 8
        for row in range(size[0]):
            heads["hm"][row, 0, 16, 28] = 2.0
        heads["dim"] += torch.tensor([1.5, 2.0, 4.0])[:, None, None]
        depth = torch.full((size[0], 1, *size[1:]), 20.0)
        if maps is not None:
            depth = torch.where(maps[:, :1] > 0, maps[:, :1], depth)
        heads["dep_sec"] = raw_from_depth(depth)
        heads["rot_sec"][:, 1], heads["rot_sec"][:, 3] = 1.0, 1.0  # the first bin, its middle: alpha -90 degrees
        heads["velocity"][:, 2] = 5.0
        return heads


class Stored:
    """One image as a data set gives it."""

    def __init__(self, path: Path, points: np.ndarray) -> None:
        record = camera(1)[0]
        self.image = replace(record, path=path)
        self.points = points

    def __len__(self) -> int:
        return 1

    def record(self, position: int) -> object:
        return self.image

    def radar(self, position: int) -> np.ndarray:
        return self.points


def test_network_gets_what_a_sample_of_validation_holds(tmp_path: Path) -> None:
    path = tmp_path / "é.png"
    path.write_bytes(cv2.imencode(".png", IMAGE)[1].tobytes())
    model = OneCar()
    detector = CenterFusionDetector(model, CONFIG)
    detector.predict(path, CALIB, POINTS)
    detector.predict(IMAGE[..., ::-1], CALIB[:, :3], POINTS)
    sample = make_sample(Stored(path, POINTS), 0, CONFIG, None)  # pyright: ignore[reportArgumentType]
    for images, maps, calibs in model.given:
        assert maps is not None
        assert np.array_equal(images[0].permute(1, 2, 0).numpy(), sample.image)
        assert np.array_equal(maps[0].numpy(), sample.radar)
        assert np.array_equal(calibs[0].numpy(), sample.calib)
        assert (maps[0, 0] == 10).any()


def test_detection_is_in_the_frame_of_the_camera() -> None:
    found = CenterFusionDetector(OneCar(), CONFIG).predict(IMAGE, CALIB)
    assert len(found) == 1
    assert found.labels.tolist() == [0]
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)
    # Cell (28, 16) is the middle of the image (200, 112.5); the principal point is (200, 112). y: the bottom face.
    expected = (0.0, 0.5 / 400 * 20 + 0.75, 20.0)
    np.testing.assert_allclose(found.locations[0], expected, atol=1e-3)
    np.testing.assert_allclose(found.dims[0], (1.5, 2.0, 4.0))
    np.testing.assert_allclose(found.rotation_y[0], -np.pi / 2, atol=1e-3)
    np.testing.assert_allclose(found.velocity[0], (0, 0, 5), atol=1e-3)  # along its length, as published


def test_intrinsics_of_another_image_are_told() -> None:
    with pytest.warns(UserWarning, match=r"intrinsics: the principal point .* of images of 400 x 225 pixels, but of"):
        CenterFusionDetector(OneCar(), CONFIG).predict(IMAGE, np.diag([2.0, 2, 1]) @ CALIB)


def test_radar_reaches_the_network() -> None:
    at_car = radar((0.116, 0.5, 13.0, 0, 0))  # the middle of column 28
    detector = CenterFusionDetector(OneCar(), CONFIG)
    assert detector.predict(IMAGE, CALIB, at_car).locations[0, 2] == pytest.approx(13.0, abs=1e-3)
    for nothing in (None, np.zeros((18, 0)), radar((0, 0.5, 61.0, 0, 0)), radar((0, 0.5, -13.0, 0, 0))):
        assert detector.predict(IMAGE, CALIB, nothing).locations[0, 2] == pytest.approx(20.0, abs=1e-3)


def test_several_images_of_different_sizes_run_at_once() -> None:
    model = OneCar()
    detector = CenterFusionDetector(model, CONFIG)
    large = np.repeat(np.repeat(IMAGE, 2, 0), 2, 1)
    double = np.diag((2.0, 2.0, 1.0)) @ CALIB
    near = radar((0.0625, 0.5, 7.0, 0, 0))
    together = detector.predict_many([IMAGE, large], [CALIB, double], [None, near])
    assert [images.shape[0] for images, _, _ in model.given] == [2]
    alone = [detector.predict(IMAGE, CALIB), detector.predict(large, double, near)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.locations, other.locations, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
    assert together[1].locations[0, 2] == pytest.approx(7.0, abs=1e-3)
    assert detector.predict_many([], []) == []


def test_flip_test_looks_at_the_mirror_image_too() -> None:
    model = OneCar()
    found = CenterFusionDetector(model, CONFIG).predict(IMAGE, CALIB, POINTS, flip_test=True)
    images, maps, calibs = model.given[0]
    assert maps is not None
    assert len(images) == len(maps) == len(calibs) == 2
    assert torch.equal(images[1], images[0].flip(2))
    assert torch.equal(maps[1, 1], -maps[0, 1].flip(1))
    # The peak stands at cell 28 in both, that is at 28 and at 27 when mirrored back: each has half of its score.
    assert 1 <= len(found) <= 2
    assert found.scores[0] < 0.5


def test_threshold_and_number_of_detections() -> None:
    detector = CenterFusionDetector(OneCar(), CONFIG)
    assert len(detector.predict(IMAGE, CALIB, conf_thres=0.9)) == 0
    assert len(detector.predict(IMAGE, CALIB, conf_thres=-1.0, max_det=7)) == 7


def test_camera_only_network_gets_no_radar() -> None:
    model = OneCar()
    detector = CenterFusionDetector(model, CONFIG.model_copy(update={"no_radar": True}))
    assert len(detector.predict(IMAGE, CALIB)) == 1
    assert model.given[0][1] is None
    with pytest.raises(UserError, match="no radar input"):
        detector.predict(IMAGE, CALIB, POINTS)


@pytest.mark.parametrize(
    ("image", "calib", "points", "message"),
    [
        ("gone.jpg", CALIB, None, "gone.jpg"),
        (IMAGE[..., 0], CALIB, None, r"\(H, W, 3\)"),
        (IMAGE.astype(np.float32), CALIB, None, "float32"),
        (IMAGE, CALIB[:2], None, r"not \(2, 4\)"),
        (IMAGE, -CALIB, None, "focal"),
        (IMAGE, CALIB * np.nan, None, "finite"),
        (IMAGE, CALIB, POINTS.T, r"not \(2, 18\)"),
        (IMAGE, CALIB, POINTS * np.nan, "finite"),
    ],
)
def test_wrong_input_is_told(image: object, calib: np.ndarray, points: np.ndarray | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CenterFusionDetector(OneCar(), CONFIG).predict(image, calib, points)  # pyright: ignore[reportArgumentType]


def test_numbers_of_images_intrinsics_and_radars_must_agree() -> None:
    with pytest.raises(UserError, match="2 images, 1 intrinsics"):
        CenterFusionDetector(OneCar(), CONFIG).predict_many([IMAGE, IMAGE], [CALIB])


@pytest.mark.parametrize("with_radar", [True, False])
def test_real_network_sees_the_same_alone_and_among_others(with_radar: bool) -> None:
    torch.manual_seed(2)
    model = CenterFusion(CenterFusionSpec(width=0.125, radar=with_radar))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("dim.") and parameter.shape == (3,):
                parameter.fill_(2.0)  # an untrained network has objects of no size
    detector = CenterFusionDetector(model, CONFIG.model_copy(update={"no_radar": not with_radar}))
    other = np.diag((0.8, 0.8, 1.0)) @ CALIB
    points = [radar((0.116, 0.5, 13.0, 2, 0)) if with_radar else None, None]
    together = detector.predict_many([IMAGE, IMAGE[::-1]], [CALIB, other], points, conf_thres=-1.0)
    alone = [
        detector.predict(IMAGE, CALIB, points[0], conf_thres=-1.0),
        detector.predict(IMAGE[::-1], other, points[1], conf_thres=-1.0),
    ]
    for one, same in zip(together, alone, strict=True):
        assert len(one) == 100
        assert (one.scores[:-1] >= one.scores[1:]).all()
        np.testing.assert_allclose(one.scores, same.scores, atol=1e-5)
        np.testing.assert_allclose(one.locations[:5], same.locations[:5], rtol=1e-3, atol=1e-3)
    assert next(model.parameters()).device == next(detector.model.parameters()).device
    assert model.training, "the network that was given is left as it was"
