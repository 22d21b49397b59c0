"""What is said where a package of an extra is missing."""

from importlib import metadata

import pytest

from boxwright.errors import UserError
from boxwright.extras import NotInstalledError, install_command, needed

LISTED = ["torch>=2", 'optuna<6,>=4.9; extra == "dev"', "optuna<6,>=4.9; extra == 'tune'", "cmaes; extra == 'tune'"]


def test_the_command_names_the_packages_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: LISTED)
    assert install_command("tune") == 'pip install "optuna<6,>=4.9" cmaes'
    monkeypatch.setattr(metadata, "requires", lambda _: None)
    assert install_command("tune") == 'pip install ".[tune]" in the folder of Boxwright\'s source'


@pytest.mark.parametrize(
    ("torch", "command"),
    [("2.15.0", "pip install torchvision"), ("2.15.0+cpu", "uv pip install --torch-backend cpu torchvision")],
)
def test_a_torchvision_is_asked_for_that_fits_torch(torch: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a torch without CUDA, pip would take a torchvision for CUDA, which does not load."""
    monkeypatch.setattr(metadata, "requires", lambda _: ["torchvision; extra == 'gpu'"])
    monkeypatch.setattr(metadata, "version", lambda _: torch)
    assert install_command("gpu") == command


def test_run_from_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert "in the folder of Boxwright's source" in install_command("tune")


def test_an_import_that_fails() -> None:
    with (
        pytest.raises(NotInstalledError, match=r"^a walk needs no_such, which is not installed: pip install"),
        needed("a walk", "tune"),
    ):
        import no_such.module  # pyright: ignore[reportMissingImports]  # noqa: F401
    with (
        pytest.raises(UserError, match=r"^a walk needs libx, which cannot be loaded \(no symbol\)"),
        needed("a walk", "t"),
    ):
        raise ImportError("no symbol", name="libx.core")
