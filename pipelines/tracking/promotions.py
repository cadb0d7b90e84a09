"""The champions of a model in order, written so that two writers cannot both believe that they were the next.

MLflow moves an alias without looking at what it replaces, and has no locks. But a run's parameter can be written once
only: a second writer of another value is refused, by SQLite, PostgreSQL and the server alike. So every model has a run
whose parameters are its journal, `000001`, `000002` and so on. Whoever writes the next number has moved the champion;
the other one finds that number taken, and has to decide again, against the new champion.

A process that dies between its entry and the alias loses nothing: who comes next moves the alias to where the journal
says that it belongs.
"""

import getpass
import os
import socket
import uuid
from datetime import UTC, datetime
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import Field

from daefr.errors import UserError, one_line
from daefr.settings.base import Settings
from pipelines.tracking.client import Tracking

JOURNAL = "daefr.journal"
SETTLED = "daefr.settled"
_REASON_LENGTH = 3000


def whoami() -> str:
    """Return who is working here: the name that MLflow's server knows, or the system's, with the machine's."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return f"{name}@{socket.gethostname()}"


class Entry(Settings):
    """One change of the champion: what it became, from what, and who did it when and why."""

    kind: Literal["promoted", "rolled back", "moved by hand"]
    champion: int | None
    replaces: int | None
    previous: int | None
    """What a rollback would return to."""
    why: str
    figures: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """What the gates looked at: the candidate's, and the champion's where there was one."""
    run_id: str = ""
    """The MLflow run of the decision."""
    who: str = Field(default_factory=whoami)
    when: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this entry from an equal one of another writer."""


class Journal:
    """The entries of one model."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        """Use the run of a journal; `of` finds a model's."""
        self._client, self._run_id = tracking.client, run_id

    @classmethod
    def of(cls, tracking: Tracking, model: str) -> "Journal":
        """Return the journal of a model that exists."""
        run_id = tracking.client.get_registered_model(model).tags.get(JOURNAL)
        if run_id is None:  # made by hand
            run_id = _start(tracking, model)
            tracking.client.set_registered_model_tag(model, JOURNAL, run_id)
        return cls(tracking, run_id)

    def entries(self) -> list[Entry]:
        """Read all entries, the oldest first."""
        params = self._client.get_run(self._run_id).data.params
        return [Entry.model_validate_json(params[key]) for key in sorted(params)]

    def append(self, after: int, entry: Entry) -> bool:
        """Write an entry after so many others; return whether it is the next, or another writer was first."""
        entry = entry.model_copy(update={"why": entry.why[:_REASON_LENGTH]})
        try:
            self._client.log_param(self._run_id, f"{after + 1:06d}", entry.model_dump_json())
        except MlflowException as error:
            if len(self.entries()) > after:
                return False
            raise UserError(
                f"The journal of promotions, MLflow's run {self._run_id}, cannot be written to: {one_line(error, 200)}"
            ) from error
        return True

    @property
    def settled(self) -> int:
        """The number of entries after which the aliases were what they say."""
        return int(self._client.get_run(self._run_id).data.tags.get(SETTLED, 0))

    def settle(self, count: int) -> None:
        """Note that the aliases are as the first `count` entries say."""
        self._client.set_tag(self._run_id, SETTLED, str(count))

    def describe(self, text: str) -> None:
        """Put Markdown on the page of the journal's run."""
        self._client.set_tag(self._run_id, "mlflow.note.content", text)


def create_model(tracking: Tracking, model: str) -> None:
    """Create a registered model with an empty journal, unless another process is first."""
    run_id = _start(tracking, model)
    try:
        tracking.client.create_registered_model(model, tags={JOURNAL: run_id})
    except MlflowException as error:
        tracking.client.delete_run(run_id)
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _start(tracking: Tracking, model: str) -> str:
    client: MlflowClient = tracking.client
    run = client.create_run(tracking.experiment_id, run_name=f"promotions of {model}", tags={"daefr.model": model})
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)
