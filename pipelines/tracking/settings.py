"""Settings of MLflow: where runs, metrics and model versions are kept."""

from pydantic import Field

from daefr.settings.base import Settings


class TrackingConfig(Settings):
    """Where runs, metrics and model versions are kept."""

    uri: str | None = Field(None, description="MLflow's tracking URI; by default a SQLite file in the run's directory.")
    experiment: str = "daefr"
    artifacts: str | None = Field(
        None, description="Place of a new experiment's artifacts; by default beside the file, or the server's own."
    )
