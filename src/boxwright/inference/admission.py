"""ONNX, OpenVINO and NCNN files, checked before a runtime opens them: what they refer to, and sizes against the files.

A file may name operators that a library brings, data in other files, and more numbers than it holds. Here it may name
the operators of its format only, files in its own folder only, and numbers that are there.
"""

import math
import re
import xml.parsers.expat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from boxwright.errors import UserError

_ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # the last: what ONNX Runtime itself brings
_CONTEXT = "EPContext"  # an operator that hands a file to the driver of a device
_OPENVINO_OPSETS = re.compile(r"opset\d{1,2}")
_OPENVINO_BITS = {
    "f64": 64,
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "boolean": 8,
    "i64": 64,
    "i32": 32,
    "i16": 16,
    "i8": 8,
    "u64": 64,
    "u32": 32,
    "u16": 16,
    "u8": 8,
    "i4": 4,
    "u4": 4,
    "nf4": 4,
    "u1": 1,
}
_MAX_DEPTH = 64  # of an xml, which has about 8
_NCNN_MAGIC = "7767517"
_NCNN_WEIGHTS = {  # layer type -> key of the number of its weights
    **dict.fromkeys(("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"), "6"),
    **dict.fromkeys(("Convolution1D", "Convolution3D", "DeformableConv2D"), "6"),
    "InnerProduct": "2",
}


def check_onnx(onnx: Any, path: Path) -> None:
    """Check an ONNX file.

    Args:
        onnx: the library.
        path: of the file.

    Raises:
        UserError: not ONNX, an operator of no standard, data outside of the folder or beyond the end of a file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own types share no base
        raise UserError(f"{path} cannot be read as ONNX: {' '.join(str(error).split())[:200]}") from error
    domains = {*_ONNX_DOMAINS, *(function.domain for function in model.functions)}
    for node in _nodes([model.graph, *model.functions]):
        if node.domain not in domains or node.op_type == _CONTEXT:
            raise UserError(
                f"refuses to load {path}: it asks for the operator {node.domain}.{node.op_type}, none of ONNX; "
                "libraries of operators are not loaded"
            )
    for tensor in _tensors(onnx, model):
        count = math.prod(tensor.dims)
        if any(side < 0 for side in tensor.dims):
            raise UserError(f"{path} cannot be read as ONNX: its tensor {tensor.name!r} has a size below 0")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            held = _external_bytes(path, {entry.key: entry.value for entry in tensor.external_data}, tensor.name)
        else:
            kinds = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
            held = len(tensor.raw_data) or max(8 * len(getattr(tensor, kind)) for kind in kinds)
        if count > 2 * held:  # two numbers of four bits to a byte
            raise UserError(
                f"{path} cannot be read as ONNX: its tensor {tensor.name!r} claims {count} numbers in {held} bytes"
            )


def _nodes(graphs: Iterable[Any]) -> Iterator[Any]:
    """Yield the nodes of graphs and of the graphs inside them."""
    waiting = list(graphs)
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _tensors(onnx: Any, model: Any) -> Iterator[Any]:
    """Yield every constant of a model."""
    graphs = [model.graph]
    for node in _nodes([model.graph, *model.functions]):
        for attribute in node.attribute:
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for part in (*sparse, *attribute.sparse_tensors):
                yield from (part.values, part.indices)
    for graph in graphs:
        yield from graph.initializer
        for part in graph.sparse_initializer:
            yield from (part.values, part.indices)


def _external_bytes(path: Path, entries: Mapping[str, str], name: str) -> int:
    """Return how many bytes a tensor has in another file, which must lie beside the model and hold them."""
    location = entries.get("location", "")
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    file = path.parent / location
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
    if not location or absolute or ".." in parts or not file.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"refuses to load {path}: its tensor {name!r} lies in {location!r}, outside of its folder")
    if not file.is_file():
        raise UserError(f"{path} cannot be read as ONNX: its tensor {name!r} lies in {file}, which is no file")
    try:
        size = file.stat().st_size
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as ONNX: its tensor {name!r} has a place that is no number") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise UserError(f"{path} cannot be read as ONNX: its tensor {name!r} lies beyond the end of {file}")
    return length


def check_openvino(path: Path) -> None:
    """Check an xml of OpenVINO and the bin beside it.

    Raises:
        UserError: not a network of OpenVINO, an operator of no standard, or numbers beyond the end of the bin.
    """
    weights = path.with_suffix(".bin")
    size = weights.stat().st_size if weights.is_file() else 0
    depth, root = 0, ""

    def refuse(reason: str) -> UserError:
        line = f"{path}:{parser.CurrentLineNumber}"
        return UserError(f"{line} cannot be read as an OpenVINO model: {reason}")

    def declaration(*_: Any) -> None:
        raise refuse("it declares a document type or an entity, which no network needs")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, root
        depth, root = depth + 1, root or tag
        if root != "net" or depth > _MAX_DEPTH:
            raise refuse("it is nested too deeply" if root == "net" else f"it begins with <{tag}> instead of <net>")
        if tag == "layer" and not _OPENVINO_OPSETS.fullmatch(attributes.get("version", "")):
            kind, version = attributes.get("type"), attributes.get("version")
            raise refuse(f"the operator {kind} of {version!r} is none of OpenVINO; libraries are not loaded")
        if tag == "data" and "offset" in attributes and "size" in attributes:
            try:
                offset, length = int(attributes["offset"]), int(attributes["size"])
                sides = [int(side) for side in attributes.get("shape", "").split(",") if side.strip()]
            except ValueError as error:
                raise refuse("a constant has a place or shape that is no number") from error
            bits = _OPENVINO_BITS.get(attributes.get("element_type", ""), 0)
            if min(offset, length, *sides, 0) < 0 or offset + length > size or math.prod(sides) * bits > 8 * length:
                raise refuse(f"a constant of {length} bytes at {offset} is not in {weights.name}, of {size} bytes")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declaration
    try:
        parser.Parse(path.read_bytes(), True)
    except xml.parsers.expat.ExpatError as error:
        raise UserError(f"{path} cannot be read as an OpenVINO model: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def check_ncnn(param: Path, weights: Path) -> None:
    """Check a param of NCNN: its counts, and that each layer reads what is there.

    Raises:
        UserError: not a network of NCNN, or it reads values that no layer writes, or more weights than the bin holds.
    """

    def refuse(line: int, reason: str) -> UserError:
        return UserError(f"{param}:{line} cannot be read as an NCNN model: {reason}")

    try:
        lines = param.read_bytes().decode("ascii").split("\n")
        size = weights.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {param}: {error.strerror or error}") from error
    except ValueError as error:
        raise refuse(1, "it is no text") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows or rows[0][1] != [_NCNN_MAGIC]:
        raise refuse(1, f"it does not begin with {_NCNN_MAGIC}")
    known: set[str] = set()
    number, needed = 2, 0
    try:
        counts = [int(word) for word in rows[1][1]] if len(rows) > 1 else []
        for number, words in rows[2:]:
            num_inputs, num_outputs = int(words[2]), int(words[3])
            names = words[4 : 4 + num_inputs + num_outputs]
            if num_inputs < 0 or num_outputs < 0 or len(names) != num_inputs + num_outputs:
                raise refuse(number, f"{words[1]} says how many values it has, but not which")
            if missing := set(names[:num_inputs]) - known:
                raise refuse(number, f"{words[1]} reads {min(missing)!r}, which no layer before it writes")
            known.update(names[num_inputs:])
            options = dict(word.split("=", 1) for word in words[4 + len(names) :])
            needed += max(int(options.get(_NCNN_WEIGHTS.get(words[0], ""), 0)), 0)
            if words[0] == "MemoryData":
                needed += math.prod(max(int(options.get(key, 0)), 1) for key in ("0", "1", "2", "11"))
            if needed > size:  # of one byte each at least
                raise refuse(number, f"{words[1]} has more weights than the {size} bytes of {weights.name}")
    except (ValueError, IndexError) as error:
        raise refuse(number, "the line is malformed") from error
    if len(counts) != 2 or counts[0] != len(rows) - 2 or counts[1] != len(known):
        raise refuse(rows[1][0] if len(rows) > 1 else 2, "its counts of layers and values are not those of the file")
