"""Collects wheels, of the pinned versions, of the packages that a machine with PyTorch lacks to run `daefr`.

    python infra/gpu/collect_wheels.py FOLDER [--python 3.12] [--platform manylinux_2_28_x86_64 ...] [--with NAME ...]

The list of packages includes their dependencies, except for torch, torchvision, numpy, scipy, pillow, OpenCV (or --with
opencv-python-headless), numba, PyYAML, tqdm, safetensors and torchmetrics. Packages that are published only as source
are built. Requires pip 23 or newer and a package index.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PACKAGES = (
    "annotated-types",
    "pydantic",
    "pydantic_core",
    "typing-inspection",
    "typing_extensions",  # pydantic needs a newer one than many images have
    "braceexpand",
    "webdataset",
    "lpips",
    "pytorch-fid",
    "facexlib",
    "filterpy",
    "albucore",
    "albumentations",
    "simsimd",
    "stringzilla",
    "spandrel",
    "einops",
)
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)), "manylinux2014_x86_64")
LIMIT = 60 * 2**20


def main(arguments: list[str] | None = None) -> int:
    """Collect the wheels; return 0, or 1 if one is missing or their total size is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for the wheels")
    parser.add_argument("--python", default="3.12", help="Python version of the machine (default %(default)s)")
    parser.add_argument("--platform", nargs="+", default=PLATFORMS, help="its platform tags (default: Linux on x86-64)")
    parser.add_argument("--with", nargs="+", default=(), dest="more", metavar="NAME", help="packages beside the list")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    pins = read_pins(CONSTRAINTS.read_text())
    missing = [name for name in (*PACKAGES, *options.more) if not _collect(name, pins, options)]
    for name in missing:
        sys.stderr.write(f"error: no wheel of {name} for Python {options.python}\n")
    size = sum(path.stat().st_size for path in options.folder.glob("*.whl"))
    sys.stdout.write(f"{len(list(options.folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB, in {options.folder}\n")
    if size > LIMIT:
        sys.stderr.write(f"error: the total size of the wheels exceeds {LIMIT / 2**20:.0f} MiB\n")
    return 1 if missing or size > LIMIT else 0


def read_pins(text: str) -> dict[str, str]:
    """Return the pinned versions by normalized name."""
    pairs = (line.split("==") for line in text.splitlines() if "==" in line)
    return {normalize(name): version.strip() for name, version in pairs}


def normalize(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _collect(name: str, pins: dict[str, str], options: argparse.Namespace) -> bool:
    requirement = f"{name}=={pins[normalize(name)]}"
    pip = [sys.executable, "-m", "pip"]
    common = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    platforms = [argument for platform in options.platform for argument in ("--platform", platform)]
    target = ["--only-binary=:all:", "--python-version", options.python, "--implementation", "cp", *platforms]
    download = [*pip, "download", *common, *target, "--dest", str(options.folder), requirement]
    if subprocess.run(download, stderr=subprocess.DEVNULL).returncode == 0:
        return True
    # packages that are published as source only are pure Python, so their wheels work on any platform
    build = [*pip, "wheel", *common, "--wheel-dir", str(options.folder), requirement]
    before = set(options.folder.glob("*.whl"))
    if subprocess.run(build).returncode:
        return False
    return all(path.name.endswith("-none-any.whl") for path in set(options.folder.glob("*.whl")) - before)


if __name__ == "__main__":
    sys.exit(main())
