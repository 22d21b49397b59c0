"""`make dist`: build wheel and sdist, each twice with the same bytes; install the wheel, and run the demo elsewhere.

Needs Python and nothing else: `python tests/dist.py [INSTALL ...]`. INSTALL goes to pip beside the wheel, by default
the versions of constraints.txt; `torch==2.13.0` takes that one instead. uv installs where it is on
the path, and for UV_TORCH_BACKEND=cpu, which chooses torch without CUDA.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEVER = ("runs/", ".venv/", "dist/", "site/", ".git/")  # of an sdist
LICENSES = ("LICENSE", "DejaVuSans.LICENSE.txt")


def main(install: list[str]) -> None:
    """Build, compare, look inside, install and run; end with a sentence where something is wrong."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        builder = new_environment(folder / "builder")
        run(builder, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), "hatchling")
        target, again = ROOT / "dist", folder / "again"
        shutil.rmtree(target, ignore_errors=True)
        environment = os.environ | {"SOURCE_DATE_EPOCH": time_of_sources()}
        run(builder, "-m", "hatchling", "build", "-d", str(target), cwd=ROOT, env=environment)
        (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "sources", filter="data")
            names = [name.partition("/")[2] for name in archive.getnames()]
        (sources,) = (folder / "sources").iterdir()
        # Another folder, time zone and order of hashes; what was built from the sdist is what was built from the clone.
        environment |= {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
        run(builder, "-m", "hatchling", "build", "-d", str(again), cwd=sources, env=environment)
        for file in (sdist, wheel):
            if digest(file) != digest(again / file.name):
                sys.exit(f"{file.name}: built from the sdist, it has other bytes")
        look_inside(names, zipfile.ZipFile(wheel).namelist())
        python = new_environment(folder / "fresh")
        installer = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
        uv = shutil.which("uv")
        if not uv and os.environ.get("UV_TORCH_BACKEND"):
            run(builder, "-m", "pip", "install", "--quiet", "uv")
            uv = shutil.which("uv", path=str(Path(builder).parent))
        if uv:
            installer = [uv, "pip", "install", "--quiet", "--python", python]
        run(*installer, *(install or ["--constraint", str(ROOT / "constraints.txt")]), str(wheel))
        print(f"the environment of the wheel takes {megabytes(folder / 'fresh'):.0f} MB", flush=True)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        run(python, "-m", "boxwright", "demo", "--epochs", "1", "--device", "cpu", cwd=elsewhere, env=environment)
        if not (elsewhere / "runs/demo/exp/report.html").is_file():
            sys.exit("the demo of the installed wheel left no report.html")
    for file in (sdist, wheel):
        print(f"{digest(file)}  {file.relative_to(ROOT)}")


def time_of_sources() -> str:
    """Return the time that files in the archives get: that of the last commit, or of the sdist that this is."""
    asked = os.environ.get("SOURCE_DATE_EPOCH")
    if asked:
        return asked
    if not (ROOT / ".git").exists():
        return str(int((ROOT / "pyproject.toml").stat().st_mtime))
    return subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True).strip()


def look_inside(sources: list[str], wheel: list[str]) -> None:
    """End where a tracked file is missing in the sdist, something of a run is in it, or the wheel has no licences."""
    if (ROOT / ".git").exists():
        tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
        missing = [name for name in tracked if name and (ROOT / name).exists() and name not in sources]
        if missing:
            sys.exit(f"the sdist lacks {', '.join(missing)}: see only-include in pyproject.toml")
    stray = [name for name in sources if name.startswith(NEVER) or "__pycache__" in name]
    if stray:
        sys.exit(f"the sdist has {', '.join(stray)}")
    for file in (*LICENSES, "py.typed"):
        if not any(name.endswith(f"/{file}") for name in wheel):
            sys.exit(f"the wheel has no {file}")


def new_environment(folder: Path) -> str:
    """Make an environment; return its Python."""
    venv.create(folder, with_pip=True)
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Print a command and run it; end where it fails."""
    print("+", *command, flush=True)
    code = subprocess.run(command, cwd=cwd, env=env, check=False).returncode
    if code:
        sys.exit(f"{command[0]} ended with code {code}")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def megabytes(folder: Path) -> float:
    """Return what the files of a folder take, in 10^6 bytes."""
    return sum(file.lstat().st_size for file in folder.rglob("*")) / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
