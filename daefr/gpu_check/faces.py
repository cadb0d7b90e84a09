"""A small dataset of drawn portraits, made in several processes."""

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from daefr.data.manifest import write_dataset_manifest
from daefr.data.sample import FaceOrigin, encode_sample
from daefr.data.shards import Sample, write_shard
from daefr.portraits import draw_portrait
from degradations import Face, degrade, get_recipe

RECIPES = {"mild": "daefr-mild", "severe": "daefr-severe"}
VARIANTS = 2


def write_dataset(folder: Path, faces: int, resolution: int, processes: int) -> None:
    """Write a dataset of `faces` training samples and two validation samples."""
    make = partial(_make, resolution=resolution)
    numbers = range(faces + 2)
    if processes > 1:
        # a process with a CUDA context cannot be forked
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            samples = list(pool.map(make, numbers))
    else:
        samples = list(map(make, numbers))
    write_dataset_manifest(
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
    variants = {
        kind: [degrade(face, get_recipe(recipe), np.random.default_rng([number, index])) for index in range(VARIANTS)]
        for kind, recipe in RECIPES.items()
    }
    source = f"portrait {number}"
    origin = FaceOrigin(source, hashlib.sha256(source.encode()).hexdigest(), seed=number)
    return encode_sample(f"{number:08d}", image, variants, origin)
