"""Model versions: a trained stage is registered as ``candidate``; `pipelines.promote` moves ``champion``."""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from daefr.errors import UserError
from pipelines.tracking.client import FINGERPRINT, Tracking
from pipelines.tracking.promotions import create_model

MODELS = {
    "hq_codebook": "daefr-hq-codebook",
    "lq_codebook": "daefr-lq-codebook",
    "association": "daefr-association",
    "restoration": "daefr-restoration",
}
CANDIDATE = "candidate"
AVERAGED = "averaged"
CHAMPION = "champion"
PREVIOUS = "previous"

CHECKPOINT_PATH = "daefr.checkpoint"
"""The tag of a version with the path of the checkpoint in its directory; by default, the directory itself."""

_PACKAGE = "model"
_ADDRESS = re.compile(r"models:/(?P<name>[\w.-]+)(?:@(?P<alias>[\w.-]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class Package:
    """A directory that MLflow can serve, the path of the checkpoint in it, and the version's description."""

    folder: str
    checkpoint: str = ""
    description: str | None = None


Pack = Callable[[Path, Path], Package]
"""(checkpoint directory, folder to create) -> the package in that folder."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model. ``source`` is its checkpoint directory; ``run_id`` may be empty."""

    name: str
    number: int
    source: str
    run_id: str
    tags: dict[str, str]

    @property
    def address(self) -> str:
        """The URI of this version."""
        return f"models:/{self.name}/{self.number}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint that was passed to `register`."""
        return self.tags.get(FINGERPRINT, self.address)


def register(
    tracking: Tracking,
    stage: str,
    checkpoint_dir: Path,
    run_id: str,
    *,
    fingerprint: str,
    tags: dict[str, str],
    pack: Pack | None = None,
    alias: str = CANDIDATE,
) -> Version:
    """Upload a checkpoint as artifacts of its run, and set its alias.

    With `pack`, the package is uploaded instead. If the fingerprint is registered already, nothing is uploaded and that
    version gets the alias.

    Raises:
        UserError: The directory is not a complete checkpoint.

    """
    if not (checkpoint_dir / "manifest.json").is_file():
        raise UserError(f"{checkpoint_dir} is not a complete checkpoint: it has no manifest.json.")
    client, name = tracking.client, MODELS[stage]
    if _aliases(client, name) is None:
        create_model(tracking, name)
    found = client.search_model_versions(f"name = '{name}' and tags.`{FINGERPRINT}` = '{fingerprint}'", max_results=1)
    if found:
        registered = found[0]
    else:
        uploaded = _upload(client, checkpoint_dir, run_id, pack)
        own = {FINGERPRINT: fingerprint} | ({CHECKPOINT_PATH: uploaded.checkpoint} if uploaded.checkpoint else {})
        registered = client.create_model_version(
            name, uploaded.folder, run_id=run_id, tags={**tags, **own}, description=uploaded.description
        )
    client.set_registered_model_alias(name, alias, str(registered.version))
    return _version(registered)


def _upload(client: MlflowClient, checkpoint_dir: Path, run_id: str, pack: Pack | None) -> Package:
    """Upload a checkpoint, or its package; return the package with its folder as a URI."""
    # not "runs:/", which needs a request to the server
    location = client.get_run(run_id).info.artifact_uri
    if pack is None:
        client.log_artifacts(run_id, str(checkpoint_dir), checkpoint_dir.name)
        return Package(f"{location}/{checkpoint_dir.name}")
    kind = checkpoint_dir.name.partition("-")[2]  # "ema" for averaged weights
    package = f"{_PACKAGE}-{kind}" if kind else _PACKAGE
    # on the file system of the checkpoint, which may be larger than /tmp
    with tempfile.TemporaryDirectory(dir=checkpoint_dir.parent) as scratch:
        packed = pack(checkpoint_dir, Path(scratch) / package)
        client.log_artifacts(run_id, packed.folder, package)
    return replace(packed, folder=f"{location}/{package}")


def champion(tracking: Tracking, stage: str) -> Version | None:
    """Return the champion of a stage, if there is one."""
    number = (_aliases(tracking.client, MODELS[stage]) or {}).get(CHAMPION)
    return None if number is None else version(tracking, stage, number)


def baseline(tracking: Tracking, stage: str, number: int) -> Version | None:
    """Return the version to compare a version with: the champion, or if it is the champion itself, the previous one."""
    aliases = _aliases(tracking.client, MODELS[stage]) or {}
    others = (aliases.get(alias) for alias in (CHAMPION, PREVIOUS))
    found = next((other for other in others if other not in (None, number)), None)
    return None if found is None else version(tracking, stage, found)


def version(tracking: Tracking, stage: str, number: int) -> Version:
    """Return one version of a stage by its number.

    Raises:
        UserError: There is no such version.

    """
    return resolve(tracking, f"models:/{MODELS[stage]}/{number}")


def resolve(tracking: Tracking, address: str) -> Version:
    """Return the version of ``models:/NAME@ALIAS`` or ``models:/NAME/NUMBER``.

    Raises:
        UserError: There is no such model, alias or version; the message lists those that exist.

    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise UserError(f"{address!r} is not a model address; use models:/NAME@ALIAS or models:/NAME/NUMBER.")
    client, name, alias = tracking.client, parts["name"], parts["alias"]
    existing = aliases(tracking, name)
    if alias and alias not in existing:
        raise UserError(f"The model {name!r} has no alias {alias!r}; it has {_join(sorted(existing))}.")
    number = existing[alias] if alias else int(parts["number"])
    versions = {int(found.version): found for found in client.search_model_versions(f"name = '{name}'")}
    if number not in versions:
        raise UserError(f"The model {name!r} has no version {number}; it has {_join(sorted(versions))}.")
    return _version(versions[number])


def aliases(tracking: Tracking, name: str) -> dict[str, int]:
    """Return the aliases of a model and their version numbers.

    Raises:
        UserError: There is no such model; the message lists those that exist.

    """
    found = _aliases(tracking.client, name)
    if found is None:
        names = sorted(model.name for model in tracking.client.search_registered_models())
        raise UserError(f"There is no model {name!r}; the registry has {_join(names)}.")
    return found


def move_alias(tracking: Tracking, name: str, alias: str, number: int | None) -> None:
    """Move an alias to a version; delete it if that is None or was deleted."""
    client = tracking.client
    current = aliases(tracking, name).get(alias)
    if number is not None and current != number:
        try:
            client.set_registered_model_alias(name, alias, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            number = None
    if number is None and current is not None:
        client.delete_registered_model_alias(name, alias)


def download(tracking: Tracking, version: Version, into: Path) -> Path:
    """Return a local directory with the checkpoint files, downloaded unless the source is one."""
    source = Path(version.source)
    if source.is_dir():
        return source
    into.mkdir(parents=True, exist_ok=True)
    return Path(download_artifacts(version.source, dst_path=str(into), tracking_uri=tracking.uri))


def _aliases(client: MlflowClient, name: str) -> dict[str, int] | None:
    """Return the aliases of a model and their version numbers, None if there is no such model."""
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return {alias: int(number) for alias, number in aliases.items()}


def _version(found: ModelVersion) -> Version:
    tags = dict(found.tags)
    source = f"{found.source}/{tags[CHECKPOINT_PATH]}" if CHECKPOINT_PATH in tags else str(found.source)
    return Version(found.name, int(found.version), source, found.run_id or "", tags)


def _join(items: list[str] | list[int]) -> str:
    return ", ".join(map(str, items)) or "none"
