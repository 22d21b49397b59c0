"""A Darknet cfg, checked and frozen: sections of `key=value` lines. What is not here: building it (darknet.py).

Source: the published cfg grammar of Darknet and of the YOLOv3-SPP system for PyTorch (docs/spec/yolov3-spp.md, A1).
"""

import logging
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from boxwright.errors import UserError
from boxwright.yolo.detection import Levels, check_channels, growth, read_levels, write_levels

logger = logging.getLogger("boxwright.models")

# What a section may say, and what each value is. `ints`: a list, one value is a list of one.
_KEYS: dict[str, dict[str, str]] = {
    "convolutional": {
        **dict.fromkeys(("batch_normalize", "filters", "stride", "stride_x", "stride_y", "pad", "groups"), "int"),
        "size": "ints",
        "activation": "word",
    },
    "maxpool": {"size": "int", "stride": "int"},
    "upsample": {"stride": "int"},
    "route": {"layers": "ints"},
    "shortcut": {"from": "ints", "activation": "word", "weights_type": "word", "weights_normalization": "word"},
    "yolo": {
        "mask": "ints",
        "anchors": "floats",
        "classes": "int",
        "num": "int",
        # Of Darknet's own training and NMS; read, and of no effect here.
        **dict.fromkeys(("jitter", "ignore_thresh", "truth_thresh", "random", "scale_x_y", "beta_nms"), "word"),
        **dict.fromkeys(("nms_kind", "iou_loss", "iou_normalizer", "cls_normalizer", "obj_normalizer"), "word"),
        **dict.fromkeys(("iou_thresh", "probability", "max_delta", "resize"), "word"),
    },
}
_REQUIRED = {
    "convolutional": ("filters", "size"),
    "maxpool": ("size", "stride"),
    "upsample": ("stride",),
    "route": ("layers",),
    "shortcut": ("from",),
    "yolo": ("mask", "anchors", "classes"),
}
_LARGEST = 65536  # far beyond any network; a slip of the finger must not ask for terabytes
_WEIGHTS_TYPES = ("none", "per_feature", "per_layer")  # the last two are two names of one weight a layer
# Masks of the published cfg files, coarse level first. yolov3-tiny was trained with these, yet a widespread cfg says
# 0,1,2 in its second yolo section.
_PUBLISHED_MASKS = {3: ((6, 7, 8), (3, 4, 5), (0, 1, 2)), 2: ((3, 4, 5), (1, 2, 3))}
_PUBLISHED_ANCHORS = {
    3: (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326),
    2: (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319),
}

Value = int | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Section:
    """One layer."""

    kind: str  # as in its brackets
    values: tuple[tuple[str, Value], ...]  # by key
    place: str = field(compare=False)  # file and line, for messages

    def get(self, key: str) -> Any:
        return dict(self.values).get(key)

    def number(self, key: str, default: int = 0) -> int:
        value = self.get(key)
        return default if value is None else int(value)

    def with_values(self, **values: Value) -> Self:
        return replace(self, values=tuple((dict(self.values) | values).items()))


@dataclass(frozen=True)
class DarknetSpec:
    """A network as a Darknet cfg describes it."""

    sections: tuple[Section, ...]  # the layers, without `[net]`
    input_channels: int = 3
    anchors_to_find: bool = False  # the anchors only say how many there are; training finds real ones

    @property
    def num_classes(self) -> int:
        return next(s.number("classes") for s in self.sections if s.kind == "yolo")

    @property
    def anchors(self) -> Levels:
        """Return width, height in pixels: [yolo section][anchor], in the order of the sections."""
        levels: list[tuple[tuple[float, float], ...]] = []
        for section in self.sections:
            if section.kind == "yolo":
                sides = section.get("anchors")
                levels.append(tuple((sides[2 * i], sides[2 * i + 1]) for i in section.get("mask")))
        return tuple(levels)

    @classmethod
    def from_text(cls, text: str, where: str = "cfg") -> Self:
        """Check the content of a cfg.

        Raises:
            UserError: an unknown section or key, a value of the wrong kind, a layer that is not there; with the line.
        """
        sections = read_sections(text, where)
        if not sections or sections[0].kind not in ("net", "network"):
            raise UserError(f"{where}: a cfg begins with the section [net]")
        channels = check_channels(sections[0].number("channels", 3), sections[0].place)
        layers = tuple(sections[1:])
        for i, section in enumerate(layers):
            if section.kind not in _KEYS:
                raise UserError(f"{section.place}: [{section.kind}] stands once, at the beginning")
            check_section(i, section, layers)
        yolo = [section for section in layers if section.kind == "yolo"]
        if not yolo:
            raise UserError(f"{where}: there is no [yolo] section, so nothing would be detected")
        if len({section.number("classes") for section in yolo}) > 1:
            raise UserError(f"{where}: the [yolo] sections differ in their number of classes")
        if len({len(section.get("mask")) for section in yolo}) > 1:
            raise UserError(f"{where}: the [yolo] sections differ in their number of anchors (mask=)")
        # The published anchors on other levels than the published weights had are most likely a slip.
        if yolo[0].get("anchors") == _PUBLISHED_ANCHORS.get(len(yolo)):
            for section, mask in zip(yolo, _PUBLISHED_MASKS[len(yolo)], strict=True):
                if section.get("mask") != mask:
                    trained = (
                        f"the published weights were trained with mask={_written(mask)}: boxes would get wrong sizes"
                    )
                    logger.warning("%s: mask=%s, but %s", section.place, _written(section.get("mask")), trained)
        return cls(layers, channels)

    def with_classes(self, num_classes: int) -> Self:
        """Return the same network for another number of classes; the predictors before the yolo sections change too."""
        return replace(self, sections=self._with_outputs([{"classes": num_classes}] * len(self.anchors)))

    def with_anchors(self, anchors: object, where: str = "cfg") -> Self:
        """Return the same network with other anchors; the predictors change where there are more or fewer a level.

        Levels are turned round to run from small to large, or back, as they do now.
        """
        own = self.anchors
        levels, to_find = read_levels(anchors, len(own), where)
        if to_find:  # what stands in until then runs as it did
            levels = tuple(tuple(level[i % len(level)] for i in range(len(levels[0]))) for level in own)
        elif growth(levels) * growth(own) < 0:
            levels = levels[::-1]
        per_level = len(levels[0])
        sides = tuple(side for level in write_levels(levels) for side in level)
        masks = [tuple(range(first, first + per_level)) for first in range(0, len(sides) // 2, per_level)]
        outputs: list[dict[str, Value]] = [{"mask": m, "anchors": sides, "num": len(sides) // 2} for m in masks]
        return replace(self, sections=self._with_outputs(outputs), anchors_to_find=to_find)

    def _with_outputs(self, outputs: list[dict[str, Value]]) -> tuple[Section, ...]:
        """Return the sections with values of each yolo section replaced; the predictors before them follow."""
        sections, values = list(self.sections), iter(outputs)
        for i, section in enumerate(sections):
            if section.kind == "yolo":
                sections[i] = section.with_values(**next(values))
                filters = len(sections[i].get("mask")) * (sections[i].number("classes") + 5)
                sections[i - 1] = sections[i - 1].with_values(filters=filters)
        return tuple(sections)

    def to_text(self) -> str:
        """Write as a cfg; `from_text` reads it back."""
        blocks = [f"[net]\nchannels={self.input_channels}\n"]
        for section in self.sections:
            lines = [f"[{section.kind}]"]
            lines += [f"{key}={_written(value)}" for key, value in section.values]
            blocks.append("\n".join(lines) + "\n")
        return "\n".join(blocks)

    def to_mapping(self) -> dict[str, Any]:
        return {"cfg": self.to_text()}


def read_cfg(path: Path) -> DarknetSpec:
    """Read a cfg file.

    Raises:
        UserError: unreadable, or as `DarknetSpec.from_text`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return DarknetSpec.from_text(text, str(path))


def read_sections(text: str, where: str) -> list[Section]:
    """Split a cfg into its sections; refuse what no section may say, with the line."""
    sections: list[Section] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.split("[#;]", line, maxsplit=1)[0].strip()
        place = f"{where}:{number}"
        if not line:
            continue
        if line.startswith("["):
            kind = line.strip("[] ")
            if kind not in _KEYS and kind not in ("net", "network"):
                raise UserError(f"{place}: unknown section [{kind}] (known are {', '.join(_KEYS)})")
            sections.append(Section(kind, (), place))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not sections:
            raise UserError(f"{place}: a line is [section] or key=value, not {line!r}")
        # Of a key given twice one value would win silently. Of [net] only the channels are read.
        if sections[-1].get(key) is not None and sections[-1].kind in _KEYS:
            raise UserError(f"{place}: {key} stands in this section already")
        sections[-1] = sections[-1].with_values(**{key: read_value(sections[-1].kind, key, value, place)})
    return sections


def read_value(kind: str, key: str, text: str, place: str) -> Value:
    """Read the value of a key as what `_KEYS` says that it is."""
    if kind in ("net", "network"):
        if key == "channels" and not text.isdigit():
            raise UserError(f"{place}: channels must be a whole number, not {text!r}")
        return int(text) if key == "channels" else text
    wanted = _KEYS[kind].get(key)
    if wanted is None:
        raise UserError(f"{place}: [{kind}] has no key {key} (it has {', '.join(_KEYS[kind])})")
    if wanted == "word":
        return text
    try:
        parts = [part for part in text.split(",") if part.strip()]
        return int(text) if wanted == "int" else tuple(map(int if wanted == "ints" else float, parts))
    except ValueError:
        kinds = {"int": "a whole number", "ints": "whole numbers", "floats": "numbers"}
        raise UserError(f"{place}: {key} must be {kinds[wanted]}, not {text!r}") from None


def check_section(index: int, section: Section, layers: tuple[Section, ...]) -> None:
    """Check what a section must have, and that the layers it takes from lie before it."""
    place = section.place
    for key in _REQUIRED[section.kind]:
        if section.get(key) in (None, ()):
            raise UserError(f"{place}: [{section.kind}] lacks {key}=")
    for key in ("filters", "size", "stride", "stride_x", "stride_y", "groups", "classes"):
        value = section.get(key)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            if number < 1:
                raise UserError(f"{place}: {key} must be at least 1, not {number}")
            if number > _LARGEST:
                raise UserError(f"{place}: {key} can be at most {_LARGEST}, not {number}")
    if section.kind == "shortcut" and section.get("activation") not in (None, "linear"):
        raise UserError(f"{place}: a [shortcut] has activation=linear, not {section.get('activation')}")
    weights_type = section.get("weights_type")
    if weights_type not in (None, *_WEIGHTS_TYPES):
        raise UserError(f"{place}: weights_type is one of {', '.join(_WEIGHTS_TYPES)}, not {weights_type}")
    for source in section.get("layers") or section.get("from") or ():
        if not 0 <= (source if source >= 0 else index + source) < index:
            raise UserError(f"{place}: layer {index} takes from {source}, but before it are only 0 to {index - 1}")
    if section.kind == "yolo":
        check_yolo(section, layers[index - 1] if index else None)


def check_yolo(section: Section, before: Section | None) -> None:
    """Check a [yolo] section against its anchors and the predictor that stands before it."""
    place, mask, sides = section.place, section.get("mask"), section.get("anchors")
    if len(sides) % 2 or not all(0 < side < math.inf for side in sides):
        raise UserError(f"{place}: anchors must be pairs of width and height above 0; there are {len(sides)} numbers")
    if not all(0 <= i < len(sides) // 2 for i in mask):
        raise UserError(f"{place}: mask {list(mask)} names an anchor that is not there; there are {len(sides) // 2}")
    filters = len(mask) * (section.number("classes") + 5)
    if before is None or before.kind != "convolutional" or before.number("filters") != filters:
        found = "none" if before is None else f"[{before.kind}] with filters={before.get('filters')}"
        raise UserError(
            f"{place}: before a [yolo] of {section.number('classes')} classes stands a [convolutional] with "
            f"filters={filters}, not {found}"
        )


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value)
