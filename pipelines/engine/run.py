"""A run: a configuration with a place to work in, and a parent run in MLflow."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daefr.errors import UserError
from daefr.version import NAME, find_checkout, find_version
from pipelines.config import RunConfig
from pipelines.engine import cluster
from pipelines.engine.digest import digest
from pipelines.engine.progress import say
from pipelines.engine.step import Committed, StepInput, Work, execute
from pipelines.tracking.client import MetricWriter, Tracking

DATABASE = "mlflow.db"


@dataclass(frozen=True)
class Run:
    """What every step is given."""

    config: RunConfig
    workdir: Path
    tracking: Tracking
    parent: str
    only: tuple[str, ...] | None = None
    """The steps that may be executed; all others must be committed. None allows every step."""

    def step(
        self,
        name: str,
        version: int,
        settings: Mapping[str, Any],
        inputs: Mapping[str, StepInput],
        work: Work,
        *,
        holds: Callable[[Committed], bool] = lambda _: True,
    ) -> Committed:
        """Find or execute a step of this run. See `pipelines.engine.step.execute`."""
        return execute(
            name=name,
            version=version,
            settings=settings,
            inputs=inputs,
            workdir=self.workdir,
            tracking=self.tracking,
            parent=self.parent,
            work=work,
            say=say,
            allowed=self.only is None or name in self.only,
            holds=holds,
        )

    def writer(self, run_id: str) -> MetricWriter:
        """Write metrics and images of a step's MLflow run."""
        return MetricWriter(self.tracking, run_id)


@contextmanager
def open_run(config: RunConfig, name: str, only: tuple[str, ...] | None = None) -> Iterator[Run]:
    """Open the run directory, MLflow and the parent run; on the way out, close that run and leave the cluster."""
    workdir = open_workdir(config.workdir)
    tracking = open_tracking(config, workdir)
    settings = config.model_dump(mode="json")
    parent = tracking.start_run(name, digest({"name": name, **settings}), params=settings)
    try:
        yield Run(config, workdir, tracking, parent, only)
    except BaseException as error:
        tracking.finish(parent, "FAILED", str(error) or type(error).__name__)
        raise
    else:
        tracking.finish(parent, "FINISHED")
    finally:
        cluster.disconnect()


def absolute(path: Path) -> Path:
    """Return a path as the user means it: the working directory of a Ray job is a copy that Ray throws away."""
    return (Path.home() if cluster.in_ray_job() else Path.cwd()) / path.expanduser()


def open_tracking(config: RunConfig, workdir: Path) -> Tracking:
    """Open a configuration's MLflow; without a server's address, that is a file in the run's directory."""
    uri = config.tracking.uri or f"sqlite:///{workdir}/{DATABASE}"
    # a server has a place for artifacts of its own, which its clients need no credentials for
    beside = None if uri.startswith("http") else str(workdir / "artifacts")
    artifacts = config.tracking.artifacts or beside
    return Tracking.open(uri, config.tracking.experiment, artifacts, git_revision(), config.compute.patience)


def open_workdir(path: Path) -> Path:
    """Return the run directory, made if need be. Raises `UserError` when it cannot be."""
    workdir = absolute(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"workdir={workdir} cannot be made: {error.strerror}") from None
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
