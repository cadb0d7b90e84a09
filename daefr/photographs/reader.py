"""Photographs as they come, read whatever their file says of them.

An image from outside is hostile until it is read: nothing is decoded before its size, kind and depth are known, and
whatever goes wrong ends as one `ImageError`.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from daefr.errors import one_line
from daefr.images import Image
from daefr.photographs.colours import mixed_to_srgb
from daefr.photographs.deep import Channel, Pixels, is_deep, read_deep, to_8_bit
from daefr.photographs.errors import ImageError
from daefr.photographs.jpeg import check_scans, with_end
from daefr.photographs.photograph import Photograph
from daefr.settings.images import MAX_PIXELS, Pages

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000")
KINDS = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 or HEIC"
MAX_BYTES = 512 * 2**20
"""A larger file is not read."""
MAX_PROFILE = 4 * 2**20
"""The largest colour profile, in bytes; those in use have up to 2 MB."""
MAX_PAGES = 10_000

ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
PNG_DEPTH, PNG_COLOURS = 24, 25
PNG_GRAY_AND_ALPHA = b"\4"
# without it, of 16 bits in separate planes the lower 8 are read
PIL.TiffImagePlugin.READ_LIBTIFF = True

DEPTHS = (1, 2, 4, 8, 16)
MODES = {"YCbCr": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA", "PA": "RGBA"}
"""What other modes of Pillow's become."""
MIXED = ("CMYK", "LAB")

Source = str | Path | bytes | PIL.Image.Image | Image | Photograph
"""A file's path or its content, an image of Pillow's, an array (H, W, 3) uint8 RGB, or what was read before."""


def read_photograph(source: Source, max_pixels: int = MAX_PIXELS, pages: Pages = "first") -> Photograph:
    """Read a photograph and turn it upright, as its EXIF orientation says.

    JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 and, with pillow-heif, HEIC are read, whatever the file is called.
    PNG and TIFF keep their 16 bits per channel, other kinds are read with 8. CMYK and LAB become sRGB, and so do the
    colours of a profile that has no way back. Of several pages or frames the first is read, or with `pages` as `all`
    each.

    Raises `ImageError` for what is no such file, is damaged or cut short, has more than `max_pixels` (of all pages that
    are read), or 32 bits per channel; and when the file cannot be read.
    """
    if isinstance(source, Photograph):
        return source
    if isinstance(source, np.ndarray):
        return Photograph(_checked(source, max_pixels))
    with _reporting_damage(max_pixels):
        if isinstance(source, PIL.Image.Image):
            return _read_pages(source, b"", max_pixels, pages)
        data = source if isinstance(source, bytes) else _read_file(Path(source))
        with open_image(data) as image:
            _check_size(image, max_pixels)
            ended = with_end(data) if image.format in ("JPEG", "MPO") else data
        with open_image(ended) as image:
            return _read_pages(image, ended, max_pixels, pages)


def read_srgb(source: Source, max_pixels: int = MAX_PIXELS) -> Image:
    """Read the first page of a photograph as it is seen: (H, W, 3) uint8 RGB of sRGB. Raises like `read_photograph`."""
    return read_photograph(source, max_pixels).srgb


def read_opaque(source: Source, max_pixels: int = MAX_PIXELS) -> Image:
    """Read like `read_srgb`, but with what transparency hides, as measures do: (H, W, 3) uint8 RGB of sRGB."""
    return replace(read_photograph(source, max_pixels), alpha=None).srgb


def count_pixels(data: bytes) -> int:
    """Return how many pixels an image says it has, without decoding it. Raises `ImageError` when it is none."""
    with _reporting_damage(MAX_PIXELS), open_image(data) as image:
        return image.width * image.height


@contextmanager
def _reporting_damage(max_pixels: int) -> Iterator[None]:
    try:
        # what Pillow warns of, such as damaged EXIF, is none of the user's business
        with warnings.catch_warnings(action="ignore"):
            yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too large for this machine's memory") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"too many pixels: more than {max_pixels}") from None
    except Exception as error:  # a damaged or hostile file makes a decoder raise anything
        raise ImageError(f"damaged: {one_line(error, 200)}") from None


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"too large a file: {size} bytes, where {MAX_BYTES} are the most")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def open_image(data: bytes) -> PIL.Image.Image:
    """Open an image file of any kind that is read, without decoding it. Raises `ImageError` for what is none."""
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except (PIL.UnidentifiedImageError, SyntaxError):
        image = _opened_heic(data)
    if image.format in ("JPEG", "MPO"):
        check_scans(data)
    # every frame but the first has these two bytes before it
    if image.format == "GIF" and data.count(b"\0,") > MAX_PAGES:
        raise ImageError(f"more than {MAX_PAGES} frames")
    return image


def _opened_heic(data: bytes) -> PIL.Image.Image:
    if data[4:8] != b"ftyp" or not any(brand in data[8:64] for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")):
        raise ImageError(f"not a readable image: none of {KINDS}")
    try:
        from pillow_heif import register_heif_opener  # noqa: PLC0415  # an extra
    except ImportError:
        raise ImageError("a HEIC image, which pillow-heif reads: pip install 'daefr[heic]'") from None
    register_heif_opener()
    return PIL.Image.open(io.BytesIO(data), formats=["HEIF"])


def _read_pages(image: PIL.Image.Image, data: bytes, max_pixels: int, pages: Pages) -> Photograph:
    count = _count_pages(image)
    read: list[Photograph] = []
    for page in range(count) if pages == "all" else [image.tell()]:
        image.seek(page)
        _check_size(image, max_pixels - sum(each.pixel_count for each in read), max_pixels)
        read.append(replace(_read_page(image, data, page), page_count=count))
    return replace(read[0], further=tuple(read[1:]))


def _count_pages(image: PIL.Image.Image) -> int:
    if image.format == "MPO":  # the other pictures of some cameras' JPEGs are a preview or the other eye's
        return 1
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        first = image.tell()
        with suppress(EOFError):
            while image.tell() < MAX_PAGES:
                image.seek(image.tell() + 1)
            raise ImageError(f"more than {MAX_PAGES} pages")
        image.seek(first)
    return int(getattr(image, "n_frames", 1))


def _check_size(image: PIL.Image.Image, left: int, max_pixels: int | None = None) -> None:
    if image.width * image.height > left:
        raise ImageError(f"too many pixels: more than {max_pixels or left}")


def _read_page(image: PIL.Image.Image, data: bytes, page: int) -> Photograph:
    depth = _depth(image, data)
    profile = image.info.get("icc_profile") or None
    if profile is not None and len(profile) > MAX_PROFILE:
        raise ImageError(f"a colour profile of {len(profile)} bytes, where {MAX_PROFILE} are the most")
    orientation = _orientation(image)
    image.load()
    upright = _plain(_upright(image), depth)
    if upright.mode in MIXED:
        upright, profile, depth = mixed_to_srgb(_not_inverted(upright, image), profile), None, 8
    pixels, alpha = _channels(upright)
    if depth > 8 and data:
        pixels, alpha = _deepened(image, data, page, orientation, (pixels, alpha))
    is_gray = upright.mode in ("1", "L", "LA") or upright.mode.startswith("I;16")
    photograph = Photograph(
        pixels=pixels,
        alpha=alpha,
        profile=profile,
        one_channel=is_gray or (image.format == "PNG" and data[PNG_COLOURS : PNG_COLOURS + 1] == PNG_GRAY_AND_ALPHA),
        format=image.format or "",
    )
    if photograph.colours.is_one_way:
        srgb = photograph.colours.to_srgb(to_8_bit(pixels))
        alpha = None if alpha is None else to_8_bit(alpha)
        return replace(photograph, pixels=srgb, alpha=alpha, profile=None, one_channel=False)
    return photograph


def _depth(image: PIL.Image.Image, data: bytes) -> int:
    """Return the bits per channel. Raises `ImageError` for a number that is not read."""
    depth = 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile) and depth <= 16:
        depth = int(max(np.atleast_1d(image.tag_v2.get(BITS_PER_SAMPLE, depth))))
    elif image.format == "PNG" and data:
        depth = data[PNG_DEPTH]
    if depth not in DEPTHS:
        raise ImageError(f"{depth} bits a channel, where 8 or 16 are wanted")
    return depth


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF, without which the picture is as it is
        return 1


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # likewise
        return image


def _plain(image: PIL.Image.Image, depth: int) -> PIL.Image.Image:
    """Return an image in gray or RGB, with alpha where some of it is transparent, or in a mode of `MIXED`."""
    if image.mode == "P" or (depth <= 8 and image.mode in ("1", "L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image = image.convert(MODES.get(image.mode, image.mode))
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", *MIXED) and not image.mode.startswith("I;16"):
        raise ImageError(f"colours of the kind {image.mode}, where RGB, gray or CMYK are wanted")
    return image


def _channels(image: PIL.Image.Image) -> tuple[Pixels, Channel | None]:
    """Return RGB and alpha of a plain image."""
    if image.mode.startswith("I;16"):
        return np.repeat(np.asarray(image).astype(np.uint16)[..., None], 3, axis=2), None
    return np.array(image.convert("RGB")), np.array(image.getchannel("A")) if image.mode in ("LA", "RGBA") else None


def _not_inverted(upright: PIL.Image.Image, image: PIL.Image.Image) -> PIL.Image.Image:
    """Undo what Pillow does to the CMYK of every JPEG, which only Adobe's want."""
    if upright.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        return PIL.Image.eval(upright, lambda level: 255 - level)
    return upright


def _deepened(
    image: PIL.Image.Image, data: bytes, page: int, orientation: int, channels: tuple[Pixels, Channel | None]
) -> tuple[Pixels, Channel | None]:
    """Return RGB and alpha with 16 bits, where they can be had."""
    pixels, alpha = channels
    if not is_deep(pixels):
        shallow = np.asarray(pixels if alpha is None else np.dstack([pixels, alpha]), np.uint8)
        deep = read_deep(data, page, orientation, shallow)
        if deep is None:
            return pixels, alpha
        pixels, alpha = np.ascontiguousarray(deep[..., :3]), None if alpha is None else deep[..., 3].copy()
    elif isinstance(image, PIL.TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        pixels = np.invert(pixels)  # which Pillow does with 8 bits only
    transparent = image.info.get("transparency")
    if isinstance(transparent, (int, tuple)):
        alpha = np.where((pixels == transparent).all(axis=2), 0, 65535).astype(np.uint16)
    return pixels, alpha


def _checked(array: Image, max_pixels: int) -> Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(f"an array of shape {array.shape} and {array.dtype}, where (H, W, 3) uint8 RGB is wanted")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(f"too many pixels: more than {max_pixels}")
    return np.ascontiguousarray(array)
