"""What a step is: a function of its settings and its inputs, whose manifest is its commit.

A step's fingerprint is the hash of its name, version, settings and the digests of its inputs. It writes into a folder
named after that fingerprint, and its `manifest.json` last. A step whose manifest exists is not run again; one that was
interrupted finds its own folder again. Resuming, caching and lineage all follow from this rule.
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


@dataclass(frozen=True)
class StepResult:
    """A committed step: its folder and its manifest."""

    folder: Path
    manifest: StepManifest

    @property
    def outputs(self) -> dict[str, Any]:
        """The values that the step published in its manifest."""
        return self.manifest.outputs

    def as_input(self) -> StepInput:
        """Describe this result to a step that reads it. A step that was run again is another input, even if equal."""
        return StepInput(digest=file_digest(self.folder / MANIFEST), origin=str(self.folder))


@dataclass(frozen=True)
class StepOutput:
    """What a step's work leaves: the values for its manifest, and the files in its folder that later steps rely on."""

    outputs: dict[str, Any]
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StepContext:
    """What a step works with: its folder, the run directory, its MLflow run, and that of the pipeline around it."""

    folder: Path
    workdir: Path
    tracking: Tracking
    run_id: str
    parent_run_id: str

    def writer(self, run_id: str | None = None) -> MetricWriter:
        """Open a writer of metrics and images for the step's MLflow run, or for another one."""
        return MetricWriter(self.tracking, run_id or self.run_id)


class Step(ABC):
    """One step of a pipeline. `pipelines.engine.run.Run.execute` finds, runs, resumes and commits it."""

    version: ClassVar[int]
    """Raised when the code makes another result of the same settings and inputs."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the step, which its folder and its MLflow run begin with."""

    @property
    def command(self) -> str:
        """The command that runs the step, for messages."""
        return f"python -m pipelines {self.name}"

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return the settings that change the result, as JSON values."""

    @abstractmethod
    def inputs(self) -> Mapping[str, StepInput]:
        """Return everything that the step reads, by a name for people."""

    @abstractmethod
    def run(self, context: StepContext) -> StepOutput:
        """Do the work in the step's folder, which holds what an interrupted attempt left."""

    def is_still_valid(self, result: StepResult) -> bool:  # noqa: ARG002
        """Tell whether a committed result is still true to what the fingerprint cannot cover; else it is run again."""
        return True

    def key(self) -> "StepKey":
        """Return what determines the result."""
        return StepKey(self.name, self.version, dict(self.settings()), dict(self.inputs()))


@dataclass(frozen=True)
class StepKey:
    """What determines a step's result. Equal keys have equal fingerprints, and the same folder."""

    name: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, StepInput]

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the key; of the inputs, only the content counts."""
        inputs = {name: value.digest for name, value in self.inputs.items()}
        return digest({"step": self.name, "version": self.version, "settings": self.settings, "inputs": inputs})

    @property
    def folder(self) -> str:
        """The name of the step's folder."""
        return f"{self.name}-{self.fingerprint[:12]}"


def find_result(folder: Path) -> StepResult | None:
    """Return the result committed in `folder`; None where there is none, or where a file that it lists is missing."""
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
    return StepResult(folder, manifest)
