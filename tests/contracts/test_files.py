"""House rules that no linter checks: sizes, names, and what must not be in a project file."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MODULES = [path for top in ("src", "tests", "benchmarks", "docs") for path in sorted((ROOT / top).rglob("*.py"))]

MAX_FILE_LINES = 600  # a file is a chapter
MAX_FUNCTION_LINES = 70  # its docstring not counted
NAMES_OF_NOTHING = {"utils", "util", "common", "misc", "helpers", "helper", "general"}

# Written in pieces, so that this file does not contain them.
MACHINE_PATHS = re.compile("|".join(("/wo" + "rk/", "/tm" + "p/", "/ro" + "ot/", "/home" + "/")))
REGISTRY_HOSTS = re.compile("|".join((r"py" + r"pi\.org", r"python" + r"hosted", r"registry\.npm" + "js")))


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked_files() -> list[Path]:
    """Files that git knows or would add; all but the ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_a_file_has_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{where(path)} has {lines} lines, {MAX_FILE_LINES} are allowed: make it two"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_a_function_fits_a_screen(path: Path) -> None:
    for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
        lines = length(function) - (length(function.body[0]) if ast.get_docstring(function) else 0)
        place = f"{where(path)}:{function.lineno}"
        assert lines <= MAX_FUNCTION_LINES, f"{place}: {function.name} has {lines} lines, {MAX_FUNCTION_LINES} allowed"


def test_modules_are_named_after_what_they_do() -> None:
    assert [where(path) for path in MODULES if {path.stem, *path.parts} & NAMES_OF_NOTHING] == []


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_a_module_says_what_is_in_the_room(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{where(path)} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_nothing_read_is_executed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "globals"}, f"{where(path)}:{node.lineno}: {node.func.id}()"


def test_no_paths_of_a_machine_and_no_registry_hosts() -> None:
    found: list[str] = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
                found.append(f"{where(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_binaries_but_pictures_of_the_docs_a_font_and_recorded_numbers() -> None:
    def is_binary(path: Path) -> bool:
        return b"\0" in path.read_bytes()[:8192]

    golden = ROOT / "tests" / "golden"
    recorded = [path for path in tracked_files() if golden in path.parents]
    others = [path for path in tracked_files() if golden not in path.parents]
    binaries = [where(path) for path in others if is_binary(path) and path.parent != ROOT / "docs"]
    assert binaries == ["src/boxwright/drawing/DejaVuSans.ttf"]
    assert [where(path) for path in others if path.stat().st_size > 200_000] == []
    assert [where(path) for path in recorded if path.stat().st_size > 300_000] == []
    assert sum(path.stat().st_size for path in recorded) <= 6_100_000  # the numbers 6 MB, the rest is this package


# Modules that compute nothing of a publication: they need no row in PROVENANCE.md as long as they name no source.
PLUMBING = re.compile(
    r"__main__|errors|extras|systems|terminal|(cli|settings|reporting)/\w+|(yolo|centerfusion)/verbs/\w+|"
    r"(yolo|centerfusion)/(settings|system|structures|detector|detection|pictures|anchor_plot|val_output)|"
    r"data/(cache|check|dataset|files|identity|index|loader|source_images|structures)|checkpoints/names|"
    r"drawing/(birds_eye|boxes|boxes3d|sheets)|inference/sources|ops/arrays|synthetic/yolo_set|"
    r"engine/(callbacks|console|environment|launch|loggers|run|run_folder|task)|search/(space|study|worker)|"
    r"nuscenes/(build|check|metric_report|structures)"
)


def test_each_algorithm_has_a_row_that_names_its_source() -> None:
    text = (ROOT / "PROVENANCE.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "boxwright"
    for path in SOURCES:
        name = path.relative_to(package).as_posix()
        if path.stem == "__init__" or f"`{name}`" in text:
            continue
        assert PLUMBING.fullmatch(name.removesuffix(".py")), f"{name} needs a row in PROVENANCE.md"
        has_source = "\nSource:" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        assert not has_source, f"{name} names a source: give it a row in PROVENANCE.md"


@pytest.mark.parametrize("page", ["PROVENANCE.md", "docs/architecture.md"])
def test_a_page_names_files_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`([a-z0-9_]+/[a-z0-9_/]+(?:\.py)?)`", text)
    assert len(named) > 20
    missing = [name for name in named if not any((top / name).exists() for top in (ROOT / "src" / "boxwright", ROOT))]
    assert missing == []
