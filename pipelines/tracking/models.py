"""Restoration models from the registry, a checkpoint directory or a released file."""

from dataclasses import dataclass
from pathlib import Path

from daefr import locate
from daefr.checkpoint import checkpoint_digest
from daefr.errors import UserError, one_line
from daefr.files import file_digest
from daefr.restore import load_restoration
from pipelines.storage.paths import absolute
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking

REGISTRY = "models:"


@dataclass(frozen=True)
class Model:
    """A restoration model: its name, its digest, and either its path or its version in the registry."""

    name: str
    digest: str
    path: Path | None = None
    version: registry.Version | None = None

    @classmethod
    def registered(cls, version: registry.Version) -> "Model":
        """Return the model of a version in the registry."""
        return cls(version.address, version.fingerprint, version=version)

    def fetch(self, tracking: Tracking, scratch: Path) -> Path:
        """Return a local checkpoint directory or released file, downloaded into `scratch` if necessary."""
        if self.version is None:
            assert self.path is not None  # noqa: S101  # see the class
            return self.path
        try:
            return registry.download(tracking, self.version, scratch / "model")
        except Exception as error:  # MLflow raises the errors of any store
            raise UserError(f"{self.name} cannot be downloaded: {one_line(error)}") from None


def find_model(tracking: Tracking, address: str) -> Model:
    """Find the model that `restore.model` or `--model` names.

    Raises `UserError` if there is none, if a directory is not a complete checkpoint, or if it is of another stage.
    """
    if address.startswith(REGISTRY):
        version = registry.resolve(tracking, address)
        if version.name != registry.MODELS["restoration"]:
            raise UserError(f"{address} is not a restoration model; use {registry.MODELS['restoration']}")
        return Model.registered(version)
    path = absolute(Path(address)).resolve()
    if not path.exists():
        raise UserError(
            f"there is no model {address}; give models:/NAME@ALIAS, a checkpoint directory or a released .ckpt file"
        )
    path = locate.find_model(path)
    if path.is_file():
        return Model(str(path), file_digest(path), path)
    load_restoration(path)
    return Model(str(path), checkpoint_digest(path), path)


def follows_alias(address: str) -> bool:
    """Return whether an address has an alias, which can move to another version."""
    return address.startswith(REGISTRY) and "@" in address
