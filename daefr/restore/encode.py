"""Results as files: JPEG, PNG, WebP or TIFF, with transparency, colour profile and what describes the photograph."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
from PIL.ExifTags import IFD

from daefr.photographs import ImageError, Photograph
from daefr.photographs.deep import is_deep, to_8_bit
from daefr.restore.metadata import XMP_OF_PNG, Description
from daefr.settings.restore import ImageType

QUALITY = 95
"""Of JPEG and WebP: pixels that were not restored come out within a few levels of what they were."""
_NAMES: dict[ImageType, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_OPTIONS: dict[ImageType, dict[str, Any]] = {
    "jpg": {"quality": QUALITY, "subsampling": 0},
    "png": {"compress_level": 3},
    "webp": {"quality": QUALITY, "method": 4},
}
_MOST_SIDE: dict[ImageType, int] = {"jpg": 65_500, "webp": 16_383}
_SEGMENT = 65_000  # bytes of EXIF, and of XMP, for which a JPEG has room
_XMP = 700  # its tag in a TIFF
_LITTLE_ENDIAN, _LONG = b"II*\0\0\0\0\0", 4  # a header and a type of TIFF
_PNG_HEADER = 33  # signature and first chunk, after which others may come
_INCH = 0.0254  # in metres


def encode(photograph: Photograph, kind: ImageType, about: Description | None = None) -> bytes:
    """Encode a photograph of 8 or 16 bits per channel, and what is said `about` it.

    PNG and TIFF keep every level, and TIFF takes all pages. JPEG and WebP are lossy and of 8 bits; JPEG has white where
    a photograph is transparent, and leaves out metadata for which it has no room. Raises `ImageError` for more pixels
    or pages than the type has room for.
    """
    height, width = photograph.pixels.shape[:2]
    most = _MOST_SIDE.get(kind, max(height, width))
    if max(height, width) > most:
        raise ImageError(f"{width}x{height} pixels, where {kind} has room for {most} a side: choose another format")
    if photograph.further and kind != "tiff":
        raise ImageError(f"{1 + len(photograph.further)} pages, where {kind} has room for one: choose the format tiff")
    about = about or Description()
    if kind == "tiff":
        return _tiff(photograph, about)
    if kind == "png" and is_deep(photograph.pixels):
        return _deep_png(photograph, about)
    return _by_pillow(photograph, kind, about)


def _by_pillow(photograph: Photograph, kind: ImageType, about: Description) -> bytes:
    more: dict[str, Any] = dict(_OPTIONS[kind])
    exif, xmp = about.exif.tobytes() if about.exif else b"", about.xmp
    if kind == "png" and xmp:
        more["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        more["pnginfo"].add_itxt(XMP_OF_PNG, xmp.decode(errors="replace"))
    elif xmp and (kind != "jpg" or len(xmp) <= _SEGMENT):
        more["xmp"] = xmp
    if exif and (kind != "jpg" or len(exif) <= _SEGMENT):
        more["exif"] = exif
    if about.dpi is not None:
        more["dpi"] = about.dpi
    more["icc_profile"] = _profile(photograph, as_rgb=kind == "webp")
    data = io.BytesIO()
    _pillow(photograph, with_alpha=kind != "jpg").save(data, _NAMES[kind], **more)
    return data.getvalue()


def _pillow(photograph: Photograph, *, with_alpha: bool) -> PIL.Image.Image:
    image = PIL.Image.fromarray(to_8_bit(photograph.pixels))
    if photograph.one_channel:
        image = image.getchannel(0)
    if photograph.alpha is not None:
        alpha = PIL.Image.fromarray(to_8_bit(photograph.alpha))
        if with_alpha:
            image.putalpha(alpha)
        else:
            image = PIL.Image.composite(image, PIL.Image.new(image.mode, image.size, "white"), alpha)
    return image


def _deep_png(photograph: Photograph, about: Description) -> bytes:
    channels = _channels(photograph)
    blocks = {
        cv2.IMAGE_METADATA_EXIF: about.exif.tobytes().removeprefix(b"Exif\0\0") if about.exif else b"",
        cv2.IMAGE_METADATA_XMP: about.xmp,
        cv2.IMAGE_METADATA_ICCP: _profile(photograph, as_rgb=channels.ndim == 3) or b"",
    }
    kinds = [kind for kind, block in blocks.items() if block]
    values = [np.frombuffer(blocks[kind], np.uint8) for kind in kinds]
    if channels.ndim == 3:
        channels = cv2.cvtColor(channels, {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[channels.shape[2]])
    options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    data = cv2.imencodeWithMetadata(".png", channels, kinds, values, options)[1].tobytes()
    if about.dpi is None:
        return data
    per_metre = struct.pack(">IIB", *(round(dots / _INCH) for dots in about.dpi), 1)
    chunk = struct.pack(">I", len(per_metre)) + b"pHYs" + per_metre + struct.pack(">I", zlib.crc32(b"pHYs" + per_metre))
    return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]


def _tiff(photograph: Photograph, about: Description) -> bytes:
    import tifffile  # noqa: PLC0415  # few results are TIFF files

    exif = about.exif or PIL.Image.Exif()
    tags: list[tuple[Any, ...]] = [(tag, "s", 0, text, True) for tag, text in exif.items() if isinstance(text, str)]
    tags += [(_XMP, "B", len(about.xmp), about.xmp, True)] if about.xmp else []
    directories = {tag: directory for tag in (IFD.Exif, IFD.GPSInfo) if (directory := exif.get_ifd(tag))}
    tags += [(tag - 1, "I", 1, 0, True) for tag in directories]  # places kept for them: tifffile writes none itself
    data = io.BytesIO()
    with tifffile.TiffWriter(data, byteorder="<") as writer:
        for page in (photograph, *photograph.further):
            channels = _channels(page)
            is_rgb = channels.ndim == 3 and channels.shape[2] > 2
            writer.write(
                channels,
                photometric="rgb" if is_rgb else "minisblack",
                planarconfig="contig" if channels.ndim == 3 else None,
                extrasamples=None if page.alpha is None else ["unassalpha"],
                compression="zlib",
                iccprofile=_profile(page, as_rgb=is_rgb),
                resolution=about.dpi,
                resolutionunit=None if about.dpi is None else "inch",
                software=False,
                metadata=None,
                extratags=tags if page is photograph else (),
            )
    for tag, directory in directories.items():
        place = data.seek(0, io.SEEK_END)
        within = PIL.TiffImagePlugin.ImageFileDirectory_v2(_LITTLE_ENDIAN, group=tag)
        within.update(directory)
        data.write(within.tobytes(place))
        data.seek(0)
        data.seek(tifffile.TiffFile(data).pages.first.tags[tag - 1].offset)
        data.write(struct.pack("<HHII", tag, _LONG, 1, place))
    return data.getvalue()


def _channels(photograph: Photograph) -> npt.NDArray[Any]:
    """Return (H, W) gray or (H, W, C): gray or RGB, with alpha last. Few readers know gray of 16 bits with alpha."""
    pixels, alpha = photograph.pixels, photograph.alpha
    is_gray = photograph.one_channel and (alpha is None or pixels.dtype == np.uint8)
    colours = pixels[..., 0] if is_gray else pixels
    return np.ascontiguousarray(colours if alpha is None else np.dstack([colours, alpha]))


def _profile(photograph: Photograph, *, as_rgb: bool) -> bytes | None:
    """Return the colour profile, unless it is one of gray for a file that has gray as RGB."""
    is_of_gray = photograph.profile is not None and photograph.profile[16:20] == b"GRAY"
    return None if as_rgb and is_of_gray else photograph.profile
