"""The wheel, installed in an environment of its own and used outside of the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from daefr.images import decode_image, encode_png
from tests.daefr import tiny

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("daefr", "degradations", "pipelines")
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", *PACKAGES)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, whose dependencies are those of the environment that runs the tests."""

    scripts: Path
    cwd: Path

    def run(self, *command: str) -> str:
        """Run a script of the environment; return what it printed."""
        # without what makes this checkout's code importable
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.scripts / command[0]), *command[1:]],
            cwd=self.cwd, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site_packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    # a plain line adds the folder, but not the checkout that an editable install in it refers to
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    cwd = folder / "elsewhere"
    cwd.mkdir()
    return Installed(python.parent, cwd)


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == ours
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_installed_commands_work_outside_of_the_checkout(installed: Installed) -> None:
    assert installed.run("daefr", "--version").startswith("daefr 0.")
    assert "restore" in installed.run("daefr", "--help")
    assert "synthesize" in installed.run("daefr-pipelines", "--help")
    assert "restoration:" in installed.run("daefr-pipelines", "full", "--print-config")


def test_the_installed_command_restores(installed: Installed, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "checkpoint", tiny.build("restoration")).path
    (tmp_path / "face.png").write_bytes(encode_png(tiny.face(np.random.default_rng(0), 24)))
    options = ["--model", str(checkpoint), "--aligned", "--device", "cpu"]
    installed.run("daefr", "restore", str(tmp_path / "face.png"), str(tmp_path / "restored.png"), *options)
    assert decode_image((tmp_path / "restored.png").read_bytes()).ndim == 3


def test_the_installed_packages_know_what_a_checkout_would_tell(installed: Installed) -> None:
    script = """
import daefr, degradations, pipelines
from daefr import Restorer
from daefr.version import find_checkout, license_text
from pipelines.engine.run import git_revision
assert find_checkout() is None
assert "Apache License" in license_text()
assert daefr.__version__ in git_revision()
for package in (daefr, degradations, pipelines):
    print(package.__file__)
"""
    assert installed.run("python", "-c", script).count("site-packages") == len(PACKAGES)
