"""A network, settings and a dataset so small that a training of a few steps takes a second."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from daefr.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from daefr.data.manifest import Shard, write_dataset_manifest
from daefr.data.shards import Sample, write_shard
from daefr.faces.components import component_boxes
from daefr.faces.template import template_landmarks
from daefr.images import Image, encode_lossless
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig, PredictorConfig
from daefr.settings.training import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig
from daefr.stages import Stage, build_stage

SIDE = 16
TRAIN_SIZES = (5, 1, 4, 2)
VALIDATION_SIZES = (3, 2)
VARIANTS = {"mild": 2, "severe": 1}
SMALL_SIDES = {"mild": 8, "severe": 4}

NETWORK = NetworkConfig(
    autoencoder=AutoencoderConfig(
        resolution=SIDE,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=4,
        latent_channels=8,
        codes=256,
        code_channels=8,
    ),
    predictor=PredictorConfig(width=16, layers=2, heads=2, mlp=24, fusion_heads=2),
    discriminator=DiscriminatorConfig(channels=8, layers=2),
)
CODES = NETWORK.autoencoder.codes


def settings(name: StageName, **changes: Any) -> TrainingConfig:
    """Settings of a training of 5 steps that touches everything: both losses, both remedies, a milestone."""
    common = {
        "steps": 5,
        "global_batch_size": 4,
        "base_learning_rate": 5e-4,
        "milestones": (4,),
        "log_every_n_steps": 1,
    }
    if name == "restoration":
        return RestorationTraining.model_validate(common | changes)
    losses = {"adversarial": {"start_step": 1}, "perceptual": {"weight": 0}}
    remedies = {"codebook": {"kmeans_init": True, "reset_every_n_steps": 2}}
    settings = AssociationTraining if name == "association" else AutoencoderTraining
    return settings.model_validate(common | losses | remedies | changes)


def build(name: StageName, seed: int = 0, network: NetworkConfig = NETWORK, **changes: Any) -> Stage:
    """Build a fresh stage."""
    return build_stage(name, network, settings(name, **changes), seed)


def checkpoint(folder: Path, stage: Stage) -> Checkpoint:
    """Write a stage's checkpoint, without a training to go on with, and open it."""
    save_checkpoint(folder, stage.name, stage.network, stage.weights(), None)
    return load_checkpoint(folder)


def face(rng: np.random.Generator, side: int = SIDE) -> Image:
    """(side, side, 3): smooth enough for a tiny network to learn something, and different from its mirror image."""
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def encode_jpeg(image: Image, side: int) -> bytes:
    """Encode an image of `side` pixels."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def samples(count: int, seed: int, variants: dict[str, int] | None = None, side: int = SIDE) -> Iterator[Sample]:
    """Samples as a dataset has them; the variants of one face differ in brightness."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        hq = face(rng, side)
        sample: dict[str, str | bytes] = {"__key__": f"{seed:03d}-{number:03d}", "hq.webp": encode_lossless(hq)}
        about = {"components": component_boxes(template_landmarks(side), side)}
        sample["json"] = json.dumps(about).encode()
        for kind, kinds in (VARIANTS if variants is None else variants).items():
            for variant in range(kinds):
                shade = np.asarray(hq // (1 + variant), np.uint8)
                sample[f"{kind}.{variant}.jpg"] = encode_jpeg(shade, SMALL_SIDES[kind])
        yield sample


def write_dataset(folder: Path, variants: dict[str, int] | None = None, side: int = SIDE) -> Path:
    """Write a whole dataset."""
    variants = VARIANTS if variants is None else variants
    shards: dict[str, list[Shard]] = {}
    for split, sizes, first in (("train", TRAIN_SIZES, 0), ("validation", VALIDATION_SIZES, 100)):
        shards[split] = [
            write_shard(folder / f"{split}-{number}.tar", samples(size, first + number, variants, side))
            for number, size in enumerate(sizes)
        ]
    write_dataset_manifest(
        folder,
        resolution=side,
        recipes={kind: f"daefr-{kind}" for kind in variants},
        variants=variants,
        seed=0,
        train=shards["train"],
        validation=shards["validation"],
    )
    return folder


def niqe_model(path: Path) -> Path:
    """Write a model of NIQE in the published form, of no particular images."""
    rng = np.random.default_rng(0)
    offsets = np.arange(7) - 3
    window = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    window = np.outer(window, window) / window.sum() ** 2
    mean = rng.uniform(0.1, 2, (1, 36))
    np.savez(path, mu_pris_param=mean, cov_pris_param=np.diag(rng.uniform(0.1, 1, 36)), gaussian_window=window)
    return path
