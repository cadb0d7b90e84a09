"""A run: a directory to work in, a parent run in MLflow, and the execution of steps below both."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daefr.errors import UserError, is_disk_full, one_line
from daefr.files import write_atomically
from daefr.version import NAME, find_checkout, find_version
from pipelines.engine import cluster
from pipelines.engine.digest import digest
from pipelines.engine.lease import Lease, leased
from pipelines.engine.progress import say
from pipelines.engine.signals import STOPPED, abandoned
from pipelines.engine.step import (
    MANIFEST,
    Step,
    StepContext,
    StepKey,
    StepManifest,
    StepOutput,
    StepResult,
    find_result,
)
from pipelines.storage.paths import absolute
from pipelines.tracking.client import Tracking
from pipelines.tracking.database import ARTIFACTS, sqlite_uri
from pipelines.tracking.settings import TrackingConfig

DATABASE = "mlflow.db"
STEPS = "steps"


@dataclass(frozen=True)
class Run:
    """Executes steps in a run directory, each below the run's MLflow run."""

    workdir: Path
    tracking: Tracking
    run_id: str
    executable: tuple[str, ...] | None = None
    """The names of the steps that may be executed; all others must be committed. None allows every step."""
    wait_for_lease: bool = True
    """Whether a step that another process is running is waited for; else it is an error."""

    def execute(self, step: Step) -> StepResult:
        """Return the step's result if it is committed and valid; else run the step, or resume it, and commit it.

        When the step raises, its MLflow run is marked as failed, and its folder stays for the next attempt. Raises
        `UserError` when the step is not committed and must not be executed in this run.
        """
        key = step.key()
        folder = self.workdir / STEPS / key.folder
        result = find_result(folder)
        if result is not None and step.is_still_valid(result):
            say(f"{key.name}: up to date, {folder}")
        elif self.executable is not None and key.name not in self.executable:
            raise UserError(
                f"{key.name} has not been run with this configuration and data in {self.workdir}: run "
                f"`{step.command}` first"
            )
        else:
            result = self._run_leased(step, key, folder, result)
        self.tracking.set_tag(self.run_id, f"daefr.{key.name}", result.manifest.run_id)
        return result

    def _run_leased(self, step: Step, key: StepKey, folder: Path, invalid: StepResult | None) -> StepResult:
        word = "resuming" if folder.exists() else "starting"
        folder.mkdir(parents=True, exist_ok=True)
        with leased(folder, key.name, wait=self.wait_for_lease) as lease:
            finished = find_result(folder)  # by the process that was waited for
            if finished is not None and finished != invalid and step.is_still_valid(finished):
                say(f"{key.name}: up to date, {folder}")
                return finished
            say(f"{key.name}: {word}, {folder}")
            return self._run(step, key, folder, lease)

    def _run(self, step: Step, key: StepKey, folder: Path, lease: Lease) -> StepResult:
        run_id = self.tracking.start_run(
            key.name,
            key.fingerprint,
            parent=self.run_id,
            params=key.settings,
            tags={f"daefr.input.{name}": f"{value.origin} {value.digest}" for name, value in key.inputs.items()},
        )
        start = time.monotonic()
        try:
            output = step.run(self._context(folder, run_id))
        except BaseException as error:
            _finish_unsuccessful(self.tracking, run_id, error)
            raise
        lease.check()
        result = self._commit(key, folder, run_id, output, round(time.monotonic() - start, 3))
        self.tracking.finish(run_id, "FINISHED")
        say(f"{key.name}: done in {result.manifest.seconds:.0f} s")
        return result

    def _context(self, folder: Path, run_id: str) -> StepContext:
        return StepContext(folder, self.workdir, self.tracking, run_id, self.run_id, self.wait_for_lease)

    def _commit(self, key: StepKey, folder: Path, run_id: str, output: StepOutput, seconds: float) -> StepResult:
        manifest = StepManifest(
            step=key.name,
            version=key.version,
            fingerprint=key.fingerprint,
            settings=key.settings,
            inputs=key.inputs,
            outputs=output.outputs,
            files=output.files,
            run_id=run_id,
            revision=self.tracking.revision,
            finished=datetime.now(UTC),
            seconds=seconds,
        )
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return StepResult(folder, manifest)


@contextmanager
def open_run(
    name: str,
    workdir: Path,
    tracking: Tracking,
    settings: Mapping[str, Any],
    executable: tuple[str, ...] | None = None,
    *,
    wait_for_lease: bool = True,
) -> Iterator[Run]:
    """Open the MLflow run of a pipeline; on the way out, close it and disconnect from the cluster.

    `settings` are the whole configuration, which the MLflow run has as its parameters.
    """
    run_id = tracking.start_run(name, digest({"name": name, **settings}), params=settings)
    try:
        yield Run(workdir, tracking, run_id, executable, wait_for_lease)
    except BaseException as error:
        _finish_unsuccessful(tracking, run_id, error)
        raise
    else:
        tracking.finish(run_id, "FINISHED")
    finally:
        cluster.disconnect()


def _finish_unsuccessful(tracking: Tracking, run_id: str, error: BaseException) -> None:
    """Mark a run as failed, or as killed where the command was asked to stop. Raises nothing in place of `error`."""
    stopped = isinstance(error, STOPPED)
    try:
        tracking.finish(run_id, "KILLED" if stopped else "FAILED", "" if stopped else one_line(error, 500))
        if abandoned.is_set():
            tracking.kill_children(run_id)
    except Exception as unrecorded:
        if not is_disk_full(error):
            say(f"MLflow run {run_id} could not be marked as ended: {one_line(unrecorded)}")


def open_tracking(settings: TrackingConfig, workdir: Path, unavailable_timeout_s: float) -> Tracking:
    """Connect to MLflow; without a tracking URI, that is a SQLite file in the run directory."""
    uri = settings.uri or sqlite_uri(workdir / DATABASE)
    # a server has its own place for artifacts, for which its clients need no credentials
    local_artifacts = None if uri.startswith("http") else str(workdir / ARTIFACTS)
    return Tracking.open(
        uri,
        settings.experiment_name,
        settings.artifact_location or local_artifacts,
        git_revision(),
        unavailable_timeout_s,
    )


def open_workdir(path: Path) -> Path:
    """Return the absolute run directory, created if it does not exist. Raises `UserError` when it cannot be created."""
    workdir = absolute(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create workdir={workdir}: {error.strerror}") from None
    return workdir.resolve()


def git_revision() -> str:
    """Return the checkout's git revision, `-dirty` after it where files differ.

    Without git that is GIT_COMMIT; of an installed package it is the version.
    """
    checkout = find_checkout()
    if checkout is None:  # the packages may be below another project's checkout
        return os.environ.get("GIT_COMMIT", f"{NAME} {find_version()}")
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT", "unknown")
    return described.stdout.strip()
