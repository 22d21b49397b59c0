"""What a CenterFusion file holds, and the same weights as another kind of file: info and convert weights."""

from pathlib import Path
from typing import Any, cast

import torch

from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FAMILY, MODEL, STRIDE, FusionConfig, FusionInfoConfig, FusionWeightsConfig
from boxwright.centerfusion.weights import load_published, open_trained, read_published
from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.names import missing_weights
from boxwright.checkpoints.native import halved, is_native, save_checkpoint, strip_checkpoint
from boxwright.data.files import whole_file
from boxwright.errors import UserError
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.reporting.report import Table
from boxwright.settings.load import dump, flatten
from boxwright.terminal import counted

_SHAPES_INPUT = ("imgsz", "compat", "radar.", "frustum.", "augment.max_crop", "max_det")
"""Settings that a network is run with, by name or group; a published file holds none of them."""


def info(config: FusionInfoConfig) -> str:
    """Print and return one line per part of the model, or of the network of a checkpoint, then what it is.

    Raises:
        UserError: there is no such model or checkpoint, or the network does not take such an image.
    """
    file = config.weights or ("" if config.model == MODEL else config.model)
    if file and not Path(file).expanduser().is_file():
        if config.weights:
            raise UserError(missing_weights(file))
        raise UserError(f"there is no model {config.model}; did you mean {MODEL}?")
    network, trained, said = _describe(Path(file).expanduser()) if file else (None, FusionConfig(), "")
    if network is None and file:  # it cannot be run, but may start a training
        print(said)
        return said
    given = config.imgsz or trained.imgsz
    height, width = given[0], given[-1]
    network = CenterFusion(network.spec if network else CenterFusionSpec()).eval()
    # Shapes of the outputs without computing them.
    with torch.device("meta"), torch.no_grad():
        grid = (height // STRIDE, width // STRIDE)
        association = torch.zeros(1, 3, *grid) if network.spec.radar else None
        shapes = network.to("meta")(torch.zeros(1, 3, height, width), association=association)
    rows: list[list[str]] = []
    for name, part in network.named_children():
        count = sum(parameter.numel() for parameter in part.parameters())
        shape = " x ".join(map(str, shapes[name].shape[1:])) if name in shapes else "features"
        rows.append([name, f"{count:,}", shape])
    total = f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"
    table = Table(
        f"{file or MODEL}, image of {height} x {width} (height x width)", ("part", "parameters", "output"), rows
    )
    text = f"{table.as_text()}\n{said + ', ' if said else ''}{total}"
    print(text)
    return text


def _describe(path: Path) -> tuple[CenterFusion | None, FusionConfig, str]:
    """Open a file: its network (None: it cannot be run), the settings it is run with, and what it is in one line."""
    content = cast("dict[str, Any]", read_archive(path))
    own = is_native(content)
    epoch = content.get("epoch") if isinstance(content, dict) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    after = f", after {counted(epoch, 'epoch')}" if isinstance(epoch, int) else ""
    try:
        network, config = open_trained(str(path))
    except UserError as error:
        if own:
            raise
        report = load_published(CenterFusion(CenterFusionSpec()), read_published(path))
        if not report.loaded:
            raise
        return None, FusionConfig(), f"{path}: published weights{after}; {error}; a training would start with {report}"
    spec = network.spec
    sensors = "camera and radar" if spec.radar else "camera only"
    size = f"{config.imgsz[0]} x {config.imgsz[1]} (height x width)"
    kind = f"Boxwright checkpoint{after}, trained at {size}" if own else f"published weights{after}, run at {size}"
    loaded = f"all {len(network.state_dict())} entries are loaded"
    return network, config, f"{path}: {sensors}, width {spec.width:g}, {kind}, {loaded}"


def convert_weights(config: FusionWeightsConfig) -> Path:
    """Write the network of a file as a published .pth, or as a Boxwright checkpoint; return the file.

    A .pth holds `epoch` and `state_dict` with the published names, in float32, and no settings.

    Raises:
        UserError: the source cannot be opened, or the target is of another kind, is the source, or cannot be written.
    """
    if not config.target and not config.strip:
        raise UserError("convert weights needs OUT, a file to write; only with --strip it may be IN itself")
    source, target = Path(config.source).expanduser(), Path(config.target or config.source).expanduser()
    suffix = target.suffix.lower()
    if suffix not in (".pth", ".pt"):
        raise UserError(f"{target}: CenterFusion is written as .pth (published layout) or .pt (Boxwright checkpoint)")
    if suffix == ".pth" and config.strip:
        raise UserError(f"{target}: files of the published layout hold single precision; leave out --strip")
    strips = config.strip and is_native(read_archive(source))
    if target.exists() and source.exists() and target.samefile(source) and not strips:
        raise UserError(f"{target} is the source itself; name another file")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}")
    if strips:
        print(strip_checkpoint(source, target))
        return target
    network, trained = open_trained(str(source))
    content = cast("dict[str, Any]", read_archive(source))
    epoch = content.get("epoch")
    state, epoch = network.state_dict(), epoch if isinstance(epoch, int) else 0
    if suffix == ".pt":
        described = {"family": FAMILY, "spec": dict(network.spec), "names": list(CLASS_NAMES)}
        stored = halved(state) if config.strip else state
        kept = {"model": described, "state_dict": stored, "config": dump(trained), "epoch": epoch}
        save_checkpoint(target, kept)
    else:
        with whole_file(target) as temporary, temporary.open("wb") as file:
            torch.save({"epoch": epoch, "state_dict": state}, file)
    total = sum(parameter.numel() for parameter in network.parameters())
    print(f"{config.target}: {total:,} parameters, {counted(len(state), 'entry')}, from {config.source}")
    usual, own = flatten(dump(FusionConfig())), flatten(dump(trained))
    lost = [
        f"{name} " + " ".join(map(str, setting.value if isinstance(setting.value, list | tuple) else [setting.value]))
        for name, setting in own.items()
        if name.startswith(_SHAPES_INPUT) and setting.value != usual[name].value
    ]
    if lost and suffix == ".pth":
        print(
            f"a .pth holds no settings: whoever opens it takes the published ones, but this one has {', '.join(lost)}"
        )
    return target
