"""Second stage: a classifier looks at a crop of each detection, and those that it takes for another class are dropped.

The classifier is any of torchvision's with a last layer of its own. It is not trained here.
Source: published YOLOv5 behaviour (docs/spec/yolov5.md, B10, B11): square crops of 1.3 times the longer side of the box
plus 30 px, resized to 224 px; a detection stays where both stages name the same class; the new last layer is zero.
Deliberate: the pixels are normalised as those that torchvision's classifiers are trained on.
"""

import difflib
import logging
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import models

from boxwright.checkpoints.archive import read_archive
from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.ops.arrays import Image, Ints

logger = logging.getLogger("boxwright.classify")

CLASSIFIERS = tuple(models.list_models(module=models))  # a closed list: a name never reaches another module
CROP_GAIN, CROP_PAD, CROP_SIDE = 1.3, 30, 224
CROPS_AT_ONCE = 64  # bounds the memory of a crowded image: 1000 crops would take gigabytes in a ResNet
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1


def load_classifier(name: str, num_classes: int, weights: str | Path | None = None) -> nn.Module:
    """Build one of torchvision's classifiers with a new last layer, all zeros; in eval mode, on the CPU.

    Args:
        name: as torchvision calls it: "resnet101", "efficientnet_b0", "vit_b_16".
        num_classes: outputs of the last layer.
        weights: a state dict of this classifier, as `torch.save` writes it, by itself or under "model" or "state_dict".
            A last layer for another number of classes is left out, and a warning says so. None: random weights.

    Returns:
        (B, 3, 224, 224) normalised RGB to logits (B, num_classes).

    Raises:
        UserError: no such classifier, or the file is missing, unreadable or of another network.
    """
    if name not in CLASSIFIERS:
        near = difflib.get_close_matches(name, CLASSIFIERS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(CLASSIFIERS)}"
        raise UserError(f"torchvision has no classifier {name!r}; {hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of two networks, on a default of theirs that is to change
        network = models.get_model(name, weights=None, num_classes=num_classes)
    for parameter in _last_layer(network)[1].parameters():
        nn.init.zeros_(parameter)
    if weights is not None:
        _fill(network, name, Path(weights))
    return network.eval()


def load_second_stage(name: str, num_classes: int, weights: str | Path) -> nn.Module:
    """Load a classifier as `load_classifier` does; the file must hold a last layer trained for these classes.

    Raises:
        UserError: as there, or it does not: all logits would be equal.
    """
    network = load_classifier(name, num_classes, weights)
    key, layer = _last_layer(network)
    if not any(bool(parameter.any()) for parameter in layer.parameters()):
        raise UserError(f"{weights} has no trained last layer ({key}) for the detector's {num_classes} classes")
    return network


@torch.inference_mode()
def keep_agreed(network: nn.Module, image: Image, found: Detections, device: torch.device) -> Detections:
    """Keep the detections whose class is also the classifier's, in their order.

    Args:
        network: classifier on `device`, in eval mode; its classes are the detector's, in the same order.
        image: (H, W, 3) uint8 BGR.
        found: boxes in pixels of this image, inside it; on the CPU.
        device: where the classifier is.
    """
    if not len(found):
        return found
    windows = crop_windows(found.boxes.float().numpy(), (image.shape[0], image.shape[1]))
    size = (CROP_SIDE, CROP_SIDE)
    pieces = [cv2.resize(image[y0:y1, x0:x1], size) for x0, y0, x1, y1 in windows.tolist()]
    crops = torch.from_numpy(np.stack(pieces)[..., ::-1].copy())  # RGB
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    classes: list[Tensor] = []
    for part in crops.split(CROPS_AT_ONCE):
        pixels = part.to(device).permute(0, 3, 1, 2).float().div_(255)  # bytes are sent, not floats
        classes.append(network((pixels - mean) / std).argmax(dim=1))
    agreed = torch.cat(classes).cpu() == found.labels
    return Detections(found.boxes[agreed], found.scores[agreed], found.labels[agreed])


def crop_windows(boxes: NDArray[np.float32], image_hw: tuple[int, int]) -> Ints:
    """Compute squares around boxes, cut at the borders of the image.

    Args:
        boxes: (N, 4) xyxy pixels, inside the image.
        image_hw: its height and width.

    Returns:
        (N, 4) left, top, right, bottom; the last two excluded. None is empty: the extra pixels reach into the image.
    """
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = (size.max(axis=1, keepdims=True) * CROP_GAIN + CROP_PAD) / 2
    height, width = image_hw
    corners = np.concatenate((centre - half, centre + half), axis=1)
    return np.clip(corners, 0, (width, height, width, height)).astype(np.int64)


def _last_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Find the layer that makes the logits, and its name: in all of torchvision's classifiers the last with weights."""
    return [(key, m) for key, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def _fill(network: nn.Module, name: str, path: Path) -> None:
    """Load a state dict from a file; nothing of it is executed."""
    content: Any = read_archive(path)
    for key in ("model", "state_dict"):  # as training scripts save it, torchvision's own among them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    given: dict[Any, Any] = content if isinstance(content, dict) else {}
    if not given or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in given.items()):
        raise UserError(f"{path} holds no state dict of a classifier")
    wanted, (last, _) = network.state_dict(), _last_layer(network)
    other = {key: t.shape for key, t in given.items() if key in wanted and t.shape != wanted[key].shape}
    if heads := [key for key in other if key.rpartition(".")[0] == last]:
        num_classes = other[heads[0]][0] if other[heads[0]] else 0
        logger.warning("%s has %d classes: its last layer (%s) is left out and is new", path, num_classes, last)
        given = {key: value for key, value in given.items() if key.rpartition(".")[0] != last}
        for key in heads:
            del other[key]
    if other:
        key, shape = next(iter(other.items()))
        raise UserError(f"{path} is not of {name}: {key} is {tuple(shape)}, not {tuple(wanted[key].shape)}")
    loaded = network.load_state_dict(given, strict=False)
    if missing := [key for key in loaded.missing_keys if not (heads and key.rpartition(".")[0] == last)]:
        raise UserError(f"{path} is not of {name}: it lacks {missing[0]} and {len(missing) - 1} more")
    if loaded.unexpected_keys:
        raise UserError(f"{path} is not of {name}, which has no {loaded.unexpected_keys[0]}")
