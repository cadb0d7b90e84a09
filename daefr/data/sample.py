"""A sample of a shard: the only place that knows its members and what they hold.

A shard of a dataset has, for each face: `hq.webp`, the HQ crop without loss; `mild.0.jpg`, `severe.0.jpg` and so on,
its LQ variants at their reduced sizes (PNG where a recipe does not end with JPEG); and `json`, the metadata: the source
with its digest, five landmarks where known, the boxes of the components, and the parameters of every variant. A shard
of a later generation (`daefr.data.generations`) has the LQ variants and their metadata alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daefr.data.shards import Sample, ShardReader
from daefr.errors import UserError
from daefr.faces.components import COMPONENTS, Boxes, component_boxes
from daefr.faces.template import template_landmarks
from daefr.images import Image, decode_image, encode_lossless
from degradations import Degraded, enlarge

Variants = Mapping[str, Sequence[Degraded]]
"""The LQ variants of a face by kind: `mild`, `severe`."""


@dataclass(frozen=True)
class FaceOrigin:
    """Where a face comes from: the name and the SHA-256 of its source, and the seed of its variants.

    `landmarks` are five (x, y) in pixels of the crop, None where unknown. `crop` describes how it was cut out of a
    photograph (`daefr.faces.crops.AlignedFace.facts`), None where it came as a crop.
    """

    source: str
    sha256: str
    seed: int
    landmarks: list[list[float]] | None = None
    crop: dict[str, Any] | None = None


def encode_sample(key: str, hq: Image, variants: Variants, origin: FaceOrigin) -> Sample:
    """Return the members of a face, (R, R, 3) uint8 RGB, with its LQ variants. Equal arguments give equal bytes."""
    side = len(hq)
    metadata = {
        "source": origin.source,
        "sha256": origin.sha256,
        "seed": origin.seed,
        "landmarks": origin.landmarks,
        # an aligned crop of unknown landmarks has them about where its alignment put them
        "components": component_boxes(origin.landmarks or template_landmarks(side), side),
        "components_from": "landmarks" if origin.landmarks else "template",
        "crop": origin.crop,
    }
    return {"__key__": key, "hq.webp": encode_lossless(hq), **_encode_variants(variants, metadata)}


def encode_variants(key: str, variants: Variants, source: str, seed: int, generation: int) -> Sample:
    """Return the members of a later generation's sample: the LQ variants of the face `source` alone."""
    metadata = {"source": source, "seed": seed, "generation": generation}
    return {"__key__": key, **_encode_variants(variants, metadata)}


def _encode_variants(variants: Variants, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    files = {f"{kind}.{index}.{lq.suffix}": lq.file for kind, lqs in variants.items() for index, lq in enumerate(lqs)}
    content = {**metadata, "variants": {kind: [lq.params for lq in lqs] for kind, lqs in variants.items()}}
    return files | {"json": json.dumps(content, sort_keys=True).encode()}


@dataclass(frozen=True)
class StoredSample:
    """A sample of a shard that is open. Members are read when they are asked for.

    The methods raise `KeyError` for a member that the sample lacks, and `ValueError` for one that is damaged.
    """

    reader: ShardReader
    index: int

    @property
    def key(self) -> str:
        """The sample's key in the shard."""
        return self.reader.key(self.index)

    def hq(self) -> Image:
        """Return the HQ crop, (R, R, 3) uint8 RGB."""
        return decode_image(self.reader.read_only(self.index, "hq"))

    def lq_file(self, kind: str, variant: int) -> bytes:
        """Return the file of an LQ variant, which has its reduced size."""
        return self.reader.read_only(self.index, f"{kind}.{variant}")

    def lq(self, kind: str, variant: int, side: int) -> Image:
        """Return an LQ variant as a network sees it, enlarged to (side, side, 3) uint8 RGB."""
        return enlarge(decode_image(self.lq_file(kind, variant)), side)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata, as JSON."""
        content: dict[str, Any] = json.loads(self.reader.read(self.index, "json"))
        return content

    def boxes(self) -> Boxes:
        """Return the boxes of the facial components, (3, 4) float32. Raises `UserError` where there are none."""
        boxes = self.metadata().get("components")
        if boxes is None:
            raise UserError(
                f"{self.reader.path}: sample {self.key} has no component boxes: make the dataset again, "
                "or turn the component discriminators off with components.weight=0"
            )
        return np.array([boxes[name] for name in COMPONENTS], np.float32)
