"""Photographs as they come: read whatever their file says of them, and written without losing any of it.

An image from outside is hostile until it is read: nothing is decoded before its size, kind and depth are known, and
whatever goes wrong ends as one `ImageError`.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from daefr.errors import one_line
from daefr.images import FORMATS, Image
from daefr.settings.images import MAX_PIXELS

MAX_BYTES = 512 * 2**20
"""A larger file is not read."""
MAX_PROFILE = 4 * 2**20
"""The largest colour profile, in bytes; those in use have up to 2 MB."""
MAX_SCANS = 200
"""Progressive JPEGs have about ten scans, each a pass over all pixels; a file of some megabytes could have thousands,
and take hours."""
ONE_TONE = 3.0
"""By how much, in levels of 255, the colours of a black and white photograph deviate from its tone, in a JPEG."""

BITS_PER_SAMPLE = 258
PNG_DEPTH = 24


class ImageError(ValueError):
    """An image that cannot be restored. Its text is one sentence: why not."""


@dataclass(frozen=True)
class Photograph:
    """A photograph, upright."""

    pixels: Image
    """(H, W, 3) uint8 RGB, in the colours of `profile`; gray has three equal channels."""
    alpha: npt.NDArray[np.uint8] | None = None
    """(H, W): how opaque each pixel is, if the file tells."""
    profile: bytes | None = None
    """The ICC profile; None is sRGB."""
    one_channel: bool = False
    """Stored with one channel of gray."""

    @property
    def is_monochrome(self) -> bool:
        """Whether all its colours are of one tone, such as gray."""
        red, green, blue = (self.pixels[..., channel].astype(np.int16) for channel in range(3))
        return self.one_channel or bool(max((red - green).std(), (green - blue).std()) <= ONE_TONE)

    def png(self) -> bytes:
        """Encode as PNG with its transparency and colour profile."""
        image = PIL.Image.fromarray(self.pixels)
        if self.one_channel:
            image = image.getchannel(0)
        if self.alpha is not None:
            image.putalpha(PIL.Image.fromarray(self.alpha))
        data = io.BytesIO()
        image.save(data, "PNG", compress_level=3, icc_profile=self.profile)
        return data.getvalue()


Source = str | Path | bytes | PIL.Image.Image | Image | Photograph
"""A file's path or its content, an image of Pillow's, an array (H, W, 3) uint8 RGB, or what was read before."""


def read_photograph(source: Source, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Read a photograph and turn it upright, as its EXIF orientation says.

    JPEG, PNG, WebP, BMP and TIFF are read, whatever the file is called. Raises `ImageError` for what is none of them,
    is damaged or cut short, has more than `max_pixels`, more than 8 bits a channel, several frames, or other colours
    than RGB and gray; and when the file cannot be read.
    """
    if isinstance(source, Photograph):
        return source
    if isinstance(source, np.ndarray):
        return Photograph(_checked(source, max_pixels))
    try:
        # what Pillow warns of, such as damaged EXIF, is none of the user's business
        with warnings.catch_warnings(action="ignore"):
            if isinstance(source, PIL.Image.Image):
                return _from_pillow(source, max_pixels)
            data = source if isinstance(source, bytes) else _read(Path(source))
            with _opened(data) as image:
                return _from_pillow(image, max_pixels)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too large for this machine's memory") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"too many pixels: more than {max_pixels}") from None
    except Exception as error:  # a damaged or hostile file makes a decoder raise anything
        raise ImageError(f"damaged: {one_line(error, 200)}") from None


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"too large a file: {size} bytes, where {MAX_BYTES} are the most")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def _opened(data: bytes) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except (PIL.UnidentifiedImageError, SyntaxError):
        raise ImageError("not a readable JPEG, PNG, WebP, BMP or TIFF image") from None
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans")
    if image.format == "PNG" and data[PNG_DEPTH] > 8:
        raise ImageError(f"{data[PNG_DEPTH]} bits a channel, where 8 are wanted")
    return image


def _from_pillow(image: PIL.Image.Image, max_pixels: int) -> Photograph:
    if image.width * image.height > max_pixels:
        raise ImageError(f"too many pixels: more than {max_pixels}")
    # the other pictures of an MPO, as some cameras write JPEG, are a preview or the other eye's
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{frames} frames or pages, where one picture is wanted")
    _check_depth(image)
    profile = image.info.get("icc_profile") or None
    if profile is not None and len(profile) > MAX_PROFILE:
        raise ImageError(f"a colour profile of {len(profile)} bytes, where {MAX_PROFILE} are the most")
    image.load()
    upright = _upright(image)
    if upright.mode in ("P", "PA") or (upright.mode in ("1", "L", "RGB") and "transparency" in upright.info):
        upright = upright.convert("RGBA" if upright.mode == "PA" or "transparency" in upright.info else "RGB")
    if upright.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        raise ImageError(f"colours of the kind {upright.mode}, where RGB or gray are wanted")
    has_alpha = upright.mode in ("LA", "RGBA")
    return Photograph(
        pixels=np.array(upright.convert("RGB")),
        alpha=np.array(upright.getchannel("A")) if has_alpha else None,
        profile=profile,
        one_channel=upright.mode in ("1", "L", "LA"),
    )


def _check_depth(image: PIL.Image.Image) -> None:
    bits = 8
    if image.mode.startswith("I;") or image.mode in ("I", "F"):
        bits = 16 if image.mode.startswith("I;") else 32
    elif isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        bits = max(np.atleast_1d(image.tag_v2.get(BITS_PER_SAMPLE, 8)))
    if bits > 8:
        raise ImageError(f"{bits} bits a channel, where 8 are wanted")


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF, without which the picture is as it is
        return image


def _checked(array: Image, max_pixels: int) -> Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(f"an array of shape {array.shape} and {array.dtype}, where (H, W, 3) uint8 RGB is wanted")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(f"too many pixels: more than {max_pixels}")
    return np.ascontiguousarray(array)
