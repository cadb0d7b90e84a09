from pathlib import Path

import pytest

from daefr.errors import UserError
from pipelines.tracking import registry
from pipelines.tracking.client import FINGERPRINT, Tracking
from pipelines.tracking.registry import MODELS, Version


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One database for the module: MLflow needs seconds to make one. Each test has a stage of its own."""
    root = tmp_path_factory.mktemp("registry")
    return Tracking.open(f"sqlite:///{root}/mlflow.db", "faces", str(root / "artifacts"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step000200"
    (folder / "trainer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "trainer" / "state.safetensors").write_bytes(b"state")
    (folder / "manifest.json").write_text("{}")
    return folder


def register(tracking: Tracking, stage: str, checkpoint: Path, fingerprint: str) -> Version:
    run_id = tracking.start_run(stage, fingerprint)
    return registry.register(tracking, stage, checkpoint, run_id, fingerprint=fingerprint, tags={"psnr": "21.5"})


def test_registering_twice_makes_one_version(
    tracking: Tracking, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = register(tracking, "hq_codebook", checkpoint, "one")
    assert (first.name, first.number) == (MODELS["hq_codebook"], 1)
    assert first.tags == {"psnr": "21.5", FINGERPRINT: "one"}
    second = register(tracking, "hq_codebook", checkpoint, "two")
    assert second.number == 2

    monkeypatch.setattr(tracking.client, "log_artifacts", lambda *_: pytest.fail("uploaded again"))
    assert register(tracking, "hq_codebook", checkpoint, "one") == first
    assert registry.resolve(tracking, f"models:/{first.name}@candidate") == first


def test_upload_that_broke_off_is_completed(
    tracking: Tracking, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tracking.client, "create_model_version", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            register(tracking, "hq_codebook", checkpoint, "broken")
    assert register(tracking, "hq_codebook", checkpoint, "broken").tags[FINGERPRINT] == "broken"


def test_incomplete_checkpoint_is_refused(tracking: Tracking, checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json"):
        register(tracking, "hq_codebook", checkpoint, "incomplete")


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("daefr-association", "models:/NAME@ALIAS"),
        ("models:/daefr-association/latest", "models:/NAME@ALIAS"),
        ("models:/daefr-asociation@champion", "'daefr-asociation'.*daefr-association"),
        ("models:/daefr-association@champion", "'champion'.*candidate"),
        ("models:/daefr-association/9", r"9\b.*\b1\b"),
    ],
)
def test_unknown_address_lists_what_exists(tracking: Tracking, checkpoint: Path, address: str, names: str) -> None:
    register(tracking, "association", checkpoint, "address")
    with pytest.raises(UserError, match=names):
        registry.resolve(tracking, address)


def test_local_checkpoint_is_used_in_place(tracking: Tracking, checkpoint: Path, tmp_path: Path) -> None:
    version = register(tracking, "lq_codebook", checkpoint, "download")
    folder = registry.download(tracking, version, tmp_path / "into")
    assert str(folder) == version.source
    assert (folder / "trainer" / "state.safetensors").read_bytes() == b"state"
    assert not (tmp_path / "into").exists()


def test_remote_checkpoint_is_copied(tracking: Tracking, checkpoint: Path, tmp_path: Path) -> None:
    local = register(tracking, "lq_codebook", checkpoint, "download")
    remote = Version(local.name, local.number, Path(local.source).as_uri(), local.run_id, local.tags)
    folder = registry.download(tracking, remote, tmp_path / "into")
    assert folder.is_relative_to(tmp_path / "into")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder / "trainer" / "state.safetensors").read_bytes() == b"state"
