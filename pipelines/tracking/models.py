"""The model that restores, wherever it comes from: the registry, a checkpoint directory or a released file."""

from dataclasses import dataclass
from pathlib import Path

from daefr import locate
from daefr.checkpoint import digest_of
from daefr.errors import UserError, one_line
from daefr.files import file_digest
from daefr.restore import load_restoration
from pipelines.storage.paths import absolute
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking

REGISTRY = "models:"


@dataclass(frozen=True)
class Model:
    """A restoration model: what people call it, what tells it from others, and where its files are.

    `version` is None for what is no version of the registry.
    """

    name: str
    digest: str
    place: Path | None = None
    version: registry.Version | None = None

    @classmethod
    def registered(cls, version: registry.Version) -> "Model":
        """Return the model of a version in the registry."""
        return cls(version.address, version.fingerprint, version=version)

    def fetch(self, tracking: Tracking, scratch: Path) -> Path:
        """Return a checkpoint directory or released file on this machine, downloaded into `scratch` if need be."""
        if self.version is None:
            assert self.place is not None  # noqa: S101  # `find_model` gives one of the two
            return self.place
        try:
            return registry.download(tracking, self.version, scratch / "model")
        except Exception as error:  # MLflow lets every store's errors through
            raise UserError(f"{self.name} cannot be fetched: {one_line(error)}") from None


def find_model(tracking: Tracking, address: str) -> Model:
    """Find the model that `restore.model` or `--model` names.

    Raises `UserError` when there is none, when a directory is no whole checkpoint, or when it is of another stage.
    """
    if address.startswith(REGISTRY):
        version = registry.resolve(tracking, address)
        if version.name != registry.MODELS["restoration"]:
            raise UserError(f"{address} does not restore; {registry.MODELS['restoration']} does")
        return Model.registered(version)
    path = absolute(Path(address)).resolve()
    if not path.exists():
        raise UserError(
            f"there is no model {address}: give models:/NAME@ALIAS, a checkpoint directory or a released .ckpt file"
        )
    place = locate.find_model(path)
    if place.is_file():
        return Model(str(place), file_digest(place), place)
    load_restoration(place)
    return Model(str(place), digest_of(place), place)


def follows_alias(address: str) -> bool:
    """Tell whether the model of an address can become another: an alias moves, a number and a file do not."""
    return address.startswith(REGISTRY) and "@" in address
