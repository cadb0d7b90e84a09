"""The registered restoration model, as MLflow loads and serves it: the same as `daefr restore`."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from mlflow.exceptions import MlflowException

from daefr.__main__ import main as daefr
from daefr.checkpoint import load_checkpoint
from daefr.images import encode_png
from daefr.portraits import draw_portrait
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.pyfunc.package import REQUIREMENTS, pack
from pipelines.tracking.registry import Version
from tests.daefr import tiny
from tests.e2e.nodes import free_port

ALIGNED = {"aligned": True}
TAKEN_WHERE_THEY_ARE = {"daefr", "setuptools", "Pygments", "nvidia-ml-py"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = tmp_path_factory.mktemp("pyfunc")
    return Tracking.open(f"sqlite:///{root}/mlflow.db", "daefr", str(root / "artifacts"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", tiny.build("restoration")).path


@pytest.fixture(scope="module")
def version(tracking: Tracking, checkpoint: Path) -> Version:
    run_id = tracking.start_run("restoration", "pyfunc")
    return registry.register(
        tracking, "restoration", checkpoint, run_id, fingerprint="one", tags={}, pack=partial(pack, ["portraits"])
    )


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encode_png(draw_portrait(number, 24).image))
    clear = np.dstack([draw_portrait(2, 24).image[..., ::-1], np.full((24, 24), 200)]).astype(np.uint16)
    clear[:9] = 0
    (folder / "2.png").write_bytes(cv2.imencode(".png", clear * 257)[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def expected(faces: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What the command makes of the faces."""
    out = tmp_path_factory.mktemp("out")
    assert daefr(["restore", str(faces), str(out), "--model", str(checkpoint), "--aligned", "--device", "cpu"]) == 0
    return [path.read_bytes() for path in sorted(out.glob("[0-9].png"))]


@pytest.fixture(scope="module")
def loaded(tracking: Tracking, version: Version) -> Any:
    mlflow.set_tracking_uri(tracking.uri)
    yield mlflow.pyfunc.load_model(version.address)
    mlflow.set_tracking_uri("")


def test_it_restores_paths_and_bytes_as_the_command_does(loaded: Any, faces: Path, expected: list[bytes]) -> None:
    files = sorted(faces.iterdir())
    by_path = loaded.predict(pd.DataFrame({"path": [str(path) for path in files]}), params=ALIGNED)
    by_bytes = loaded.predict(pd.DataFrame({"image": [path.read_bytes() for path in files]}), params=ALIGNED)
    assert by_path["image"].tolist() == by_bytes["image"].tolist() == expected
    assert by_path["faces"].tolist() == [1, 1, 1]
    assert by_path["problem"].tolist() == [""] * 3
    pages = io.BytesIO()
    first, *others = [PIL.Image.open(path).convert("RGB") for path in files]
    first.save(pages, "TIFF", save_all=True, append_images=others)
    each = loaded.predict(pd.DataFrame({"image": [pages.getvalue()]}), params=ALIGNED | {"pages": "all"})
    assert each["faces"].tolist() == [3]
    assert PIL.Image.open(io.BytesIO(each["image"][0])).n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.usefixtures("loaded")  # sets the URI of the registry
def test_the_path_of_the_detector_is_set_on_loading(version: Version, faces: Path, tmp_path: Path) -> None:
    given = mlflow.pyfunc.load_model(version.address, model_config={"detector": str(tmp_path / "mine.pth")})
    with pytest.raises(MlflowException, match=r"mine\.pth"):
        given.predict(pd.DataFrame({"path": [str(faces / "0.png")]}))


def test_a_problem_with_one_row_does_not_affect_others(loaded: Any, faces: Path, expected: list[bytes]) -> None:
    rows = pd.DataFrame(
        {"image": [b"no image", (faces / "1.png").read_bytes(), None, b"both"], "path": [None, None, "/nowhere", "x"]}
    )
    restored = loaded.predict(rows, params=ALIGNED)
    assert restored["image"].tolist() == [None, expected[1], None, None]
    assert restored["faces"].tolist() == [0, 1, 0, 0]
    assert [bool(problem) for problem in restored["problem"]] == [True, False, True, True]


def test_the_version_is_a_checkpoint_directory_all_the_same(
    tracking: Tracking, version: Version, checkpoint: Path, tmp_path: Path
) -> None:
    for address in (version.address, "models:/daefr-restoration@candidate"):
        found = registry.resolve(tracking, address)
        folder = registry.download(tracking, found, tmp_path / "into")
        assert load_checkpoint(folder).stage == "restoration"
    assert (folder / "manifest.json").read_bytes() == (checkpoint / "manifest.json").read_bytes()
    assert not list(checkpoint.parent.glob("tmp*")), "nothing is left beside it"


def test_it_tells_what_it_takes_what_it_needs_and_under_which_terms(tracking: Tracking, version: Version) -> None:
    about = mlflow.models.get_model_info(version.source.removesuffix("/artifacts/checkpoint"))
    assert about.signature.inputs.input_names() == ["image", "path"]
    assert about.saved_input_example_info is not None
    assert "Apache-2.0" in about.metadata["license"]
    assert "portraits" in about.metadata["license"]
    assert "license" in tracking.client.get_model_version(version.name, "1").description.lower()
    folder = Path(version.source).parents[1]
    pinned = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in pinned)
    assert (folder / "LICENSE").read_text().lstrip().startswith("Apache License")


def _run_elsewhere(tracking: Tracking, code: str, folder: Path) -> str:
    """Run Python where this project is not on the path."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=_elsewhere(tracking), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _elsewhere(tracking: Tracking) -> dict[str, str]:
    """Return the variables of an activated environment, without this project."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return variables | {"MLFLOW_TRACKING_URI": tracking.uri, "PATH": programs}


def test_it_brings_its_own_code_and_needs_no_more_than_it_says(
    tracking: Tracking, version: Version, faces: Path, tmp_path: Path
) -> None:
    code = f"""
import json, sys, mlflow, pandas
before = set(sys.modules)
model = mlflow.pyfunc.load_model({version.address!r})
told = model.predict(pandas.DataFrame({{"path": [{str(faces / "0.png")!r}]}}), params={{"aligned": True}})
assert told["faces"].tolist() == [1]
import daefr
print(json.dumps([daefr.__file__, sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})]))
"""
    where, modules = json.loads(_run_elsewhere(tracking, code, tmp_path).splitlines()[-1])
    assert Path(where).parts[-3:] == ("code", "daefr", "__init__.py")
    assert "pipelines" not in modules
    known = packages_distributions()
    needed = {known[module][0] for module in modules if module in known} - TAKEN_WHERE_THEY_ARE
    assert needed <= _with_dependencies(REQUIREMENTS)


def _with_dependencies(names: tuple[str, ...]) -> set[str]:
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = distribution(name).requires or []
        except Exception:  # an optional one
            continue
        found.add(distribution(name).name)
        left += [re.split(r"[^\w.-]", line)[0] for line in requires if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def address(tracking: Tracking, version: Version, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve`, as a user starts it."""
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", version.address,
             "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
            cwd=log.parent, env=_elsewhere(tracking), start_new_session=True, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _post(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["predictions"]


def test_it_is_served_over_http(address: str, faces: Path, expected: list[bytes]) -> None:
    rows = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in sorted(faces.iterdir())]
    told = _post(address, {"dataframe_records": rows, "params": ALIGNED})
    assert [base64.b64decode(row["image"]) for row in told] == expected
    (bad,) = _post(address, {"dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]})
    assert bad["image"] is None
    assert bad["problem"]
    (file,) = _post(address, {"dataframe_records": [{"path": str(faces / "0.png")}], "params": ALIGNED})
    assert file["image"] is None
    assert file["problem"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(address, {"dataframe_records": rows, "params": {"upscale": 3}})
    assert refused.value.code == 400
    assert "upscaling 3 times" in refused.value.read().decode()
