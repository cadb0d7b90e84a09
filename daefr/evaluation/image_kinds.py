"""Which images of a sample are measured."""

from typing import Literal, get_args

ImageKind = Literal["lq", "hq_codebook", "restored"]
"""The resized input; HQ reconstructed from its true codes, an upper bound; and the restored image."""
IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)


def column(metric: str, kind: ImageKind) -> str:
    """Return the name of the column of an image's metric, such as `psnr/restored`."""
    return f"{metric}/{kind}"
