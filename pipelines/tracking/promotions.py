"""The history of a model's champions: an append-only log that is safe for concurrent writers.

MLflow has no compare-and-set for aliases and no locks, but a run's parameter can be written only once: all of its
stores reject a second, different value. So every model has a run whose parameters `000001`, `000002` ... are its
history.
The process that writes the next number has moved the champion; any other finds the number taken, and decides again.

If a process dies after writing an entry and before moving the alias, the next process moves the alias.
"""

import getpass
import os
import socket
import uuid
from datetime import UTC, datetime
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import AliasChoices, Field

from daefr.errors import UserError, one_line
from daefr.settings.base import Settings
from pipelines.tracking.client import Tracking

HISTORY_RUN = "daefr.journal"
APPLIED = "daefr.settled"
_REASON_LENGTH = 3000


def current_user() -> str:
    """Return the user's name, as MLflow's server or the system knows it, and the host's."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return f"{name}@{socket.gethostname()}"


class ChampionChange(Settings):
    """One change of the champion: the old and the new one, who changed it, when and why."""

    kind: Literal["promoted", "rolled back", "moved by hand"]
    champion: int | None
    replaces: int | None
    previous: int | None
    """The version that a rollback would return to."""
    why: str
    metrics: dict[str, tuple[float | None, float | None]] = Field(
        default_factory=dict, validation_alias=AliasChoices("metrics", "figures")
    )
    """The metrics that the gates compared: the candidate's, and the champion's if there was one."""
    run_id: str = ""
    """The MLflow run of the decision."""
    who: str = Field(default_factory=current_user)
    when: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Distinguishes this entry from an equal one of another process."""


class ChampionHistory:
    """The history of one model's champions."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        """Use the run of a history; `open` finds it."""
        self._client, self._run_id = tracking.client, run_id

    @classmethod
    def open(cls, tracking: Tracking, model: str) -> "ChampionHistory":
        """Return the history of a registered model."""
        run_id = tracking.client.get_registered_model(model).tags.get(HISTORY_RUN)
        if run_id is None:  # the model was registered by hand
            run_id = _create_run(tracking, model)
            tracking.client.set_registered_model_tag(model, HISTORY_RUN, run_id)
        return cls(tracking, run_id)

    def entries(self) -> list[ChampionChange]:
        """Read all entries, oldest first."""
        params = self._client.get_run(self._run_id).data.params
        return [ChampionChange.model_validate_json(params[key]) for key in sorted(params)]

    def append(self, count: int, change: ChampionChange) -> bool:
        """Append a change to the `count` entries so far; return False if another process has appended one before."""
        change = change.model_copy(update={"why": change.why[:_REASON_LENGTH]})
        try:
            self._client.log_param(self._run_id, f"{count + 1:06d}", change.model_dump_json())
        except MlflowException as error:
            if len(self.entries()) > count:
                return False
            raise UserError(
                f"The history of champions (MLflow run {self._run_id}) cannot be written: {one_line(error, 200)}"
            ) from error
        return True

    @property
    def applied(self) -> int:
        """The number of entries to which the aliases were last moved."""
        return int(self._client.get_run(self._run_id).data.tags.get(APPLIED, 0))

    def mark_applied(self, count: int) -> None:
        """Record that the aliases were moved to the state after `count` entries."""
        self._client.set_tag(self._run_id, APPLIED, str(count))

    def describe(self, text: str) -> None:
        """Set the description of the history's run, in Markdown."""
        self._client.set_tag(self._run_id, "mlflow.note.content", text)


def create_model(tracking: Tracking, model: str) -> None:
    """Create a registered model with an empty history, unless another process is faster."""
    run_id = _create_run(tracking, model)
    try:
        tracking.client.create_registered_model(model, tags={HISTORY_RUN: run_id})
    except MlflowException as error:
        tracking.client.delete_run(run_id)
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_run(tracking: Tracking, model: str) -> str:
    client: MlflowClient = tracking.client
    run = client.create_run(tracking.experiment_id, run_name=f"promotions of {model}", tags={"daefr.model": model})
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)
