"""The lineage of a version, read from the registry."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from daefr.errors import UserError, one_line
from pipelines.engine.lineage import LINEAGE, DatasetLineage, Lineage
from pipelines.engine.step import StepInput
from pipelines.tracking import registry
from pipelines.tracking.client import FINGERPRINT, Tracking, flatten
from pipelines.tracking.database import local_path
from pipelines.tracking.registry import Version

_SHORT = 16


class Ancestor:
    """A version and, as far as they are registered, the versions that it was made from."""

    def __init__(self, tracking: Tracking, version: Version) -> None:
        """Read the recorded lineage of a version and its ancestors."""
        self.version, self.recorded = version, _read(tracking, version)
        self.parents: dict[str, Ancestor | str] = {}
        for name, came_from in (self.recorded.upstream if self.recorded else {}).items():
            self.parents[name] = _parent(tracking, came_from)

    def as_json(self) -> dict[str, Any]:
        """Return the complete record."""
        parents = {
            name: parent.as_json() if isinstance(parent, Ancestor) else parent for name, parent in self.parents.items()
        }
        recorded = None if self.recorded is None else self.recorded.model_dump(mode="json")
        return {"version": self.version.address, "recorded": recorded, "from": parents}


def _parent(tracking: Tracking, came_from: StepInput) -> Ancestor | str:
    if not came_from.origin.startswith("models:"):
        return f"the checkpoint {came_from.origin}, sha256 {came_from.digest[:_SHORT]}"
    try:
        version = registry.resolve(tracking, came_from.origin)
    except UserError:
        return f"{came_from.origin}, sha256 {came_from.digest[:_SHORT]}, no longer in the registry"
    if version.fingerprint != came_from.digest:
        return f"{came_from.origin}, sha256 {came_from.digest[:_SHORT]}; this number is another version now"
    return Ancestor(tracking, version)


def _read(tracking: Tracking, version: Version) -> Lineage | None:
    if not version.run_id:
        return None
    with TemporaryDirectory() as scratch:
        try:
            if not _has_lineage(tracking, version):
                return None
            path = download_artifacts(
                run_id=version.run_id, artifact_path=LINEAGE, dst_path=scratch, tracking_uri=tracking.uri
            )
            return Lineage.model_validate_json(Path(path).read_text())
        except (MlflowException, OSError) as error:
            raise UserError(f"{LINEAGE} of {version.address} cannot be read: {one_line(error)}") from None
        except ValidationError as error:
            raise UserError(f"{LINEAGE} of {version.address} cannot be read: {error.errors()[0]['msg']}") from None


def _has_lineage(tracking: Tracking, version: Version) -> bool:
    """Return whether the lineage of a version was recorded, unlike that of versions registered by hand."""
    try:
        run = tracking.client.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    path = local_path(run.info.artifact_uri)
    if path is not None and FINGERPRINT in run.data.tags and not path.is_dir():
        raise UserError(f"the artifacts of {version.address} are not in {path}, their location in MLflow")
    return LINEAGE in {file.path for file in tracking.client.list_artifacts(version.run_id)}


def tree(ancestor: Ancestor) -> list[str]:
    """Return a version's lineage as the lines of a tree, in which every node is shown once."""
    return [_title(ancestor), *_branches(ancestor, set())]


def _title(ancestor: Ancestor) -> str:
    return f"{ancestor.version.address}, sha256 {ancestor.version.fingerprint[:_SHORT]}"


def _branches(ancestor: Ancestor, shown: set[str]) -> Iterator[str]:
    recorded = ancestor.recorded
    if recorded is None:
        yield "└── no lineage recorded: registered by hand or by an older release"
        return
    shown.add(ancestor.version.address)
    nodes: list[tuple[str, list[str]]] = [
        (f"code: git {recorded.revision}", []),
        ("config, except for defaults:", list(_draw([(line, []) for line in _changed(recorded, shown)]))),
        _dataset(recorded.dataset, shown),
    ]
    for name, parent in ancestor.parents.items():
        if isinstance(parent, str):
            nodes.append((f"{name}: {parent}", []))
        elif parent.version.address in shown:
            nodes.append((f"{name}: {_title(parent)}, see above", []))
        else:
            nodes.append((f"{name}: {_title(parent)}", list(_branches(parent, shown))))
    yield from _draw(nodes)


def _changed(recorded: Lineage, shown: set[str]) -> Iterator[str]:
    for name, value in recorded.changed.items():
        settings = flatten(value) if isinstance(value, dict) else {}
        text = f"{name}: {', '.join(f'{key}={set_to}' for key, set_to in settings.items()) or value or 'as published'}"
        yield f"{name}: see above" if text in shown else text
        shown.add(text)


def _dataset(dataset: DatasetLineage, shown: set[str]) -> tuple[str, list[str]]:
    title = f"dataset: manifest sha256 {dataset.manifest[:_SHORT]}"
    if dataset.manifest in shown:
        return f"{title}, see above", []
    shown.add(dataset.manifest)
    content = [
        f"{split}: {count} samples, sha256 {dataset.content[split][:_SHORT]}"
        for split, count in dataset.samples.items()
    ]
    recipes = [f"recipe {kind}: {recipe['name']} ({recipe['source']})" for kind, recipe in dataset.recipes.items()]
    inputs = [f"{name}: {value.origin}, digest {value.digest[:_SHORT]}" for name, value in dataset.inputs.items()]
    sources = [f"{name}: digest {digest}" for name, digest in dataset.content.items() if name.startswith("sources")]
    side, seed = dataset.resolution, dataset.settings["seed"]
    lines = [
        f"{side}x{side} pixels, {dataset.rejected} rejected, seed {seed}",
        *content,
        *recipes,
        *inputs,
        *sources,
        f"code: git {dataset.revision}",
    ]
    return title, list(_draw([(line, []) for line in lines]))


def _draw(nodes: list[tuple[str, list[str]]]) -> Iterator[str]:
    for number, (title, below) in enumerate(nodes, 1):
        last = number == len(nodes)
        yield f"{'└── ' if last else '├── '}{title}"
        yield from (f"{'    ' if last else '│   '}{line}" for line in below)
