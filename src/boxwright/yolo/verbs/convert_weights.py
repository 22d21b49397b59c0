"""Weights from one kind of file into another; the network and its numbers stay what they are."""

from __future__ import annotations

from pathlib import Path

from boxwright.checkpoints.native import save_checkpoint
from boxwright.checkpoints.safetensors_file import write_safetensors
from boxwright.errors import UserError
from boxwright.yolo.darknet import DarknetModel
from boxwright.yolo.darknet_cfg import read_cfg
from boxwright.yolo.darknet_weights import write_darknet
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.stem import with_conv6_stem
from boxwright.yolo.weights import load_model

TARGETS = {".pt": "Boxwright checkpoint", ".safetensors": "safetensors", ".weights": "Darknet"}


def convert_weights(
    source: str | Path, target: str | Path, *, model: str = "", conv6_stem: bool = False
) -> DetectionModel:
    """Read any weight file and write its network as another kind, chosen by the suffix of the target.

    A Darknet file does not say its network nor its classes: they are written beside it as `.cfg` and `.names`, where no
    such files are yet.

    Args:
        source: a published `.pt`, our own `.pt` or safetensors, or a Darknet `.weights`.
        target: `.pt`, `.safetensors` or `.weights`.
        model: what a Darknet source belongs to: a cfg or a published name.
        conv6_stem: turn the Focus of early releases into a 6x6 convolution that gives the same numbers.

    Returns:
        the network.

    Raises:
        UserError: the source cannot be read, the target's kind is not known or cannot hold this network, or the target
            is the source.
    """
    source, target = Path(source), Path(target)
    suffix = target.suffix.lower()
    if suffix not in TARGETS:
        kinds = ", ".join(f"{ending} ({kind})" for ending, kind in TARGETS.items())
        raise UserError(f"{target}: what kind of file is that? convert weights writes {kinds}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target} is the source itself; name another file")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}")
    network = load_model(source, model)
    if conv6_stem:
        network = with_conv6_stem(network)
    if suffix == ".weights":
        _write_darknet(target, network, source)
        return network
    about = {"spec": network.spec.to_mapping(), "names": list(network.names), "strides": list(network.strides)}
    if suffix == ".pt":
        save_checkpoint(target, {"model": about, "state_dict": network.state_dict(), "ema": None})
    else:
        write_safetensors(target, network.state_dict(), about)
    return network


def _write_darknet(target: Path, network: DetectionModel, source: Path) -> None:
    if not isinstance(network, DarknetModel):
        raise UserError(f"{target}: a .weights file belongs to a Darknet cfg, but {source} holds the network of a yaml")
    cfg = target.with_suffix(".cfg")
    if cfg.exists() and read_cfg(cfg) != network.spec:
        raise UserError(f"{cfg} beside {target.name} is of another network; name another file, or take the cfg away")
    write_darknet(target, network)
    texts = {".cfg": str(network.spec.to_mapping()["cfg"]), ".names": "".join(f"{name}\n" for name in network.names)}
    for suffix, text in texts.items():
        beside = target.with_suffix(suffix)
        if not beside.exists():
            beside.write_text(text, encoding="utf-8")
