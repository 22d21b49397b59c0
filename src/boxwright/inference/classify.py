"""Second stage: a classifier looks at a crop of each detection, and those that it takes for another class are dropped.

The classifier is any of torchvision's with a last layer of its own. It is not trained here.
Source: published YOLOv5 behaviour (docs/spec/yolov5.md, B10, B11): square crops of 1.3 times the longer side of the box
plus 30 px, resized to 224 px; a detection stays where both stages name the same class; the new last layer is zero.
Deliberate: the pixels are normalised as those that torchvision's classifiers are trained on.
"""

import difflib
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.checkpoints.archive import read_archive
from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.extras import needed
from boxwright.ops.arrays import Image, Ints
from boxwright.ops.torchvision_operators import load_operators

CROP_GAIN, CROP_PAD, CROP_SIDE = 1.3, 30, 224
CROPS_AT_ONCE = 64  # bounds the memory of a crowded image: 1000 crops would take gigabytes in a ResNet
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1


def load_classifier(name: str, num_classes: int) -> nn.Module:
    """Build one of torchvision's classifiers with random weights and a new last layer, all zeros; on the CPU.

    Args:
        name: as torchvision calls it: "resnet101", "efficientnet_b0", "vit_b_16".
        num_classes: outputs of the last layer.

    Returns:
        (B, 3, 224, 224) normalised RGB to logits (B, num_classes), in eval mode.

    Raises:
        UserError: no such classifier, or no torchvision that fits.
    """
    load_operators()
    with needed("--classifier", "gpu"):
        from torchvision import models  # here: it takes more CPU time than torch itself

    known = models.list_models(module=models)  # a closed list: a name never reaches another module
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"torchvision has no classifier {name!r}; {hint}")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of two, on a default that is to change
        network = models.get_model(name, weights=None, num_classes=num_classes)
    for parameter in network.get_submodule(_last_layer(network)).parameters():
        nn.init.zeros_(parameter)
    return network.eval()


def load_second_stage(name: str, num_classes: int, weights: str | Path) -> nn.Module:
    """Load a classifier of the detector's classes; nothing of the file is executed.

    Args:
        name: as for `load_classifier`.
        num_classes: of the detector.
        weights: a state dict of this classifier, as `torch.save` writes it, by itself or under "model" or "state_dict".

    Raises:
        UserError: no such classifier; the file is missing, unreadable or of another network; or its last layer is not
            trained, or for another number of classes.
    """
    network = load_classifier(name, num_classes)
    content: Any = read_archive(Path(weights))
    for key in ("model", "state_dict"):  # as training scripts save it, torchvision's own among them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    given: dict[Any, Any] = content if isinstance(content, dict) else {}
    if not given or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in given.items()):
        raise UserError(f"{weights} holds no state dict of a classifier")
    wanted, last = network.state_dict(), _last_layer(network)
    untrained = UserError(f"{weights} has no trained last layer ({last}) for the detector's {num_classes} classes")
    for key, value in given.items():
        if key in wanted and value.shape != wanted[key].shape:
            if key.rpartition(".")[0] == last:
                raise untrained
            raise UserError(
                f"{weights} is not of {name}: {key} is {tuple(value.shape)}, not {tuple(wanted[key].shape)}"
            )
    loaded = network.load_state_dict(given, strict=False)
    if missing := loaded.missing_keys:
        raise UserError(f"{weights} is not of {name}: it lacks {missing[0]} and {len(missing) - 1} more")
    if loaded.unexpected_keys:
        raise UserError(f"{weights} is not of {name}, which has no {loaded.unexpected_keys[0]}")
    if not any(bool(parameter.any()) for parameter in network.get_submodule(last).parameters()):
        raise untrained  # all logits would be equal
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


def _last_layer(network: nn.Module) -> str:
    """Find the name of the layer that makes the logits: in all of torchvision's classifiers the last with weights."""
    return [key for key, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
