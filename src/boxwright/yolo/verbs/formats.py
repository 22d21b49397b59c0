"""The bench formats verb: every form that a checkpoint can run in here, exported, verified, measured and timed."""

import contextlib
import csv
import io
import math
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from boxwright.data.dataset import open_dataset
from boxwright.data.files import csv_cell, picture_errors, write_atomically
from boxwright.data.images import read_image
from boxwright.engine.console import with_progress
from boxwright.engine.device import select_device
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference.exported import is_exported
from boxwright.inference.streams import DEFAULT_FPS, Frame
from boxwright.yolo.detector import Detector, load
from boxwright.yolo.settings import ExportConfig, FormatsConfig, ValConfig
from boxwright.yolo.verbs.export import export
from boxwright.yolo.verbs.val import val

# Name: kind of file, "" for the checkpoint itself; its precision.
FORMS = {
    "PyTorch": ("", ""),
    "PyTorch, half": ("", "half"),
    "TorchScript": ("torchscript", ""),
    "ONNX Runtime": ("onnx", ""),
    "ONNX Runtime, half": ("onnx", "half"),
    "ONNX Runtime, int8": ("onnx", "int8"),
    "OpenVINO": ("openvino", ""),
    "OpenVINO, half": ("openvino", "half"),
    "OpenVINO, int8": ("openvino", "int8"),
    "NCNN": ("ncnn", ""),
    "NCNN, half": ("ncnn", "half"),
}
_SHARED = ("data", "imgsz", "device")  # settings that exporting and measuring have, too
_WARM_UP = 2  # rounds before the clock counts


@dataclass(slots=True)
class Form:
    """One row of the table."""

    name: str
    megabytes: float = math.nan
    agreement: str = ""  # with PyTorch; empty for PyTorch itself
    map50: float = math.nan
    map: float = math.nan
    milliseconds: float = math.nan  # median of network, decoding and NMS of one image
    reason: str = ""  # why it cannot run here


def bench_formats(config: FormatsConfig) -> list[Form]:
    """Export a checkpoint to every form, measure and time each; print a table, and write it with a plot.

    A form that cannot run here is a row with the reason.

    Raises:
        UserError: no checkpoint or data set, or the checkpoint itself cannot be measured.
    """
    for name in ("weights", "data"):
        if not getattr(config, name):
            raise UserError(f"bench formats needs --{name}")
    if is_exported(config.weights):
        raise UserError(f"{config.weights} is an exported file; bench formats starts from a checkpoint")
    index = open_dataset(config.data, "val")
    select_device(config.device)
    # Refuses what is no checkpoint before there is a folder. The size is chosen, and told, once for all forms.
    height, width = load(config.weights, device=config.device).input_size(config.imgsz)
    config = config.model_copy(update={"imgsz": (height,) if height == width else (height, width)})
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    detectors: dict[str, Detector] = {}
    forms: list[Form] = []
    for name in with_progress(list(FORMS)):
        form = Form(name)
        forms.append(form)
        try:
            detectors[name] = _measure(form, config, folder)
        except UserError as error:
            form.reason = str(error)
    places = np.unique(np.linspace(0, len(index) - 1, config.images).astype(int))
    frames = [Frame(read_image(index.path(i)), index.path(i), None, DEFAULT_FPS, "") for i in places.tolist()]
    for form, milliseconds in _time(detectors, frames, config):
        next(row for row in forms if row.name == form).milliseconds = milliseconds
    write_table(forms, folder / "formats.csv")
    print(format_table(forms))
    if not config.noplots:
        with picture_errors():
            plot_forms(forms, f"{Path(config.weights).name} on {Path(config.data).name}", folder / "formats.png")
    print(f"results in {folder}")
    return forms


def _measure(form: Form, config: FormatsConfig, folder: Path) -> Detector:
    """Export one form, fill its row from `export` and `val`, and return it ready to run.

    Raises:
        UserError: it cannot be written or run here.
    """
    kind, precision = FORMS[form.name]
    path, half = Path(config.weights), precision == "half" and not kind
    with contextlib.redirect_stdout(io.StringIO()):  # what they print is in the row
        if kind:
            of_kind = {"include": [kind]} | ({precision: True} if precision else {})
            written = {"project": str(folder), "name": "exported", "exist_ok": True}
            settings = of_kind | written | {name: getattr(config, name) for name in ("weights", *_SHARED)}
            ((path, agreement),) = export(ExportConfig.model_validate(settings)).items()
            form.agreement = str(agreement).rpartition(", in ")[0]
        written = {"project": str(folder), "name": f"val_{form.name.replace(', ', '_').replace(' ', '_')}"}
        settings = {name: getattr(config, name) for name in ("batch_size", "workers", *_SHARED)}
        settings |= {"weights": str(path), "half": half, "noplots": True}
        evaluation = val(ValConfig.model_validate(settings | written))
        form.map50, form.map = evaluation.map50, evaluation.map
        detector = load(path, device=config.device, half=half)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    form.megabytes = sum(os.path.getsize(file) for file in files) / 1e6
    return detector


def _time(detectors: Mapping[str, Detector], frames: list[Frame], config: FormatsConfig) -> Iterator[tuple[str, float]]:
    """Yield the median milliseconds of each form; forms take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in detectors}
    for turn in range(_WARM_UP + config.repeats):
        for name, detector in detectors.items():
            size = detector.input_size(config.imgsz)
            for frame in frames:
                result = detector.run(frame, size, detector.postprocess(detector.settings))
                if turn >= _WARM_UP:
                    times[name].append(result.speed.inference + result.speed.nms)
    for name, values in times.items():
        yield name, median(values)


_COLUMNS = ("MB", "mAP50", "mAP50-95", "ms", "times")


def _numbers(form: Form, base: float) -> tuple[float, ...]:
    return form.megabytes, form.map50, form.map, form.milliseconds, base / form.milliseconds


def format_table(forms: list[Form]) -> str:
    """Write each form's numbers in a line, and below how it agrees with PyTorch, or why it cannot run."""
    wide = max(len(form.name) for form in forms) + 2
    lines = [" " * wide + "".join(f"{name:>10}" for name in _COLUMNS)]
    for form in forms:
        values = zip(_numbers(form, forms[0].milliseconds), (1, 3, 3, 1, 2), strict=True)
        row = "" if form.reason else "".join(f"{value:>10.{digits}f}" for value, digits in values)
        lines.append(f"{form.name:<{wide}}{row}".rstrip())
        lines += textwrap.wrap(form.reason or form.agreement, 78, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def write_table(forms: list[Form], path: Path) -> None:
    """Write the table as csv."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("form", *_COLUMNS, "agreement", "reason"))
    for form in forms:
        numbers = ("" if math.isnan(value) else f"{value:.5g}" for value in _numbers(form, forms[0].milliseconds))
        table.writerow((form.name, *numbers, csv_cell(form.agreement), csv_cell(form.reason)))
    write_atomically(path, text.getvalue())


def plot_forms(forms: list[Form], title: str, path: Path) -> None:
    """Draw bars of milliseconds, with the mAP of each form beside its bar."""
    from boxwright.reporting.plots import Figure, save_figure

    ran = [form for form in forms if not form.reason]
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(ran)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([form.name for form in ran], [form.milliseconds for form in ran], color="#4477aa")
    axes.bar_label(bars, [f"{form.milliseconds:.1f} ms, mAP {form.map:.3f}" for form in ran], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set(xlabel="network, decoding and NMS of one image, ms", title=title.replace("$", r"\$"))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
