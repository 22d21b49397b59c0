"""Rewrite ONNX graphs for runtimes that read less than the newest: reshapes by constants, and older opsets.

The result is a graph that means the same; every file is compared with its network after it is written.
"""

from collections.abc import Mapping
from typing import Any

from boxwright.errors import UserError

OLDEST_OPSET, NEWEST_OPSET = 11, 23
EXPORTED_OPSET = 18  # the oldest that torch.export writes; older ones are made of it
_NO_REGION = "no_region"
_COPY, _INFER = 0, -1  # of a Reshape: the size of the input at this axis; whatever is left


def fix_reshapes(onnx: Any, model: Any) -> None:
    """Give each Reshape constant sizes where free dimensions allow it, and remove what computed them.

    A graph without Shape operators is read by runtimes that know no computed shapes, such as OpenCV 4.

    Args:
        onnx: the library.
        model: a graph with free dimensions, its values annotated with their shapes; it is changed.
    """
    graph = model.graph
    shapes = {value.name: _sizes(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    computed = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in computed:
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if after is None:
            continue
        sizes: list[int] = []
        for axis, size in enumerate(after):
            same = before is not None and axis < len(before) and before[axis] == size and size is not None
            sizes.append(size if isinstance(size, int) else _COPY if same else _INFER)
        if sizes.count(_INFER) > 1:
            continue
        name = f"{node.output[0]}/sizes"
        graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(sizes)], sizes))
        node.input[1] = name
        del node.attribute[:]  # allowzero would take 0 for a size
    _remove_unused(graph)


def _sizes(value: Any) -> list[int | str | None] | None:
    """Return the sizes of a value: numbers, names of free dimensions, None for what is not known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]


def _remove_unused(graph: Any) -> None:
    """Remove nodes and constants that nothing reads."""
    kept: list[Any] = []
    used = {value.name for value in graph.output}
    for node in reversed(graph.node):  # sorted: whatever reads a node stands behind it
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
            used.update(_inner_names(node))
    constants = [constant for constant in graph.initializer if constant.name in used]
    for field, values in ((graph.node, kept[::-1]), (graph.initializer, constants)):
        del field[:]
        field.extend(values)


def _inner_names(node: Any) -> set[str]:
    """Return what the graphs inside a node, such as branches of an If, read."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return {name for graph in graphs for inner in graph.node for name in (*inner.input, *_inner_names(inner))}


def lower_opset(onnx: Any, model: Any, opset: int) -> None:
    """Write the nodes of a graph as an older opset has them, and take the oldest file version that fits.

    Args:
        onnx: the library.
        model: a graph of the standard operators; it is changed.
        opset: version of the standard operators.

    Raises:
        UserError: an operator, or what it is asked to do, came later than this opset.
    """
    own = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    constants = {constant.name: constant for constant in model.graph.initializer}
    if own.version > opset:
        nodes = [part for node in model.graph.node for part in _spell_out(onnx, node, own.version, opset)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        for node in model.graph.node:
            _lower_node(onnx, node, own.version, opset, constants)
        own.version = opset
        model.graph.initializer.append(onnx.helper.make_tensor(_NO_REGION, onnx.TensorProto.FLOAT, [0], []))
        _remove_unused(model.graph)
    del model.opset_import[:]
    model.opset_import.append(own)
    model.ir_version = onnx.helper.find_min_ir_version_for([own])


def _spell_out(onnx: Any, node: Any, version: int, opset: int) -> list[Any]:
    """Return a node as the nodes that the standard defines it by, where the opset lacks it, as Mish before 18."""
    schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=version)
    if onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return [node]
    if not schema.has_function or node.attribute:
        return [node]
    body = schema.function_body
    names = dict(zip((*body.input, *body.output), (*node.input, *node.output), strict=True))
    parts: list[Any] = []
    for inner in body.node:
        part = onnx.NodeProto()
        part.CopyFrom(inner)
        for field in (part.input, part.output):
            field[:] = [names.get(name, f"{node.output[0]}/{name}") for name in field]
        parts.append(part)
    return parts


def _lower_node(onnx: Any, node: Any, version: int, opset: int, constants: Mapping[str, Any]) -> None:
    def refuse(what: str) -> UserError:
        return UserError(f"--opset {opset} is too old for this network: {what}; --opset {EXPORTED_OPSET} has it")

    try:
        old = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    except onnx.defs.SchemaError as error:
        raise refuse(f"it has no operator {node.op_type}") from error
    new = onnx.defs.get_schema(node.op_type, max_inclusive_version=version)
    for attribute in [a for a in node.attribute if a.name not in old.attributes]:
        implied = attribute == new.attributes[attribute.name].default_value
        # Split says how many parts it makes, which its outputs say, too; without a 0 among the sizes nothing is copied.
        implied |= node.op_type == "Split"
        if node.op_type == "Reshape" and (sizes := constants.get(node.input[1])) is not None:
            implied |= _COPY not in onnx.numpy_helper.to_array(sizes)
        if not implied:
            raise refuse(f"its {node.op_type} has no {attribute.name}")
        node.attribute.remove(attribute)
    # Axes and parts were attributes before they became inputs.
    for place in range(len(node.input) - 1, old.max_input - 1, -1):
        name, what = node.input[place], new.inputs[place].name
        if name and (what not in old.attributes or name not in constants):
            raise refuse(f"its {node.op_type} takes no {what}")
        if name:
            values = onnx.numpy_helper.to_array(constants[name]).tolist()
            node.attribute.append(onnx.helper.make_attribute(what, values))
        del node.input[place]
    if node.op_type == "Resize" and opset < 13 and not node.input[1]:  # its region may be left out since then
        node.input[1] = _NO_REGION
