"""Which version of the project runs, and where from: a checkout, or a package that pip has installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

NAME = "daefr"
LICENSE = "LICENSE"


def find_checkout() -> Path | None:
    """Return the root of the checkout that this code runs from; None when it is installed as a package."""
    root = Path(__file__).resolve().parents[1]
    return root if _read_project(root).get("name") == NAME else None


def find_version() -> str:
    """Return the version that `pyproject.toml` states: the checkout's own, or that of the installed package."""
    stated = _read_project(Path(__file__).resolve().parents[1])
    if stated.get("name") == NAME:
        return str(stated["version"])
    try:
        return distribution(NAME).version
    except PackageNotFoundError:
        return "unknown"


def license_text() -> str:
    """Return the project's license. Raises `FileNotFoundError` where the code was copied without it."""
    checkout = find_checkout()
    if checkout is not None:
        return (checkout / LICENSE).read_text()
    try:
        installed = distribution(NAME).read_text(f"licenses/{LICENSE}")
    except PackageNotFoundError:
        installed = None
    if installed is None:
        raise FileNotFoundError(f"{LICENSE} is neither beside the package {NAME} nor among its installed metadata")
    return installed


def _read_project(root: Path) -> dict[str, object]:
    try:
        content = tomllib.loads((root / "pyproject.toml").read_text())
    except FileNotFoundError:
        return {}
    project: dict[str, object] = content.get("project", {})
    return project
