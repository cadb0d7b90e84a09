"""Synthesis in a real Ray, with faces and shards on a real S3 server: workers die, storage fails, sources change."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from daefr.data.generations import Generation, find_generation
from daefr.data.manifest import NAME, Shard, load_manifest, read_rejected, read_shards
from daefr.data.shards import ShardReader
from daefr.errors import UserError
from daefr.images import decode_image, encode_png
from daefr.portraits import draw_portrait
from degradations import replay
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.engine.dataset import Dataset
from pipelines.engine.tasks import run_tasks
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError, list_objects, read
from pipelines.synthesize import sources
from tests.e2e.command import TINY
from tests.s3_server import SECRET, Proxy, direct

FACES = 22
KILL_EVERY, MOST_KILLED = float(os.environ.get("KILL_EVERY", "2")), int(os.environ.get("MOST_KILLED", "4"))
"""Seconds, and how often, as a slow machine would make no headway else; a by-hand run may take others."""


pytestmark = pytest.mark.usefixtures("_s3", "one_cluster")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for number in range(FACES - 1):
        (folder / f"{number:02d}.png").write_bytes(encode_png(draw_portrait(number, 32).image))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def bucket(s3: Proxy, faces: Path, request: pytest.FixtureRequest) -> str:
    """The address of a bucket with the faces below `faces`."""
    client, name = direct(s3), f"test-{abs(hash(request.node.name)):x}"
    client.create_bucket(Bucket=name)
    for face in faces.iterdir():
        client.upload_file(str(face), name, f"faces/{face.name}")
    return f"s3://{name}"


def _synthesize(workdir: Path, *overrides: str) -> Dataset:
    config = load_config(TINY, [f"workdir={workdir}", "data.samples_per_shard=5", *overrides])
    with open_chain(config, "synthesize") as chain:
        return chain.synthesize()


def _digests(dataset: Dataset) -> list[str]:
    return [shard.sha256 for shard in _shards(dataset)]


def _shards(dataset: Dataset) -> list[Shard]:
    folder, made = dataset.folder, load_manifest(dataset.folder)
    return [*read_shards(folder, made.train), *read_shards(folder, made.validation)]


def _workers() -> list[int]:
    """The processes that make shards now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes().startswith(b"ray::make_shard") and _is_ours(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def _is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


def test_a_run_on_s3_makes_what_a_run_here_makes_although_workers_die_and_s3_fails(
    s3: Proxy, bucket: str, faces: Path, tmp_path: Path
) -> None:
    here = _synthesize(tmp_path / "here", f"data.faces={faces}")
    seen: list[str] = []

    def in_a_task(method: str, path: str) -> bool:
        if "faces/" in path and "list-type" not in path:
            seen.append(path)
            if len(seen) in (3, 12):
                os.kill(_workers()[0], signal.SIGKILL)
        return method in ("GET", "PUT") and len(seen) > 4

    s3.fail(["503", "cut", "refuse", "500"], in_a_task)
    overrides = [
        f"data.faces={bucket}/faces",
        f"data.shard_storage={bucket}/out",
        f"compute.cache_dir={tmp_path / 'cache'}",
    ]
    there = _synthesize(tmp_path / "there", *overrides)
    assert not s3.left
    assert len(seen) > FACES, "the tasks of the killed workers were run again"
    assert _digests(there) == _digests(here)
    made = load_manifest(there.folder)
    assert [entry.source for entry in read_rejected(there.folder, made)] == ["broken.png"]
    assert made.samples("train") + made.samples("validation") == FACES - 1

    stored = {found.address.removeprefix(f"{made.store}/"): found.size for found in list_objects(f"{made.store}/")}
    for name in (NAME, made.train.file, made.validation.file, made.rejected.file):
        assert stored.pop(name) == (there.folder / name).stat().st_size
    assert stored == {shard.name: shard.bytes for shard in _shards(there)}
    assert not list(there.result.folder.glob("**/*.tar"))

    s3.fail([])
    config = load_config(TINY, [f"workdir={tmp_path / 'there'}", "data.samples_per_shard=5", *overrides,
                                "stages.hq_codebook.steps=2",
                                "stages.hq_codebook.validate_every_n_steps=2"])  # fmt: skip
    with open_chain(config, "train") as chain:
        assert chain.synthesize().result.manifest == there.result.manifest, "a committed step is not run again"
        chain.train("hq_codebook", there, {})
    assert list((tmp_path / "cache").glob("*/train-*.tar"))
    told = [path for path in (tmp_path / "there").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert told == []


@contextmanager
def _killing(seconds: float) -> Iterator[list[int]]:
    """Kill a random worker every so many seconds while the block runs; gives the number of those killed."""
    killed, stop, rng = [0], threading.Event(), random.Random(0)

    def kill() -> None:
        while killed[0] < MOST_KILLED and not stop.wait(seconds):
            workers = _workers()
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed[0] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


LONG = (
    "data.num_portraits=64",
    "data.lq_variants=12",
    "network.autoencoder.resolution=128",
    "network.autoencoder.attention_resolutions=[64]",
    "compute.max_task_retries=100",
)
"""Some 12 seconds of work for one core."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _digests(_synthesize(tmp_path_factory.mktemp("undisturbed"), *LONG, "compute.max_in_flight=2"))


@pytest.mark.parametrize("tasks", [1, 4])
def test_any_number_of_tasks_makes_equal_shards(tasks: int, undisturbed: list[str], tmp_path: Path) -> None:
    assert len(undisturbed) == 13
    assert _digests(_synthesize(tmp_path, *LONG, f"compute.max_in_flight={tasks}")) == undisturbed


@pytest.mark.parametrize("place", ["disk", "S3"])
def test_workers_that_are_killed_again_and_again_lose_and_change_nothing(
    place: str, undisturbed: list[str], bucket: str, tmp_path: Path
) -> None:
    store = [f"data.shard_storage={bucket}/out"] if place == "S3" else []
    with _killing(KILL_EVERY) as killed:
        made = _synthesize(tmp_path, *LONG, *store)
    assert killed[0] >= 2
    assert _digests(made) == undisturbed
    manifest = load_manifest(made.folder)
    for shard in _shards(made):
        data = read(f"{manifest.store}/{shard.name}") if store else (made.folder / shard.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
    assert not list(made.result.folder.rglob("*.tmp"))


def _generations(dataset: Dataset) -> list[Generation]:
    found = [find_generation(dataset.folder, number) for number in (1, 2)]
    return [generation for generation in found if generation]


def test_training_goes_on_with_new_lq_images_that_are_the_same_on_disk_and_on_s3(bucket: str, tmp_path: Path) -> None:
    steps = [
        "stages.lq_codebook.steps=12",
        "stages.lq_codebook.validate_every_n_steps=12",
        "data.refresh_every_n_epochs=1",
    ]
    cache = f"compute.cache_dir={tmp_path / 'cache'}"
    trained = []
    for name, overrides in (("here", []), ("there", [f"data.shard_storage={bucket}/out", cache])):
        config = load_config(TINY, [f"workdir={tmp_path / name}", "data.samples_per_shard=5", *steps, *overrides])
        with open_chain(config, "train") as chain:
            dataset = chain.synthesize()
            stage = chain.train("lq_codebook", dataset, {})
            told = chain.run.tracking.client.get_run(stage.manifest.run_id).data.tags
        generations = _generations(dataset)
        assert [generation.number for generation in generations] == [1, 2], "12 steps of 4 see 20 faces in 3 epochs"
        for generation in generations:
            assert stage.manifest.outputs[f"generation_{generation.number}"] == generation.sha256
            assert told[f"daefr.input.generation_{generation.number}"] == generation.sha256
        trained.append((dataset, stage, generations))
    (here, one, ours), (_, two, theirs) = trained
    assert [generation.sha256 for generation in ours] == [generation.sha256 for generation in theirs]
    assert one.manifest.outputs["validation_loss"] == two.manifest.outputs["validation_loss"]

    folder = here.folder
    (first, *_), (later, *_) = (
        list(read_shards(folder, listing)) for listing in (load_manifest(folder).train, ours[0])
    )
    before, after = ShardReader(folder, first), ShardReader(folder, later)
    for number in range(len(before)):
        assert after.key(number) == before.key(number)
        assert sorted(after.fields(number)) == sorted(set(before.fields(number)) - {"hq.webp"}), (
            "HQ is not stored again"
        )
        about = json.loads(after.read(number, "json"))
        for kind in ("mild", "severe"):
            for variant, params in enumerate(about["variants"][kind]):
                lq = after.read_only(number, f"{kind}.{variant}")
                assert lq == replay(decode_image(before.read(number, "hq.webp")), params)
                assert lq != before.read_only(number, f"{kind}.{variant}")


def test_a_generation_that_cannot_be_made_ends_the_training_with_the_cause(tmp_path: Path) -> None:
    config = load_config(TINY, [f"workdir={tmp_path}", "data.samples_per_shard=5", "data.refresh_every_n_epochs=1"])
    with open_chain(config, "train") as chain:
        dataset = chain.synthesize()
        shard = _shards(dataset)[1]
        path = dataset.folder / shard.name
        data = bytearray(path.read_bytes())
        hq = data.index(b"RIFF")
        data[hq : hq + 100] = bytes(100)
        path.write_bytes(data)
        with pytest.raises(StepFailedError, match=rf"new LQ images could not be made: shard .*{shard.name} is damaged"):
            chain.train("lq_codebook", dataset, {})


def test_a_plan_of_many_sources_takes_little_memory_and_no_pytorch(tmp_path: Path) -> None:
    """What 100 million take is extrapolated: 0.5 million may take a hundredth of the bound more than 0.2 million."""
    script = Path(__file__).with_name("simulated_plan.py")
    figures = []
    for sources_count in (200_000, 500_000):
        command = [sys.executable, str(script), str(sources_count), str(tmp_path / str(sources_count))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = figures
    assert not many["pytorch"]
    assert many["driver_peak_mb"] < 450
    assert many["driver_peak_mb"] - few["driver_peak_mb"] < 10


def test_a_store_that_is_not_there_is_told_before_anything_is_made(s3: Proxy, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.shard_storage: s3://no-such-bucket/out/.* cannot be used: not there"):
        _synthesize(tmp_path, f"data.faces={faces}", "data.shard_storage=s3://no-such-bucket/out")
    assert s3.requests
    assert not list(tmp_path.glob("steps/*/dataset/*"))


def test_shards_that_are_gone_from_the_store_are_made_again(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    overrides = [f"data.faces={bucket}/faces", f"data.shard_storage={bucket}/out"]
    first = _synthesize(tmp_path, *overrides)
    lost = _shards(first)[0]
    key = f"out/{first.result.folder.name}/{lost.name}"
    direct(s3).delete_object(Bucket=bucket.removeprefix("s3://"), Key=key)
    s3.fail([])
    _synthesize(tmp_path, *overrides)
    assert len(read(f"{bucket}/{key}")) == lost.bytes
    uploads = [path for method, path in s3.requests if method == "PUT" and path.endswith(".tar")]
    assert [path.rpartition("/")[2] for path in uploads] == [lost.name], "the others were not"


def test_a_change_beyond_what_the_fingerprint_covers_is_found(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "HEAD", 10)
    copy = tmp_path / "faces"
    copy.mkdir()
    for face in faces.iterdir():
        (copy / face.name).symlink_to(face)
    first = _synthesize(tmp_path / "run", f"data.faces={copy}")
    assert _synthesize(tmp_path / "run", f"data.faces={copy}").result.manifest == first.result.manifest
    (copy / "20.png").unlink()
    again = _synthesize(tmp_path / "run", f"data.faces={copy}")
    assert again.folder == first.folder
    assert again.result.outputs["sources"] != first.result.outputs["sources"]
    assert load_manifest(again.folder).samples("train") == FACES - 1 - 4 - 1


def _fail(how: str) -> str:
    if how == "full disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "mistake":
        raise UserError("give more faces")
    if how == "dies":
        os._exit(1)
    counter = Path(how)
    tries = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(tries + 1))
    if tries < 2:
        raise StorageError("S3 still answers 503")
    return "done"


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("full disk", StepFailedError, "shard-1: .*No space left on device"),
        ("dies", StepFailedError, "shard-1: .*worker"),
        ("mistake", UserError, "^give more faces$"),
    ],
)
def test_a_task_that_fails_for_good_says_why_in_one_line(how: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        list(run_tasks(_fail_remotely(), [("shard-1", how)]))
    assert "\n" not in str(caught.value)


def test_a_task_whose_storage_is_away_is_tried_again(tmp_path: Path) -> None:
    tasks = [("shard", str(tmp_path / "tries"))]
    assert list(run_tasks(_fail_remotely(), tasks, retries=3)) == [("shard", "done")]
    assert (tmp_path / "tries").read_text() == "3"


def test_tasks_are_taken_when_there_is_room_for_them() -> None:
    taken = 0

    def tasks() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number, number

    done = 0
    for key, result in run_tasks(lambda number: -number, tasks(), max_in_flight=3):
        assert result == -key
        done += 1
        assert taken <= done + 3
    assert (taken, done) == (20, 20)


def _fail_remotely() -> Any:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["_"]))  # workers do not have the tests
    return _fail
