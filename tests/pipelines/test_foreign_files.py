"""Steps that write elsewhere, and caches, delete and replace nothing that is not theirs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daefr.checkpoint import save_checkpoint
from daefr.data.manifest import load_manifest, read_shards
from daefr.errors import UserError
from pipelines.storage import s3 as storage
from pipelines.storage.address import is_address
from pipelines.storage.cache import ShardCache
from pipelines.synthesize import step as synthesize
from pipelines.synthesize.shards import ShardTask, make_shard
from pipelines.synthesize.sources import Source
from pipelines.train.checkpoints import METRICS, Checkpoints, checkpoint_name
from tests.daefr import foreign, tiny
from tests.e2e.command import ROOT
from tests.s3_server import Proxy, direct


@pytest.fixture
def bucket(s3: Proxy, request: pytest.FixtureRequest) -> str:
    name = f"foreign-{abs(hash(request.node.name)):x}"
    direct(s3).create_bucket(Bucket=name)
    return f"s3://{name}"


def test_a_cache_evicts_its_own_shards_alone(bucket: str, tmp_path: Path) -> None:
    dataset, cache = tiny.write_dataset(tmp_path / "dataset"), tmp_path / "cache"
    shards = list(read_shards(dataset, load_manifest(dataset).train))
    for shard in shards:
        storage.upload(dataset / shard.name, f"{bucket}/{shard.name}")
    before = foreign.fill(
        cache, ["photographs/a.png", "photographs/b.tar", "notes.txt", f"{'0' * 64}/a.png", "x/y/z.tmp"]
    )
    before |= foreign.fill(cache, [f"{shards[0].sha256}/notes.txt"])
    limit = max(shard.bytes for shard in shards)
    for shard in [*shards, *shards]:
        with ShardCache(bucket, cache, limit)(shard) as path:
            assert path.stat().st_size == shard.bytes
    assert foreign.lost(before, cache) == []
    assert sum(path.stat().st_size for path in cache.glob("*/train-*.tar")) <= limit


@pytest.mark.parametrize("kind", ["folder", "S3"])
def test_checkpoints_on_their_way_are_deleted_alone(kind: str, bucket: str, tmp_path: Path) -> None:
    place = str(tmp_path / "ray") if kind == "folder" else f"{bucket}/ray"
    names = ["notes.txt", "step-000000001/notes.txt", "step-by-step/manifest.json", "photographs/a.png", "step-1/a.png"]
    for name in names:
        path = tmp_path / "foreign" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"somebody's {name}")
        _put(path, place, name)
    checkpoints = Checkpoints(place)
    for step in (1, 2, 3):
        source = tmp_path / f"made-{step}"
        stage = tiny.build("hq_codebook")
        save_checkpoint(source, stage.name, stage.network, stage.weights(), {"step": step})
        (source / METRICS).write_text(json.dumps({}))
        checkpoints.put(source, checkpoint_name(step))
        checkpoints.prune(keep=1, step=step)
    assert checkpoints.names() == [checkpoint_name(3)]
    checkpoints.keep_only(4)
    left = {str(path.relative_to(place)): path.read_text() for path in Path(place).rglob("*") if path.is_file()}
    if kind == "S3":
        left = {
            found.address.removeprefix(f"{place}/"): storage.read(found.address).decode()
            for found in storage.list_objects(f"{place}/")
        }
    assert left == {name: f"somebody's {name}" for name in names}


def _put(path: Path, place: str, name: str) -> None:
    if is_address(place):
        storage.upload(path, f"{place}/{name}")
    else:
        (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(place) / name).write_bytes(path.read_bytes())


def _task(path: Path, store: str, first: int, before: str | None = None) -> ShardTask:
    sources = [Source(f"portrait-{first + number:06d}", portrait=first + number) for number in range(2)]
    recipes = {"mild": "daefr-mild", "severe": "daefr-severe"}
    return ShardTask(path, sources, 0, 32, recipes, 1, 5, store=store, before=before)


def test_a_shard_takes_no_place_in_a_store(bucket: str, tmp_path: Path) -> None:
    store, path = f"{bucket}/shards", tmp_path / "train-000000.tar"
    made = make_shard(_task(path, store, 0)).shard
    assert made is not None
    assert make_shard(_task(path, store, 0)).shard == made, "the same may be there: a killed task left it"
    with pytest.raises(UserError, match=r"train-000000.tar already exists and is not what was recorded"):
        make_shard(_task(path, store, 7))
    assert storage.digest(storage.describe(f"{store}/{path.name}")) == made.sha256
    other = make_shard(_task(path, store, 7, before=made.sha256)).shard
    assert other is not None
    assert storage.digest(storage.describe(f"{store}/{path.name}")) == other.sha256


def test_a_datasets_lists_take_no_place_in_a_store(bucket: str, tmp_path: Path) -> None:
    folder, files = tmp_path / "dataset", ["train.jsonl", "manifest.json"]
    foreign.fill(folder, files)
    synthesize._upload(folder, files, f"{bucket}/mine", tmp_path)
    (folder / "manifest.json").write_text("another")
    synthesize._upload(folder, files, f"{bucket}/mine", tmp_path)
    assert storage.read(f"{bucket}/mine/manifest.json") == b"another"
    storage.write(f"{bucket}/theirs/manifest.json", b"somebody's")
    with pytest.raises(
        UserError, match=r"data.shard_storage: .*theirs/manifest.json already exists and is not recorded"
    ):
        synthesize._upload(folder, files, f"{bucket}/theirs", tmp_path)
    assert storage.read(f"{bucket}/theirs/manifest.json") == b"somebody's"


@pytest.mark.parametrize("mine", ["[mlflow]\ndefault_permission = READ\n", "link", ""])
def test_the_servers_settings_take_no_place(tmp_path: Path, mine: str) -> None:
    script = "\n".join([
        "import sys; from pathlib import Path; sys.path.insert(0, 'infra/mlflow'); import serve",
        "try: serve.create_secrets(Path(sys.argv[1]), 'sqlite://', sys.argv[2])",
        "except serve.SettingError as error: sys.exit(str(error))",
    ])  # fmt: skip
    folder = tmp_path / "secrets"
    folder.mkdir()

    def run(permission: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(folder), permission]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    settings = folder / "basic_auth.ini"
    if mine:
        if mine == "link":
            (tmp_path / "mine").write_text("mine")
            settings.symlink_to(tmp_path / "mine")
        else:
            settings.write_text(mine)
        before = foreign.seen(tmp_path)
        refused = run("READ")
        assert refused.returncode == 1
        assert str(settings) in refused.stderr
        assert foreign.seen(tmp_path) == before
        return
    for permission in ("READ", "EDIT"):
        assert run(permission).returncode == 0
        assert f"default_permission = {permission}" in settings.read_text()
        assert settings.stat().st_mode & 0o777 == 0o600
    secrets = {path.name: path.read_text() for path in folder.iterdir() if path != settings}
    assert len(secrets) == 2
    settings.write_text(settings.read_text().replace("EDIT", "MANAGE"))
    assert run("READ").returncode == 1, "it has been changed"
    assert {path.name: path.read_text() for path in folder.iterdir() if path != settings} == secrets


def test_cleaning_leaves_what_was_trained() -> None:
    rules = (ROOT / "Makefile").read_text().partition("\nclean:")[2]
    assert "rm " in rules
    assert "runs" not in rules
