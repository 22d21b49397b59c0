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
from boxwright.reading import read_text, reads
from boxwright.yolo.detection import Levels, check_channels, growth, read_levels, write_levels

logger = logging.getLogger("boxwright.models")

# What a section may say, and what each value is. `ints`: a list, one value is a list of one.
_KEYS: dict[str, dict[str, str]] = {
    "net": dict.fromkeys(("channels", "width", "height"), "int"),
    "convolutional": {
        **dict.fromkeys(("batch_normalize", "filters", "stride", "stride_x", "stride_y", "pad", "padding"), "int"),
        "groups": "int",
        "size": "ints",
        "activation": "word",
    },
    "maxpool": dict.fromkeys(("size", "stride", "padding"), "int"),
    "upsample": {"stride": "int"},
    "route": {"layers": "ints", "groups": "int", "group_id": "int"},
    "shortcut": {"from": "ints", "activation": "word", "weights_type": "word", "weights_normalization": "word"},
    "yolo": {
        "mask": "ints",
        "anchors": "floats",
        **dict.fromkeys(("classes", "num", "new_coords"), "int"),
        "scale_x_y": "float",
    },
}
_ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool"}
# Keys that do not change what a network computes: those of Darknet's own training, NMS, tracking and GPU memory, and
# two that OpenCV reads (thresh, nms_threshold). They are passed over.
_PASSED_OVER: dict[str, frozenset[str]] = {
    "net": frozenset(
        "batch subdivisions momentum decay learning_rate learning_rate_min burn_in max_batches policy steps scales "
        "step scale gamma power seq_scales sgdr_cycle sgdr_mult adam B1 B2 eps loss_scale ema_alpha label_smooth_eps "
        "angle aspect saturation exposure hue flip blur gaussian_noise mixup cutmix mosaic mosaic_bound letter_box "
        "max_crop min_crop random center ratio clip resize_step contrastive contrastive_jit_flip contrastive_color "
        "unsupervised attention adversarial_lr max_chart_loss num_sigmas_reject_badlabels equidistant_point "
        "badlabels_rejection_percentage weights_reject_freq try_fix_nan dynamic_minibatch optimized_memory "
        "workspace_size_limit_MB use_cuda_graph show_receptive_field inputs time_steps track augment_speed "
        "sequential_subdivisions".split()
    ),
    "route": frozenset(("stream", "wait_stream")),
    "yolo": frozenset(
        "jitter resize random ignore_thresh truth_thresh iou_thresh iou_thresh_kind iou_loss iou_normalizer "
        "cls_normalizer obj_normalizer delta_normalizer max_delta nms_kind beta_nms label_smooth_eps max "
        "objectness_smooth focal_loss counters_per_class show_details track_history_size sim_thresh dets_for_track "
        "dets_for_show track_ciou_norm embedding_layer probability thresh nms_threshold".split()
    ),
}
_PASSED_OVER_ANYWHERE = frozenset(
    "onlyforward dont_update burnin_update stopbackward train_only_bn learning_rate clip assisted_excitation".split()
)
_REQUIRED = {
    "convolutional": ("filters", "size"),
    "maxpool": ("size", "stride"),
    "upsample": ("stride",),
    "route": ("layers",),
    "shortcut": ("from",),
    "yolo": ("mask", "anchors", "classes"),
}
_LARGEST_FILE = 4 << 20  # bytes
_LARGEST = 65536  # far beyond any network; a slip of the finger must not ask for terabytes
_AT_LEAST = dict.fromkeys("filters size stride stride_x stride_y groups classes".split(), 1) | {"padding": 0}
# What the words of a section may be. per_layer is another name of per_feature, avg_relu of relu.
_WORDS = {
    "weights_type": ("none", "per_feature", "per_layer", "per_channel"),
    "weights_normalization": ("none", "relu", "avg_relu", "softmax"),
}
# Masks of the published cfg files, coarse level first. yolov3-tiny was trained with these, yet a widespread cfg says
# 0,1,2 in its second yolo section.
_PUBLISHED_MASKS = {3: ((6, 7, 8), (3, 4, 5), (0, 1, 2)), 2: ((3, 4, 5), (1, 2, 3))}
_PUBLISHED_ANCHORS = {
    3: (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326),
    2: (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319),
}

Value = int | float | str | tuple[int, ...] | tuple[float, ...]


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
    input_size: tuple[int, int] | None = field(default=None, compare=False)  # width, height in pixels that it names
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
        net, *sections = read_sections(text, where) or [Section("", (), where)]
        if net.kind != "net":
            raise UserError(f"{where}: a cfg begins with the section [net]")
        if any(abs(net.number(key)) > _LARGEST for key in ("width", "height")):
            raise UserError(f"{net.place}: width and height can be at most {_LARGEST}")
        channels = check_channels(net.number("channels", 3), net.place)
        width, height = net.number("width"), net.number("height")
        layers = tuple(sections)
        for i, section in enumerate(layers):
            if section.kind == "net":
                raise UserError(f"{section.place}: [{section.kind}] stands once, at the beginning")
            check_section(i, section, layers)
        yolo = [section for section in layers if section.kind == "yolo"]
        if not yolo:
            raise UserError(f"{where}: there is no [yolo] section, so nothing would be detected")
        if len({section.number("classes") for section in yolo}) > 1:
            raise UserError(f"{where}: the [yolo] sections differ in their number of classes")
        if len({len(section.get("mask")) for section in yolo}) > 1:
            raise UserError(f"{where}: the [yolo] sections differ in their number of anchors (mask=)")
        # The published anchors on other levels than the published weights had are most likely a slip. Networks that end
        # in a path from fine to coarse, as YOLOv4, have the same levels in the other order.
        masks = tuple(section.get("mask") for section in yolo)
        published = _PUBLISHED_MASKS.get(len(yolo), ())
        if yolo[0].get("anchors") == _PUBLISHED_ANCHORS.get(len(yolo)) and masks != published[::-1]:
            for section, mask in zip(yolo, published, strict=True):
                if section.get("mask") != mask:
                    trained = (
                        f"the published weights were trained with mask={_written(mask)}: boxes would get wrong sizes"
                    )
                    logger.warning("%s: mask=%s, but %s", section.place, _written(section.get("mask")), trained)
        return cls(layers, channels, (width, height) if width > 0 and height > 0 else None)

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
        size = "width={}\nheight={}\n".format(*self.input_size) if self.input_size else ""
        blocks = [f"[net]\n{size}channels={self.input_channels}\n"]
        for section in self.sections:
            lines = [f"[{section.kind}]"]
            lines += [f"{key}={_written(value)}" for key, value in section.values]
            blocks.append("\n".join(lines) + "\n")
        return "\n".join(blocks)

    def to_mapping(self) -> dict[str, Any]:
        return {"cfg": self.to_text()}


@reads("cfg")
def read_cfg(path: Path) -> DarknetSpec:
    """Read a cfg file.

    Raises:
        UserError: unreadable, or as `DarknetSpec.from_text`.
    """
    return DarknetSpec.from_text(read_text(path, _LARGEST_FILE), str(path))


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
            kind = _ALIASES.get(kind, kind)
            if kind not in _KEYS:
                raise UserError(f"{place}: unknown section [{kind}] (known are {', '.join(_KEYS)})")
            sections.append(Section(kind, (), place))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not sections:
            raise UserError(f"{place}: a line is [section] or key=value, not {line!r}")
        kind = sections[-1].kind
        if key in _PASSED_OVER.get(kind, ()) or key in _PASSED_OVER_ANYWHERE:
            continue
        if sections[-1].get(key) is not None:  # one of the values would win silently
            raise UserError(f"{place}: {key} stands in this section already")
        sections[-1] = sections[-1].with_values(**{key: read_value(kind, key, value, place)})
    return sections


def read_value(kind: str, key: str, text: str, place: str) -> Value:
    """Read the value of a key as what `_KEYS` says that it is."""
    wanted = _KEYS[kind].get(key)
    if wanted is None:
        raise UserError(f"{place}: [{kind}] has no key {key} (it has {', '.join(_KEYS[kind])})")
    if wanted == "word":
        return text
    try:
        if wanted in ("int", "float"):
            return int(text) if wanted == "int" else float(text)
        return tuple(map(int if wanted == "ints" else float, filter(str.strip, text.split(","))))
    except ValueError:
        kinds = {"int": "a whole number", "ints": "whole numbers", "float": "a number", "floats": "numbers"}
        raise UserError(f"{place}: {key} must be {kinds[wanted]}, not {text!r}") from None


def check_section(index: int, section: Section, layers: tuple[Section, ...]) -> None:
    """Check what a section must have, and that the layers it takes from lie before it."""
    place = section.place
    for key in _REQUIRED[section.kind]:
        if section.get(key) in (None, ()):
            raise UserError(f"{place}: [{section.kind}] lacks {key}=")
    for key, kind in _KEYS[section.kind].items():
        value = section.get(key)
        if not kind.startswith("int") or value is None:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if key in _AT_LEAST and number < _AT_LEAST[key]:
                raise UserError(f"{place}: {key} must be at least {_AT_LEAST[key]}, not {number}")
            if abs(number) > _LARGEST:
                raise UserError(f"{place}: {key} can be at most {_LARGEST}, not {number}")
    for key, words in _WORDS.items():
        if section.get(key) not in (None, *words):
            raise UserError(f"{place}: {key} is one of {', '.join(words)}, not {section.get(key)}")
    if not 0 <= section.number("group_id") < section.number("groups", 1):
        given = section.number("group_id")
        raise UserError(f"{place}: group_id={given} names no group; there are groups={section.number('groups', 1)}")
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
    if section.number("new_coords") not in (0, 1):
        raise UserError(f"{place}: new_coords is 0 or 1, not {section.number('new_coords')}")
    scale = section.get("scale_x_y")
    if scale is not None and not 0 < scale < math.inf:
        raise UserError(f"{place}: scale_x_y must be a number above 0, not {scale:g}")
    # Otherwise scores would go through two sigmoids, or through none.
    is_logistic = before.get("activation") == "logistic"
    if is_logistic != bool(section.number("new_coords")):
        raise UserError(
            f"{place}: new_coords=1 and activation=logistic of the [convolutional] before go together: "
            f"{'this [yolo]' if is_logistic else 'that [convolutional]'} lacks it"
        )


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value)
