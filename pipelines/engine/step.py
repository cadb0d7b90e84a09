"""The one rule of the pipeline: a step is a function of its inputs, and its manifest is its commit.

A step's fingerprint is the hash of its settings, its version and the manifests that it reads. It writes into a folder
named after that fingerprint, and its `manifest.json` last. A step whose manifest is there is not run again; one that
was interrupted finds its own folder again. Resuming, caching and lineage are all this rule.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from daefr.errors import UserError
from daefr.files import file_digest, write_atomically
from daefr.settings.base import Settings
from pipelines.engine.digest import digest
from pipelines.tracking.client import Tracking

MANIFEST = "manifest.json"


class StepInput(Settings):
    """What a step read: a digest of its content, and for people, where it came from."""

    digest: str
    origin: str


class StepManifest(Settings):
    """The commit of a step."""

    format: Literal[1] = 1
    step: str
    version: int
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, StepInput]
    outputs: dict[str, Any]
    files: list[str]
    run_id: str
    revision: str
    finished: datetime
    seconds: float


class Committed:
    """A finished step: its folder and its manifest."""

    def __init__(self, folder: Path, manifest: StepManifest) -> None:
        """Hold what `find` or `execute` found."""
        self.folder, self.manifest = folder, manifest

    def as_input(self) -> StepInput:
        """Describe this step to one that reads it. A step that was run again is another input, even if equal."""
        return StepInput(digest=file_digest(self.folder / MANIFEST), origin=str(self.folder))


Work = Callable[[Path, str], tuple[dict[str, Any], list[str]]]
"""Does a step: (its folder, its MLflow run) -> (what the manifest should tell, the paths in the folder to rely on)."""


def execute(
    *,
    name: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: Mapping[str, StepInput],
    workdir: Path,
    tracking: Tracking,
    parent: str,
    work: Work,
    say: Callable[[str], None],
    allowed: bool = True,
    holds: Callable[[Committed], bool] = lambda _: True,
) -> Committed:
    """Return the step if it is committed; else do its work, below the MLflow run `parent`, and commit it.

    `holds` tells whether a committed step is still true to what its fingerprint could not cover; else it runs again.

    When the work raises, its run is marked as failed, and whatever it left in its folder stays for the next attempt.
    Raises `UserError` when the step is not committed and not `allowed` to be executed now.
    """
    fingerprint = digest(
        {"step": name, "version": version, "settings": settings, "inputs": {k: v.digest for k, v in inputs.items()}}
    )
    folder = workdir / "steps" / f"{name}-{fingerprint[:12]}"
    found = find(folder)
    if found is not None and holds(found):
        say(f"{name}: kept, {folder}")
        tracking.link(parent, f"daefr.{name}", found.manifest.run_id)
        return found
    if not allowed:
        raise UserError(f"{name} has not been run with this configuration and data in {workdir}: run it first")
    say(f"{name}: {'goes on' if folder.exists() else 'starts'}, {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    run_id = tracking.start_run(
        name,
        fingerprint,
        parent=parent,
        params=dict(settings),
        tags={f"daefr.input.{key}": f"{value.origin} {value.digest}" for key, value in inputs.items()},
    )
    start = time.monotonic()
    try:
        outputs, files = work(folder, run_id)
    except BaseException as error:
        tracking.finish(run_id, "FAILED", str(error) or type(error).__name__)
        raise
    manifest = StepManifest(
        step=name,
        version=version,
        fingerprint=fingerprint,
        settings=dict(settings),
        inputs=dict(inputs),
        outputs=outputs,
        files=files,
        run_id=run_id,
        revision=tracking.revision,
        finished=datetime.now(UTC),
        seconds=round(time.monotonic() - start, 3),
    )
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    tracking.finish(run_id, "FINISHED")
    tracking.link(parent, f"daefr.{name}", run_id)
    say(f"{name}: done in {manifest.seconds:.0f} s")
    return Committed(folder, manifest)


def find(folder: Path) -> Committed | None:
    """Return the step committed in `folder`, or None where there is none, or where a file that it relies on is gone."""
    try:
        manifest = StepManifest.model_validate_json((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged ({error.errors()[0]['msg']}): delete {folder} to run the step again"
        ) from None
    if not all((folder / file).exists() for file in manifest.files):
        return None
    return Committed(folder, manifest)
