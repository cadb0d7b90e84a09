"""Steps: functions of their settings and inputs, whose results are committed by a manifest.

A step's fingerprint is a digest of its name, version, settings and the digests of its inputs. The step writes to a
folder named after the fingerprint, and `manifest.json` last. A step with a manifest is not run again, and a step that
was interrupted finds its folder again. Resuming, caching and lineage are based on this.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from daefr.errors import UserError
from daefr.files import file_digest
from daefr.settings.base import Settings
from pipelines.engine.digest import digest
from pipelines.tracking.client import MetricWriter, Tracking

MANIFEST = "manifest.json"


class StepInput(Settings):
    """An input of a step: a digest of its content, and its origin in readable form."""

    digest: str
    origin: str


class StepManifest(Settings):
    """The manifest of a step, which commits its result."""

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


@dataclass(frozen=True)
class StepResult:
    """The committed result of a step: its folder and its manifest."""

    folder: Path
    manifest: StepManifest

    @property
    def outputs(self) -> dict[str, Any]:
        """The values in the manifest."""
        return self.manifest.outputs

    def as_input(self) -> StepInput:
        """Return this result as an input of another step. If the step is run again, the input changes."""
        return StepInput(digest=file_digest(self.folder / MANIFEST), origin=str(self.folder))


@dataclass(frozen=True)
class StepOutput:
    """The output of a step: the values for its manifest, and the files in its folder that later steps need."""

    outputs: dict[str, Any]
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StepContext:
    """The environment of a running step: its folder, the run directory, its MLflow run and the pipeline's."""

    folder: Path
    workdir: Path
    tracking: Tracking
    run_id: str
    parent_run_id: str
    wait_for_lease: bool = True
    """Whether what another process is working on is waited for; else it is an error."""

    def writer(self, run_id: str | None = None) -> MetricWriter:
        """Open a writer for the step's MLflow run, or for another one."""
        return MetricWriter(self.tracking, run_id or self.run_id)


class Step(ABC):
    """A step of a pipeline, which `pipelines.engine.run.Run.execute` finds, runs, resumes and commits."""

    version: ClassVar[int]
    """Increased when the code produces another result from the same settings and inputs."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the step, which is part of the names of its folder and its MLflow run."""

    @property
    def command(self) -> str:
        """The command that runs the step, for messages."""
        return f"python -m pipelines {self.name}"

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return the settings that change the result, as JSON values."""

    @abstractmethod
    def inputs(self) -> Mapping[str, StepInput]:
        """Return everything that the step reads, by name."""

    @abstractmethod
    def run(self, context: StepContext) -> StepOutput:
        """Run the step in its folder, which may have files of an interrupted attempt."""

    def is_still_valid(self, result: StepResult) -> bool:  # noqa: ARG002
        """Return whether a committed result is valid in ways that the fingerprint does not cover."""
        return True

    def key(self) -> "StepKey":
        """Return the key that determines the result."""
        return StepKey(self.name, self.version, dict(self.settings()), dict(self.inputs()))


@dataclass(frozen=True)
class StepKey:
    """The name, version, settings and inputs of a step, which determine its result and its folder."""

    name: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, StepInput]

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the key, which includes the digests of the inputs but not their origins."""
        inputs = {name: value.digest for name, value in self.inputs.items()}
        return digest({"step": self.name, "version": self.version, "settings": self.settings, "inputs": inputs})

    @property
    def folder(self) -> str:
        """The name of the step's folder."""
        return f"{self.name}-{self.fingerprint[:12]}"


def find_result(folder: Path) -> StepResult | None:
    """Return the result committed in `folder`; None if there is none or one of its files is missing."""
    try:
        manifest = StepManifest.model_validate_json((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged ({error.errors()[0]['msg']}); delete {folder} to run the step again"
        ) from None
    if not all((folder / file).exists() for file in manifest.files):
        return None
    return StepResult(folder, manifest)
