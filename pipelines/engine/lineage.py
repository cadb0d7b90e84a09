"""The lineage of a model version: what it was made from. Training logs it to its MLflow run."""

from collections.abc import Mapping
from typing import Any, Literal

from daefr.data.manifest import NAME
from daefr.files import file_digest
from daefr.settings.base import Settings, StageName
from degradations import RECIPES
from pipelines.engine.dataset import Dataset
from pipelines.engine.step import StepInput

LINEAGE = "lineage.json"


class DatasetLineage(Settings):
    """The dataset that a stage was trained on: its content, sources and recipes."""

    manifest: str
    """Digest of its manifest."""
    content: dict[str, str]
    """Digest of each split, and of the sources of each split as `sources of SPLIT`."""
    samples: dict[str, int]
    rejected: int
    resolution: int
    recipes: dict[str, dict[str, Any]]
    """The complete recipes, by the kind of LQ images."""
    settings: dict[str, Any]
    inputs: dict[str, StepInput]
    revision: str
    run_id: str


class Lineage(Settings):
    """What a version was made from."""

    format: Literal[1] = 1
    stage: StageName
    checkpoint: str
    """Its digest."""
    revision: str
    config: dict[str, Any]
    """The run's configuration, including defaults, without `tracking`, `compute` and `workdir`."""
    changed: dict[str, Any]
    """The stage's own settings that differ from the defaults."""
    dataset: DatasetLineage
    upstream: dict[str, StepInput]
    """The versions that the stage started from, by stage; `start` for a checkpoint of the same stage."""


def describe_dataset(dataset: Dataset) -> DatasetLineage:
    """Return the lineage of a committed dataset."""
    manifest, step = dataset.manifest, dataset.result.manifest
    sources = {f"sources of {split}": digest for split, digest in step.outputs["sources"].items()}
    return DatasetLineage(
        manifest=file_digest(dataset.folder / NAME),
        content={split: manifest.digest(split) for split in ("train", "validation")} | sources,
        samples={split: manifest.samples(split) for split in ("train", "validation")},
        rejected=manifest.rejected.entries,
        resolution=manifest.resolution,
        recipes={kind: RECIPES[name].model_dump(mode="json") for kind, name in manifest.recipes.items()},
        settings=step.settings,
        inputs=step.inputs,
        revision=step.revision,
        run_id=step.run_id,
    )


def upstream_of(inputs: Mapping[str, StepInput]) -> dict[str, StepInput]:
    """Return the inputs of a training that are initial weights."""
    return {
        name.removesuffix("_champion"): value
        for name, value in inputs.items()
        if name == "start" or name.endswith("_champion")
    }
