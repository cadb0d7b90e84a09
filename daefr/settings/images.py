"""Image files: the suffixes that are looked for, and how many pixels an image from outside may have."""

from typing import Literal

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".avif", ".heic", ".heif", ".jp2", ".jpx", ".j2k", ".jpf"),
)
"""Of files that are taken for images whatever they hold; one that is not readable is an image that failed."""
Pages = Literal["first", "all"]
"""Which pages or frames of a photograph are restored."""
MAX_PIXELS = 100_000_000
"""Default limit of an image from outside; decoded, it takes 300 MB."""
PIXEL_LIMIT = 178_000_000
"""The highest limit that can be set: Pillow opens nothing larger."""
