"""A small dataset of drawn portraits, made by as many processes as there are cores. Imports no torch by itself."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from daefr.data.components import component_boxes, template_landmarks
from daefr.data.images import encode_lossless
from daefr.data.manifest import write_manifest
from daefr.data.portraits import draw_portrait
from daefr.data.shards import Sample, write_shard
from degradations import Face, degrade, get_recipe

RECIPES = {"mild": "daefr-mild", "severe": "daefr-severe"}
VARIANTS = 2


def write_dataset(folder: Path, faces: int, resolution: int, processes: int) -> None:
    """Write a dataset of so many training samples and two validation samples."""
    make = partial(_make, resolution=resolution)
    numbers = range(faces + 2)
    if processes > 1:
        # a process with a CUDA context cannot be forked
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            samples = list(pool.map(make, numbers))
    else:
        samples = list(map(make, numbers))
    write_manifest(
        folder,
        resolution=resolution,
        recipes=RECIPES,
        variants=dict.fromkeys(RECIPES, VARIANTS),
        seed=0,
        train=[write_shard(folder / "train-000000.tar", samples[:faces])],
        validation=[write_shard(folder / "validation-000000.tar", samples[faces:])],
    )


def _make(number: int, resolution: int) -> Sample:
    image = draw_portrait(number, resolution).image
    face = Face(image)
    boxes = component_boxes(template_landmarks(resolution), resolution)
    sample: dict[str, str | bytes] = {
        "__key__": f"{number:08d}",
        "hq.webp": encode_lossless(image),
        "json": json.dumps({"components": boxes}).encode(),
    }
    for kind, recipe in RECIPES.items():
        for index in range(VARIANTS):
            lq = degrade(face, get_recipe(recipe), np.random.default_rng([number, index]))
            sample[f"{kind}.{index}.{lq.suffix}"] = lq.file
    return sample
