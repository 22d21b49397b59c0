"""What a network is made of, before it is built: the rows of a model yaml, checked and frozen.

Source: the published YOLOv5 model yaml grammar (rows of [from, number, block, arguments]).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from boxwright.errors import UserError
from boxwright.yolo.detection import MOST_CLASSES, MOST_LAYERS, Levels, check_channels, items, read_levels, write_levels
from boxwright.yolo.published import CURRENT, LayerRules, layer_rules

REQUIRED_KEYS = ("nc", "anchors", "backbone", "head")
KNOWN_KEYS = (*REQUIRED_KEYS, "depth_multiple", "width_multiple", "activation", "ch", "inplace", "generation")


@dataclass(frozen=True)
class Row:
    """One layer of the network."""

    sources: tuple[int, ...]  # layers that feed it; -1 is the one before
    repeats: int  # before the depth multiple
    block: str
    args: tuple[Any, ...]  # as written, before the width multiple
    place: str  # where the row stands, for messages

    def to_list(self) -> list[Any]:
        sources = self.sources[0] if len(self.sources) == 1 and self.block != "Detect" else list(self.sources)
        return [sources, self.repeats, self.block, [list(a) if isinstance(a, tuple) else a for a in self.args]]


@dataclass(frozen=True)
class ModelSpec:
    """A network: its rows, the two multiples, its anchors and number of classes."""

    num_classes: int
    depth_multiple: float  # scales the number of repeats
    width_multiple: float  # scales the number of channels
    anchors: Levels
    backbone: tuple[Row, ...]  # first rows
    head: tuple[Row, ...]  # last rows; the very last one is the Detect head
    activation: str | None = None  # as written in the yaml, "nn.LeakyReLU(0.1)"; None is that of the generation
    input_channels: int = 3
    generation: str = CURRENT  # the release whose activations and constants it has, such as "v3.0"
    anchors_to_find: bool = False  # the anchors only say how many there are; training finds real ones

    @property
    def layer_rules(self) -> LayerRules:
        return layer_rules(self.generation)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.backbone + self.head

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "model yaml") -> Self:
        """Check the content of a model yaml, read from the file `where`.

        Raises:
            UserError: a key is missing or unknown, or a value or a row is malformed.
        """
        missing = [key for key in REQUIRED_KEYS if key not in mapping]
        if missing:
            raise UserError(f"{where}: missing key {', '.join(missing)} (a model yaml has {', '.join(REQUIRED_KEYS)})")
        unknown = [str(key) for key in mapping if key not in KNOWN_KEYS]
        if unknown:
            raise UserError(f"{where}: unknown key {', '.join(unknown)} (known are {', '.join(KNOWN_KEYS)})")
        backbone = _read_rows(mapping["backbone"], "backbone", 0, where)
        head = _read_rows(mapping["head"], "head", len(backbone), where)
        if not head or head[-1].block != "Detect":
            raise UserError(f"{where}: the last row of head must be Detect")
        activation, generation = mapping.get("activation"), str(mapping.get("generation", CURRENT))
        try:
            layer_rules(generation)
        except UserError as error:
            raise UserError(f"{where}: generation: {error}") from error
        anchors, anchors_to_find = read_levels(mapping["anchors"], len(head[-1].sources), where)
        return cls(
            num_classes=_count(mapping["nc"], f"{where}: nc", MOST_CLASSES),
            depth_multiple=_multiple(mapping.get("depth_multiple", 1.0), f"{where}: depth_multiple"),
            width_multiple=_multiple(mapping.get("width_multiple", 1.0), f"{where}: width_multiple"),
            anchors=anchors,
            backbone=backbone,
            head=head,
            activation=None if activation is None else str(activation),
            input_channels=check_channels(_count(mapping.get("ch", 3), f"{where}: ch"), f"{where}: ch"),
            generation=generation,
            anchors_to_find=anchors_to_find,
        )

    def with_classes(self, num_classes: int) -> Self:
        return replace(self, num_classes=num_classes)

    def with_anchors(self, anchors: object, where: str = "model") -> Self:
        levels, to_find = read_levels(anchors, len(self.anchors), where)
        return replace(self, anchors=levels, anchors_to_find=to_find)

    def to_mapping(self) -> dict[str, Any]:
        """Return the published yaml form, in plain values; `from_mapping` reads it back."""
        mapping: dict[str, Any] = {
            "nc": self.num_classes,
            "depth_multiple": self.depth_multiple,
            "width_multiple": self.width_multiple,
            "anchors": len(self.anchors[0]) if self.anchors_to_find else write_levels(self.anchors),
            "backbone": [row.to_list() for row in self.backbone],
            "head": [row.to_list() for row in self.head],
            "ch": self.input_channels,
            "generation": self.generation,
        }
        return mapping if self.activation is None else mapping | {"activation": self.activation}


def _count(value: object, what: str, most: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what} must be a whole number of at least 1, not {value!r}")
    if most and value > most:
        raise UserError(f"{what} can be at most {most:,}, not {value:,}")
    return value


def _multiple(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise UserError(f"{what} must be a number above 0 and below 100, not {value!r}")
    return float(value)


def _read_rows(value: object, part: str, first_index: int, where: str) -> tuple[Row, ...]:
    rows = items(value)
    if rows is None:
        raise UserError(f"{where}: {part} must be a list of rows [from, number, block, arguments]")
    numbered = enumerate(rows, first_index)
    return tuple(read_row(row, i, f"{where}, {part} row {i + 1 - first_index} (layer {i})") for i, row in numbered)


def read_row(value: object, index: int, place: str) -> Row:
    """Check one row; `index` is the number of its layer, and it can only take from earlier ones."""
    cells = items(value)
    if cells is None or len(cells) != 4:
        raise UserError(f"{place}: a row is [from, number, block, arguments], not {value!r}")
    source, repeats, block, args = cells
    sources = items(source) if isinstance(source, list | tuple) else [source]
    for layer in sources or [None]:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise UserError(f"{place}: from must be a layer number or a list of them, not {source!r}")
        if layer >= index or (layer < 0 and index + layer < (0 if index else -1)):
            raise UserError(f"{place}: from {layer} names no earlier layer")
    arguments = items(args)
    if arguments is None or not isinstance(block, str):
        raise UserError(f"{place}: block must be a name and arguments a list, not {block!r}, {args!r}")
    frozen = tuple(tuple(cast(list[Any], a)) if isinstance(a, list) else a for a in arguments)
    return Row(tuple(sources or ()), _count(repeats, f"{place}: number", MOST_LAYERS), block, frozen, place)
