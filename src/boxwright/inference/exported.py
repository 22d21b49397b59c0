"""Exported files of any system: write ONNX, TorchScript, OpenVINO and NCNN, open them, compare them with the network.

A system passes in its network, the names of inputs and outputs, and an `ExportInfo` with what its network needs.
Nothing in a file is executed but the network's own operators.
"""

import importlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from boxwright.checkpoints.names import missing_weights
from boxwright.checkpoints.native import not_finite
from boxwright.data.files import Hidden, remove_leftovers
from boxwright.errors import UserError
from boxwright.extras import needed
from boxwright.inference.admission import check_ncnn, check_onnx, check_openvino
from boxwright.inference.onnx_graph import EXPORTED_OPSET, fix_reshapes, lower_opset
from boxwright.inference.torchscript import read_torchscript
from boxwright.reading import load_yaml, read_bytes, read_text, reads

_log = logging.getLogger("boxwright.exported")

METADATA_KEY = "boxwright"
ONNX_SUFFIX, TORCHSCRIPT_SUFFIX = ".onnx", ".torchscript"
OPENVINO_SUFFIX, NCNN_SUFFIX = "_openvino_model", "_ncnn_model"  # of folders
NCNN_FILES, NCNN_METADATA = (".param", ".bin"), "boxwright.json"
LARGEST = 1024  # images in a batch, and strides in a side, that an ONNX graph promises to take
DEFAULT_OPSET = 17  # as published last; ONNX Runtime 1.16, OpenCV 4.8 and TensorRT 8 read it


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What an exported file says about itself; each system adds what its network needs."""

    system: ClassVar[str]  # name of the system; in lower case it is the family in the file

    names: tuple[str, ...]  # one per class
    input_size: tuple[int, int] | None  # height, width of images where they are fixed

    @property
    def published(self) -> dict[str, str]:
        """Return what else an ONNX file says, for programs that read files of other makers."""
        return {}

    def to_json(self) -> str:
        """Write the metadata of a file."""
        fields = {"family": self.system.lower()} | asdict(self)
        return json.dumps(fields, ensure_ascii=False, default=dict)  # a group of settings as its fields

    @classmethod
    def from_json(cls, metadata: str, path: Path) -> Self:
        """Read the metadata of a file, as far as the fields of the system go.

        Raises:
            UserError: the file was not exported by Boxwright, or is of another system.
        """
        try:
            fields = TypeAdapter(dict[str, Any]).validate_json(metadata)
            family = fields.get("family", cls.system.lower())  # files of older versions do not say it
            if family != cls.system.lower():
                raise UserError(
                    f"this is an export of {family}, not of {cls.system}; name the checkpoint that it was made of"
                )
            return TypeAdapter(cls).validate_python(fields)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except ValueError as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise UserError(
                f"{path} is not an exported {cls.system} network: it was not made by `boxwright export` ({why})"
            ) from error


_CUDA_PROVIDER = "CUDAExecutionProvider"
Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # inputs by name, in order; to outputs by name
Shape = tuple[int | None, ...]  # None: a free dimension


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """An opened file."""

    run: Run
    metadata: str  # what `ExportInfo.to_json` wrote; empty where the file has none
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what files of other makers say about themselves
    inputs: tuple[Shape, ...] = ()  # where the file says them
    outputs: Mapping[str, Shape] = field(default_factory=dict[str, Shape])  # likewise


def is_exported(path: str | Path) -> bool:
    """Tell by its name whether a path means an exported file rather than a checkpoint."""
    path = Path(path)
    return path.suffix in (ONNX_SUFFIX, TORCHSCRIPT_SUFFIX, ".xml") or path.name.endswith(
        (OPENVINO_SUFFIX, NCNN_SUFFIX)
    )


@reads("exported network")
def open_exported(path: Path, device: torch.device) -> ExportedFile:
    """Open an exported file by its suffix.

    Args:
        path: `.onnx`, `.torchscript`, `.xml`, or a folder `*_openvino_model` or `*_ncnn_model`.
        device: where TorchScript runs, and ONNX by an ONNX Runtime for CUDA; the others run on the CPU.

    Raises:
        UserError: missing, unreadable, not for this device, or its library is not installed.
    """
    if not path.exists():
        raise UserError(missing_weights(path))
    for part in path.iterdir() if path.is_dir() else [path]:
        if not part.is_dir():
            read_bytes(part, first=0)  # refuses a pipe, which the runtimes would wait for
    if device.type == "mps":
        raise UserError(f"{path} does not run on a Mac's GPU: give --device cpu")
    if path.suffix == TORCHSCRIPT_SUFFIX:
        file = _open_torchscript(path, device)
    elif path.suffix == ONNX_SUFFIX:
        file = _open_onnx(path, device)
    elif device.type != "cpu":
        raise UserError(f"{path} runs on the CPU: give --device cpu, or export to TorchScript or ONNX for a GPU")
    else:
        file = _open_ncnn(path) if path.name.endswith(NCNN_SUFFIX) else _open_openvino(path)
    return replace(file, run=_watched(file.run, path))


def _watched(run: Run, path: Path) -> Run:
    """Return `run`, which says once that what comes out is not finite, as is said of the weights of other files."""
    is_told = False

    def watched(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        nonlocal is_told
        found = run(inputs)
        # Sums take a fifth of the time of a look at each number.
        if is_told or all(value.sum().isfinite() for value in found.values()):
            return found
        if bad := not_finite(found):
            is_told = True
            _log.warning("%s gives numbers that are not finite (%s); what it finds means nothing", path, bad[0])
        return found

    return watched


def _open_onnx(path: Path, device: torch.device) -> ExportedFile:
    """Open a file with ONNX Runtime, on the CPU or the GPU."""
    runtime = require("onnxruntime")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type != "cpu":  # in fp32 without TF32, as a checkpoint is run by val
        providers.insert(0, (_CUDA_PROVIDER, {"device_id": device.index or 0, "use_tf32": 0}))
    check_onnx(require("onnx"), path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # As many threads as PyTorch was given: by default the runtime would take every core.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its own exception types share no base
        raise UserError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
    if device.type != "cpu" and _CUDA_PROVIDER not in session.get_providers():  # it goes on without, in silence
        raise UserError(
            f"{path}: this ONNX Runtime has no CUDA: give --device cpu, or install onnxruntime-gpu in its place"
        )
    inputs = session.get_inputs()
    names: list[str] = [output.name for output in session.get_outputs()]
    half = {entry.name for entry in inputs if entry.type == "tensor(float16)"}  # files of other makers

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = zip((entry.name for entry in inputs), _arrays(given).values(), strict=True)
        arrays = {name: value.astype("float16") if name in half else value for name, value in arrays}
        with _told(path):
            return dict(zip(names, map(torch.from_numpy, session.run(names, arrays)), strict=True))

    others = dict(session.get_modelmeta().custom_metadata_map)
    shapes = {output.name: _shape(output.shape) for output in session.get_outputs()}
    own = others.pop(METADATA_KEY, "")
    return ExportedFile(run, own, others, tuple(_shape(entry.shape) for entry in inputs), shapes)


def _shape(sizes: Sequence[Any]) -> Shape:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)


def _open_torchscript(path: Path, device: torch.device) -> ExportedFile:
    """Open a file with PyTorch; a tuple of outputs is numbered, as TorchScript keeps no names."""
    archive, texts = read_torchscript(path, (METADATA_KEY, "config.txt"))  # the second is that of other makers
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated: whoever has such a file knows
            script = torch.jit.load(archive, map_location=device)
    except (RuntimeError, ValueError, LookupError, TypeError, torch.jit.Error) as error:
        # What follows the first line are places in the source of the runtime.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read as TorchScript: {reason}") from error

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with _told(path):
            found = script(*inputs.values())
        outputs: Sequence[Any] = found if isinstance(found, tuple | list) else (found,)
        return {str(i): value for i, value in enumerate(outputs) if isinstance(value, Tensor)}

    own, config = texts.values()
    try:
        others = TypeAdapter(dict[str, Any]).validate_json(config or "{}")
    except ValueError:
        others = {}
    shape: Any = others.get("shape")
    return ExportedFile(run, own, others, (_shape(shape),) if isinstance(shape, list) else ())


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Turn what a runtime raises while it runs a file into a UserError; running out of memory stays what it is."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the runtimes' own types share no base
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"{path} cannot be run on these images: {lines[-1].strip()}") from error


def _open_openvino(path: Path) -> ExportedFile:
    """Open an xml, or the folder it is in, with OpenVINO on the CPU."""
    openvino = require("openvino")
    file = path if path.suffix == ".xml" else next(iter(sorted(path.glob("*.xml"))), path / "model.xml")
    check_openvino(file)
    core = openvino.Core()
    try:
        model = core.read_model(str(file))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]  # the lines before name places in its own source
        raise UserError(f"{file} cannot be read as an OpenVINO model: {reason}") from error
    metadata = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else ""
    # Without the hint it computes in bf16 where the CPU has it, which moves boxes by pixels.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", settings | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with _told(path):
            found = compiled(list(_arrays(inputs).values()))
        # Copied, because the next call writes into the same memory.
        return {output.any_name: torch.from_numpy(found[output].copy()) for output in compiled.outputs}

    # Files of other makers have a yaml beside them.
    beside = None if metadata else next(iter(sorted(file.parent.glob("*.yaml"))), None)
    try:
        others = TypeAdapter(dict[str, Any]).validate_python(load_yaml(read_text(beside), beside) if beside else {})
    except (UserError, ValueError):
        others = {}
    shapes = tuple(
        tuple(size.get_length() if size.is_static else None for size in entry.partial_shape) for entry in model.inputs
    )
    return ExportedFile(run, metadata, others, shapes)


_NCNN_TRIAL = """
import sys, ncnn, numpy
net = ncnn.Net()
net.opt.use_vulkan_compute = False
for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
    setattr(net.opt, f"use_{name}", False)
if net.load_param(sys.argv[1]) or net.load_model(sys.argv[2]):
    sys.exit()  # told by who loads it next
extractor = net.create_extractor()
extractor.input(net.input_names()[0], ncnn.Mat(numpy.zeros((3, int(sys.argv[3]), int(sys.argv[4])), "f4")))
for name in net.output_names():
    extractor.extract(name)
"""
_NCNN_SECONDS = 120.0  # that a trial may take


def _try_ncnn(path: Path, parts: Sequence[Path], metadata: str) -> None:
    """Run a network once in a process of its own: NCNN trusts a param, and crashes on one that does not fit together.

    Raises:
        UserError: it crashes, or does not end.
    """
    size = re.search(r'"(?:input_size|imgsz)": \[(\d{1,4}), (\d{1,4})\]', metadata)
    sides = size.groups() if size else ("640", "640")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _NCNN_TRIAL, *map(str, parts), *sides],
            capture_output=True,
            check=False,
            timeout=_NCNN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path} does not answer within {_NCNN_SECONDS:.0f} seconds: it is damaged") from error
    if done.returncode < 0:
        raise UserError(f"{path} cannot be run as an NCNN model: its layers do not fit together, and NCNN crashes")


def _open_ncnn(path: Path) -> ExportedFile:
    """Open a folder with NCNN, on the CPU; images go through it one by one."""
    ncnn, numpy = require("ncnn"), require("numpy")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, torch.get_num_threads()
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)  # they move boxes by pixels
    parts = [next(iter(sorted(path.glob(f"*{suffix}"))), path / f"model{suffix}") for suffix in NCNN_FILES]
    for part in parts:
        if not part.is_file():
            raise UserError(f"{path} cannot be read as an NCNN model: it holds no {part.name}")
    check_ncnn(*parts)
    about = path / NCNN_METADATA
    metadata = read_text(about) if about.is_file() else ""
    _try_ncnn(path, parts, metadata)
    if net.load_param(str(parts[0])) or net.load_model(str(parts[1])):
        raise UserError(f"{path} cannot be read as an NCNN model: {parts[0].name} or {parts[1].name} is damaged")

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (images,) = _arrays(inputs).values()
        found: dict[str, list[Any]] = {name: [] for name in net.output_names()}
        for image in images:
            extractor = net.create_extractor()
            extractor.input(net.input_names()[0], ncnn.Mat(image).clone())
            for name, values in found.items():
                failed, output = extractor.extract(name)
                if failed:  # then the output has no memory
                    raise UserError(f"{path} cannot be run as an NCNN model: its layers do not fit together")
                values.append(numpy.array(output))  # copied: the next image takes its memory
        return {name: torch.from_numpy(numpy.stack(values)) for name, values in found.items()}

    return ExportedFile(run, metadata)


def _arrays(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Convert the inputs of a runtime to float32 arrays."""
    return {name: value.cpu().float().numpy() for name, value in inputs.items()}


def write_onnx(
    module: nn.Module,
    path: Path,
    info: ExportInfo,
    inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, Any]],
    outputs: Mapping[str, Mapping[int, str]],
    *,
    opset: int = DEFAULT_OPSET,
    simplify: bool = True,
    extend: Callable[[Any], None] | None = None,
) -> None:
    """Export a network by torch.export.

    Args:
        module: in eval mode.
        path: written to.
        info: goes into the file's metadata.
        inputs: examples by name, in the order of `forward`; the sizes of free dimensions above 1.
        dynamic: free dimensions of each input.
        outputs: names of free dimensions of each output, in the order in which `forward` returns them.
        opset: version of the standard operators.
        simplify: fold constants and remove what nothing needs.
        extend: adds to the graph, at `EXPORTED_OPSET` or newer, before it is made older.

    Raises:
        UserError: onnx or onnxscript is not installed, or the opset has no words for this network.
    """
    onnx = require("onnx")
    require("onnxscript")
    with _quiet(), torch.no_grad():
        # By torch.export, which keeps free dimensions as symbols; a trace would fix what is computed from them.
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={name: dict(free) for name, free in dynamic.items()},
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=max(opset, EXPORTED_OPSET),
            optimize=simplify,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if simplify:
        fix_reshapes(onnx, model)
    del model.graph.value_info[:]  # names sizes by formulas, which nobody needs
    names = {name: {axis: dim.__name__ for axis, dim in free.items()} for name, free in dynamic.items()} | {**outputs}
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in names[value.name].items():
            size = value.type.tensor_type.shape.dim[axis]
            if not size.HasField("dim_value"):
                size.dim_param = name.rpartition("*")[2]  # a side is a multiple: "32*height"
    if extend is not None:
        extend(model)
    lower_opset(onnx, model, opset)
    save_onnx(model, path, info)


def save_onnx(model: Any, path: Path, info: ExportInfo) -> None:
    """Check a graph and write it with its metadata."""
    onnx = require("onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json(), **info.published})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantise_onnx(
    source: Path, path: Path, info: ExportInfo, batches: Iterator[Mapping[str, Tensor]], float_layers: Sequence[str]
) -> None:
    """Turn the convolutions of an ONNX file into int8 by static quantisation; everything else stays in float.

    Args:
        source: the float file.
        path: written to.
        info: goes into the new file.
        batches: inputs by name that show the range of activations.
        float_layers: convolutions whose parameters' names begin so stay in float.
    """
    onnx, quantization = require("onnx"), require("onnxruntime.quantization")
    convolutions = [node for node in onnx.load(str(source)).graph.node if node.op_type == "Conv"]
    kept = [node.name for node in convolutions if any(name.startswith(tuple(float_layers)) for name in node.input)]

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            inputs = next(batches, None)
            return None if inputs is None else {name: value.numpy() for name, value in inputs.items()}

    with _quiet():
        # Only convolutions: rows hold pixels up to 640 beside scores in 0..1, which cannot share the scale of 8 bits.
        quantization.quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            extra_options={"QuantizeBias": False},  # as int32 in the scale of small weights, biases overflow
        )
    save_onnx(onnx.load(str(path)), path, info)


def write_torchscript(module: nn.Module, path: Path, info: ExportInfo, inputs: Sequence[Tensor]) -> None:
    """Trace a network in eval mode with example inputs."""
    # Warnings are of branches on shapes, which are the same for every image of a network.
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        script = torch.jit.trace(module, tuple(inputs), check_trace=False)
        content = io.BytesIO()  # written to a file that gets full, it would end the process
        torch.jit.save(script, content, _extra_files={METADATA_KEY: info.to_json().encode()})
        path.write_bytes(content.getbuffer())


def write_openvino(source: Path, folder: Path, info: ExportInfo, *, half: bool) -> None:
    """Convert an ONNX file into a folder with an xml of the graph and a bin of the numbers.

    Args:
        source: the ONNX file.
        folder: an empty folder, written to.
        info: goes into the xml.
        half: store the numbers as fp16.

    Raises:
        UserError: openvino is not installed.
    """
    openvino = require("openvino")
    model = openvino.Core().read_model(str(source))
    model.set_rt_info(info.to_json(), METADATA_KEY)
    try:
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=half)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1:]  # its words do not say that a disk is full
        raise UserError(f"OpenVINO cannot write {folder.name} ({''.join(why)}): is the disk full?") from error


def write_ncnn(module: nn.Module, folder: Path, info: ExportInfo, inputs: Sequence[Tensor], *, half: bool) -> None:
    """Convert a network of one input into a folder with a param of the graph and a bin of the numbers, by pnnx.

    Args:
        module: in eval mode.
        folder: an empty folder, written to.
        info: goes into a json beside them.
        inputs: two images of different sides, which shows that sides are free; one image: they are not.
        half: store the numbers as fp16.

    Raises:
        UserError: ncnn or pnnx is not installed, or pnnx cannot convert the network.
    """
    require("ncnn")
    pnnx = Path(require("pnnx").__file__).with_name("pnnx")
    with TemporaryDirectory() as work:
        write_torchscript(module, Path(work, "model.pt"), info, inputs[:1])
        shapes = [
            f"inputshape{number or ''}=[{','.join(map(str, image.shape))}]"
            for number, image in zip((0, 2), inputs, strict=False)
        ]
        command = [str(pnnx), "model.pt", *shapes, f"fp16={int(half)}"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        for suffix in NCNN_FILES:
            made = Path(work, f"model.ncnn{suffix}")
            if not made.is_file():
                reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
                raise UserError(f"pnnx cannot convert this network: {''.join(reason) or f'exit {done.returncode}'}")
            shutil.copyfile(made, folder / f"model{suffix}")
    (folder / NCNN_METADATA).write_text(info.to_json(), encoding="utf-8")


class Agreement(Protocol):
    """How well an exported file agrees with its network, in the terms of a system; `str` gives it as a sentence."""

    @property
    def fault(self) -> str: ...  # why the file must not be kept; empty where it may


A = TypeVar("A", bound=Agreement)


def largest_difference(found: Tensor, expected: Tensor, *, relative: bool = False) -> float:
    """Return the largest |found - expected|, relative to 1 + |expected| on request; 0 for no numbers, nan beats all."""
    difference = (found - expected).abs()
    if relative:
        difference = difference / (1 + expected.abs())
    return float(difference.max()) if difference.numel() else 0.0


def write_verified(target: Path, write: Callable[[Path], A]) -> A:
    """Write an exported file, keep it only if it agrees with its network, and print how well it does.

    Args:
        target: takes its place when all is done; after an error the old file is still there, and no other.
        write: writes to a path beside it, compares what it wrote, and returns the agreement.

    Raises:
        UserError: the target cannot be written, or the agreement has a fault.
    """
    start = time.perf_counter()
    try:
        # Beside the target: a file can be moved in one step only within one file system.
        remove_leftovers(target.parent)
        hidden = Hidden(target, folder=True)
        try:
            temporary = hidden.path / target.name
            agreement = write(temporary)
            if agreement.fault:
                raise UserError(f"{target} is not kept: {agreement.fault}")
            files = [temporary] if temporary.is_file() else [file for file in temporary.rglob("*") if file.is_file()]
            megabytes = sum(file.stat().st_size for file in files) / 1e6
            if target.is_dir():
                shutil.rmtree(target)  # a folder that is not empty cannot be replaced in one step
            temporary.replace(target)
        finally:
            hidden.drop()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    print(f"{target}: {megabytes:.1f} MB in {time.perf_counter() - start:.1f} s; {agreement}")
    return agreement


def require(library: str) -> Any:
    """Import a library of the extra `export`, after telling it to send nothing to its makers.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is loaded
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # OpenVINO then takes its own silent stub
    with needed("an exported file", "export"):
        return importlib.import_module(library)


@contextmanager
def _quiet() -> Generator[None]:
    """Suppress warnings of exporters: they concern their own code; what concerns the user is found by comparing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
