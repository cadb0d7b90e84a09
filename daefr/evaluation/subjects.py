"""What is measured of each image of a benchmark."""

from typing import Literal, get_args

Subject = Literal["lq", "hq_codebook", "restored"]
"""The input, enlarged to the restored image's size; HQ through the codebook alone, which is what restoration could
reach; and what was restored."""
SUBJECTS: tuple[Subject, ...] = get_args(Subject)


def column(measure: str, subject: Subject) -> str:
    """Return the name of a figure of an image: `psnr/restored`, `niqe/lq`."""
    return f"{measure}/{subject}"
