"""Packages that not everyone needs, the extras of pyproject.toml: what is said where one of them is missing."""

import importlib.metadata
from collections.abc import Generator
from contextlib import contextmanager

from boxwright.errors import UserError


class NotInstalledError(UserError):
    """A package of an extra is missing."""


@contextmanager
def needed(purpose: str, extra: str) -> Generator[None]:
    """Turn an import that fails in this block into a UserError that names the command which mends it.

    Args:
        purpose: what needs the package; the sentence begins with it.
        extra: that the package belongs to.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or extra).partition(".")[0]
        if isinstance(error, ModuleNotFoundError):
            raise not_installed(purpose, name, extra) from error
        raise UserError(
            f"{purpose} needs {name}, which cannot be loaded ({error}): {install_command(extra)}"
        ) from error


def not_installed(purpose: str, name: str, extra: str) -> NotInstalledError:
    """Make the error for a package that is not installed."""
    return NotInstalledError(f"{purpose} needs {name}, which is not installed: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra, whether Boxwright came as a wheel or as a clone: it names packages."""
    try:
        listed = importlib.metadata.requires("boxwright") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        listed = []
    parts = (requirement.partition(";") for requirement in listed)
    packages = [package.strip() for package, _, marker in parts if marker.split() == ["extra", "==", f"'{extra}'"]]
    if not packages:
        return f'pip install ".[{extra}]" in the folder of Boxwright\'s source'
    installer = torch_installer() if "torchvision" in packages else "pip install"
    # Quoted for sh, cmd and PowerShell alike.
    return f"{installer} " + " ".join(f'"{name}"' if set(name) & set("<>=![") else name for name in packages)


def torch_installer() -> str:
    """Return what installs packages that have to fit torch.

    Beside a torch that was built without CUDA, pip takes a torchvision for CUDA, which does not load.
    """
    try:
        without_cuda = importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        without_cuda = False
    return "uv pip install --torch-backend cpu" if without_cuda else "pip install"
