"""Settings of MLflow: where runs, metrics and model versions are kept."""

from pydantic import Field

from daefr.settings.base import Place, Settings


class TrackingConfig(Settings):
    """Where MLflow keeps runs, metrics and model versions."""

    uri: str | None = Field(
        None,
        description="MLflow tracking URI, such as http://HOST:5000. By default, a SQLite file in `workdir`, which "
        "serves one machine only.",
    )
    experiment_name: str = Field("daefr", description="Name of the MLflow experiment; it is created if needed.")
    artifact_location: Place | None = Field(
        None,
        description="Root folder or s3://bucket/prefix of the artifacts of a newly created experiment. By default, the "
        "server's own, or a folder in `workdir` when `uri` is unset.",
    )
