"""TorchScript archives, scanned before PyTorch loads them: a network's operators run, nothing else does.

TorchScript is a language: its operators read and write files, print, and call the profiler, and code of an archive
runs while it is loaded. So the archive is taken apart by the standard library's `zipfile` and `ast`, every name in its
code is looked up in closed lists, its pickles are read by the closed reader of checkpoints, and PyTorch gets a new
archive written from what was read, in memory. It sees no entry, no byte of code and no comment that was not scanned.

Source: the layout that PyTorch documents in torch/csrc/jit/docs/serialization.md (BSD-3-Clause).
"""

import ast
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from boxwright.checkpoints.inert import DamagedError, RefusedError
from boxwright.checkpoints.restricted import read_pickle
from boxwright.errors import UserError

_MAX_CODE = 64  # bytes of code per byte of the file: deflate reaches about 10 with the code of a network
_MAX_ENTRIES = 100_000
_PICKLES = ("data", "constants")
_NUMBERS = ("version", ".data/version", "byteorder")

# Operators of `torch.`, methods and properties of tensors and lists. All are pure but for their own tensors, and check
# their bounds. Those that end in "_" work in place: the list has them without.
_OPERATORS = frozenset(
    """
    abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv alpha_dropout all any amax amin aminmax arange argmax
    argmin argsort asin asinh atan atan2 atanh baddbmm batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm
    broadcast_tensors broadcast_to cat cdist ceil celu chunk clamp clamp_max clamp_min clip clone concat concatenate
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution
    convolution copy cos cosh cross cumprod cumsum deg2rad detach diag diagonal diff div divide dot dropout einsum elu
    embedding eq equal erf erfc exp exp2 expand expand_as expm1 eye feature_dropout fill flatten flip floor
    floor_divide floordiv fmod frac full full_like gather ge gelu glu group_norm gt hardshrink hardsigmoid hardswish
    hardtanh hypot im2col col2im index index_add index_fill index_put index_select instance_norm isfinite isinf isnan
    item kthvalue layer_norm le leaky_relu lerp linear linspace log log10 log1p log2 log_sigmoid log_softmax logical_and
    logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_scatter masked_select matmul max maximum
    mean median meshgrid min minimum mish mm movedim mul multiply mv nan_to_num narrow ne neg negative new_full new_ones
    new_zeros nonzero norm not_equal numel one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle pow
    prelu prod rad2deg reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat repeat_interleave
    replication_pad1d replication_pad2d reshape reshape_as rms_norm roll rot90 round rsqrt rsub scalar_tensor
    scaled_dot_product_attention scatter scatter_add select selu sigmoid sign silu sin sinh slice softmax softplus
    softshrink softsign sort split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes
    swapdims t take_along_dim tan tanh tensor tensor_split threshold tile to topk transpose tril triu true_divide trunc
    type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d var var_mean view view_as vstack
    hstack where xor zero zeros zeros_like grid_sampler grid_sampler_2d affine_grid_generator
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    size dim len stride shape dtype device ndim is_cuda requires_grad layout T mT data is_floating_point float double
    half int long bool cpu _set_item append extend insert pop keys values items get format join
    list dict tolist sorted copy
    IntImplicit FloatImplicit ScalarImplicit Int Float Bool
    __getitem__ __contains__ __is__ __isnot__ __not__ __and__ __or__ __xor__ __lshift__ __rshift__ __range_length
    __derive_index __round_to_zero_floordiv
    """.split()
)
_OTHER_OPERATORS = {
    "prim": frozenset("NumToTensor RaiseException abs device dtype is_cuda max min shape tolist data layout".split()),
    "torchvision": frozenset(("nms", "deform_conv2d", "roi_align")),
}
_TYPES = frozenset(
    "Tensor int float bool str complex number List Dict Tuple Optional Union NoneType Any Device Final".split()
)
_FUNCTIONS = frozenset(
    """
    annotate uninitialized isinstance int float bool str range len zip enumerate list
    dict tuple min max abs round sorted all any inf nan Exception AssertionError ValueError RuntimeError
    """.split()
)
_CHECKED_CALLS = ("getattr", "hasattr", "unchecked_cast")  # functions whose arguments matter; they have no other use
_BASES = frozenset(("Module", "NamedTuple", "ModuleInterface", "Interface"))
_ROOTS = ("torch", "ops", "__torch__", "CONSTANTS")  # what a dotted name may begin with, other than a variable
# What TorchScript knows by itself: a variable of that name may be read before it is one.
_RESERVED = frozenset((*_ROOTS, *_CHECKED_CALLS, "print", "fork", "awaitable", "super", "classes"))
_SYNTAX = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.AugAssign),
    *(ast.Return, ast.If, ast.For, ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.Raise, ast.Assert, ast.Call),
    *(ast.keyword, ast.Attribute, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def read_torchscript(path: Path, extra_files: Iterable[str]) -> tuple[io.BytesIO, dict[str, str]]:
    """Scan an archive.

    Args:
        path: of the archive.
        extra_files: names of texts in it that are wanted.

    Returns:
        an archive for `torch.jit.load` with what was scanned and nothing else; and the wanted texts, "" for none.

    Raises:
        UserError: not a TorchScript archive, damaged, or it asks for something that no network needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root, entries = _entries(archive, path.stat().st_size)
            texts = {name: entries.get(f"extra/{name}", b"").decode() for name in extra_files}
        kept = {name: data for name, data in entries.items() if name in _NUMBERS}
        for name in _PICKLES:
            kept |= _checked_pickle(entries, name)
        kept |= scanned_code({name: data for name, data in entries.items() if name.startswith("code/")})
    except RefusedError as error:
        raise UserError(
            f"refuses to load {path}: its code asks for {error}, which no network needs; nothing was executed"
        ) from error
    except (DamagedError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TorchScript: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name, data in kept.items():
            archive.writestr(f"{root}/{name}", data)
    new.seek(0)
    return new, texts


def _entries(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, bytes]]:
    """Read the entries of an archive, each once and no more bytes than the file can hold; return its folder too."""
    infos = archive.infolist()
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1 or len(infos) > _MAX_ENTRIES or len({info.filename for info in infos}) != len(infos):
        raise DamagedError("its entries are not those of one network")
    entries: dict[str, bytes] = {}
    stored, unpacked = size, size * _MAX_CODE
    for info in infos:
        name = info.filename.partition("/")[2]
        if name.endswith(".debug_pkl") or name.startswith("traced_inputs"):
            continue  # places in the source, and an example: nothing that the network needs
        if info.compress_type == zipfile.ZIP_STORED:
            stored -= info.file_size  # entries that overlap would be counted twice, and run out here
        else:
            unpacked -= info.file_size
        if stored < 0 or unpacked < 0:
            raise DamagedError(f"{name} claims more bytes than the file has")
        entries[name] = archive.read(info)
    if "data.pkl" not in entries or not any(name.startswith("code/") for name in entries):
        raise DamagedError("it is a zip file, but not one that torch.jit.save wrote (no data.pkl, or no code)")
    if "model.json" in entries:
        raise DamagedError("it has the form of before PyTorch 1.3, which is not read; save it again")
    return roots.pop(), entries


def _checked_pickle(entries: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """Read a pickle and its tensors by the closed reader; return its entries."""
    if f"{name}.pkl" not in entries:
        return {}
    found = {f"{name}.pkl": entries[f"{name}.pkl"]}

    def storage(key: str, dtype: torch.dtype, num_items: int) -> Tensor:
        data = entries.get(f"{name}/{key}")
        if data is None or len(data) != num_items * dtype.itemsize:
            have = "no" if data is None else str(len(data))
            raise DamagedError(f"storage {name}/{key} has {have} bytes instead of {num_items * dtype.itemsize}")
        found[f"{name}/{key}"] = data
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)

    read_pickle(found[f"{name}.pkl"], storage)
    return found


def scanned_code(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Check the code of an archive against the closed lists, and write it anew from its syntax tree.

    Args:
        files: entries "code/__torch__/...py".

    Raises:
        RefusedError: it names something that is not on the lists.
        DamagedError: it is not TorchScript.
    """
    trees: dict[str, ast.Module] = {}
    for name, data in files.items():
        if not name.startswith("code/__torch__") or not name.endswith(".py"):
            raise DamagedError(f"{name} is not the code of a network")
        try:
            trees[name] = ast.parse(data.decode())
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DamagedError(f"{name}: {error or type(error).__name__}") from error
    scan = _Scan(trees)
    try:
        for tree in trees.values():
            scan.check(tree)
        return {name: f"{ast.unparse(tree)}\n".encode() for name, tree in trees.items()}
    except RecursionError as error:
        raise DamagedError("its code is nested too deeply") from error


class _Scan:
    """The names that the code of an archive defines, and the check of those that it uses."""

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self.known: set[str] = set()  # classes and functions by their full name
        self.members: set[str] = set()  # attributes and methods of the classes
        for name, tree in trees.items():
            module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef):
                    self.known.add(f"{module}.{node.name}")
                if isinstance(node, ast.ClassDef):
                    self.members.update(_members(node))
        # A member must not give its name to an operator that is not on the list.
        operators = {schema.name.rpartition("::")[2] for schema in torch._C._jit_get_all_schemas()}  # pyright: ignore
        self.members = {name for name in self.members if name not in operators and name not in _RESERVED}

    def check(self, tree: ast.Module) -> None:
        """Raise RefusedError for the first name that is on no list."""
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self._check_function(node)
                continue
            if not isinstance(node, ast.ClassDef):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "op_version_set":
                    continue
                raise RefusedError(f"{ast.unparse(node)[:80]!r} outside of a class")
            if node.decorator_list or node.keywords or any(ast.unparse(base) not in _BASES for base in node.bases):
                raise RefusedError(f"a class {ast.unparse(node).splitlines()[0][:80]!r}")
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    self._check_function(part)
                else:
                    self._check(part, frozenset(("__annotations__", *self.members, *_local_names(part))))

    def _check_function(self, function: ast.FunctionDef) -> None:
        if function.decorator_list:
            raise RefusedError("a decorator")
        local = _local_names(function)
        if taken := local & _RESERVED:
            raise RefusedError(f"a variable {min(taken)!r}")
        # Text that stands alone does nothing.
        acts = [p for p in function.body if not (isinstance(p, ast.Expr) and isinstance(p.value, ast.Constant))]
        function.body = acts or [ast.Pass()]
        self._check(function, local)

    def _check(self, node: ast.AST, local: frozenset[str]) -> None:
        if not isinstance(node, _SYNTAX):
            raise RefusedError(f"{type(node).__name__.lower()!r}")
        if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | bool | None):
            raise RefusedError(f"a {type(node.value).__name__}")
        if isinstance(node, ast.Attribute):
            self._check_dotted(node, local)
            return
        if isinstance(node, ast.Name) and node.id not in local | _TYPES | _FUNCTIONS:
            raise RefusedError(node.id)
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CHECKED_CALLS:
            self._check_call(node.func.id, node)
            children.remove(node.func)
        for child in children:
            self._check(child, local)

    def _check_call(self, name: str, call: ast.Call) -> None:
        if len(call.args) != 2 or call.keywords:
            raise RefusedError(name)
        first, second = call.args
        if name == "unchecked_cast":
            # A cast to a class would reach into an object as if it were another.
            if "__torch__" in ast.unparse(first):
                raise RefusedError(f"unchecked_cast to {ast.unparse(first)}")
        elif isinstance(second, ast.Constant) and isinstance(second.value, str):
            self._check_member(second.value)
        else:
            raise RefusedError(name)

    def _check_dotted(self, node: ast.Attribute, local: frozenset[str]) -> None:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        parts.reverse()
        if not isinstance(inner, ast.Name) or inner.id not in _ROOTS:
            self._check(inner, local)
            for part in parts:
                self._check_member(part)
        elif inner.id == "torch":
            if not _is_operator(parts[0]):
                raise RefusedError(f"torch.{'.'.join(parts)}")
            for part in parts[1:]:
                self._check_member(part)
        elif inner.id == "ops":
            namespace, name = parts[0], parts[1] if len(parts) == 2 else ""
            allowed = _is_operator(name) if namespace == "aten" else name in _OTHER_OPERATORS.get(namespace, ())
            if not allowed:
                raise RefusedError(f"ops.{'.'.join(parts)}")
        elif inner.id == "__torch__":
            names = [".".join(("__torch__", *parts[:count])) for count in range(1, len(parts) + 1)]
            count = next((count for count, name in enumerate(names, 1) if name in self.known), 0)
            if not count or parts[:2] == ["torch", "classes"]:
                raise RefusedError(f"__torch__.{'.'.join(parts)}")
            for part in parts[count:]:
                self._check_member(part)
        elif len(parts) != 1 or not (parts[0].startswith("c") and parts[0][1:].isdecimal()):
            raise RefusedError(f"CONSTANTS.{'.'.join(parts)}")

    def _check_member(self, name: str) -> None:
        if name not in self.members and not _is_operator(name):
            raise RefusedError(name)


def _is_operator(name: str) -> bool:
    return name in _OPERATORS or name.removesuffix("_") in _OPERATORS


def _members(node: ast.ClassDef) -> Iterator[str]:
    """Yield the names of attributes and methods that a class declares."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Assign):
            for target in part.targets:  # __annotations__["0"] = ..., where a name is no word
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    yield str(target.slice.value)
                elif isinstance(target, ast.Name):
                    yield target.id


def _local_names(node: ast.AST) -> frozenset[str]:
    """Return the names that a function gives to values."""
    stored = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return frozenset((*stored, *(n.arg for n in ast.walk(node) if isinstance(n, ast.arg))))
