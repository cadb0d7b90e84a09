import sysconfig
from pathlib import Path

import pytest

from daefr.compiler import missing_compiler


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that alone is searched for programs, on a machine that has Python's headers."""
    for name in ("bin", "include"):
        (tmp_path / name).mkdir()
    (tmp_path / "include/Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "include"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "bin"


def _install(programs: Path, name: str) -> None:
    (programs / name).touch(0o755)


@pytest.mark.parametrize(("device", "name"), [("cuda", "gcc"), ("cuda", "clang"), ("cpu", "g++")])
def test_a_compiler_is_found(programs: Path, device: str, name: str) -> None:
    assert "compiler" in str(missing_compiler(device))
    _install(programs, name)
    assert missing_compiler(device) is None
    (programs.parent / "include/Python.h").unlink()
    assert "Python.h" in str(missing_compiler(device))


def test_the_compiler_that_the_environment_names_counts(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(programs, "gcc")
    monkeypatch.setenv("CC", "icx")
    assert "CC=icx" in str(missing_compiler("cuda"))
    _install(programs, "icx")
    assert missing_compiler("cuda") is None
    assert missing_compiler("cpu"), "a C compiler alone does not compile for a CPU"
