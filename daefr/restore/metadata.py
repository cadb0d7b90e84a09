"""What a file says of its photograph beside the pixels, to be carried over to the result."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import PIL.Image
from PIL.ExifTags import IFD, Base

from daefr.photographs import open_image
from daefr.settings.restore import ImageType, Metadata

# the other tags say how the source's pixels are stored, among them its orientation
_DESCRIPTIVE = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.Copyright, Base.Rating, Base.RatingPercent),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
}
_SIZE = {Base.ExifImageWidth, Base.ExifImageHeight}
_INCH, _CENTIMETRE = 2, 3
_MOST_DPI = 65535  # what JPEG has room for

_ATTRIBUTE = rb"""\s[\w.-]+:%s\s*=\s*(?:"[^"]*"|'[^']*')"""
_ELEMENT = rb"<([\w.-]+:%s)\b[^>]*>[^<]*</\1\s*>"
_XMP_ORIENTATION = re.compile(_ATTRIBUTE % b"Orientation" + b"|" + _ELEMENT % b"Orientation")
_XMP_PLACE = re.compile(_ATTRIBUTE % rb"GPS\w*" + b"|" + _ELEMENT % rb"GPS\w*")

XMP_OF_PNG = "XML:com.adobe.xmp"
TYPES: dict[str, ImageType] = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tiff"}
"""Pillow's names of the types that are written."""


@dataclass(frozen=True)
class Description:
    """EXIF without orientation, an XMP packet, and dots per inch across and down, so far as there are any."""

    exif: PIL.Image.Exif | None = None
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


def type_of_content(data: bytes) -> ImageType | None:
    """Return the type of an image file by its content; None where it is none that is written."""
    with _undisturbed(), open_image(data) as image:
        return TYPES.get(image.format or "")
    return None


def read_description(data: bytes, wanted: Metadata) -> Description:
    """Return what of a file's metadata is wanted; what is damaged is left out."""
    exif, xmp, dpi = None, b"", None
    if wanted != "none":
        with _undisturbed(), open_image(data) as image:
            with suppress(Exception):
                dpi = _dpi(image)
            with suppress(Exception):
                exif = _describing(image.getexif(), wanted, dpi)
            if image.format == "PNG":
                image.load()  # it may follow the pixels
            packet = image.info.get("xmp") or image.info.get(XMP_OF_PNG, "").encode()
            xmp = _cleaned(packet, wanted)
    return Description(exif, xmp, dpi)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave out what is damaged, of which Pillow raises or warns anything: whoever reads the pixels will say it."""
    with warnings.catch_warnings(action="ignore"), suppress(Exception):
        yield


def _dpi(image: PIL.Image.Image) -> tuple[float, float] | None:
    exif = image.getexif()
    per_inch = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(exif.get(Base.ResolutionUnit, _INCH), 0.0)
    given = image.info.get("dpi") or [exif[tag] * per_inch for tag in (Base.XResolution, Base.YResolution)]
    across, down = (round(float(value), 2) for value in given)
    # one dot per inch is what files have that know none
    return (across, down) if 1 < across <= _MOST_DPI and 1 < down <= _MOST_DPI else None


def _describing(exif: PIL.Image.Exif, wanted: Metadata, dpi: tuple[float, float] | None) -> PIL.Image.Exif:
    chosen = PIL.Image.Exif()
    for tag in _DESCRIPTIVE & exif.keys():
        chosen[tag] = exif[tag]
    if dpi is not None:
        chosen[Base.XResolution], chosen[Base.YResolution] = dpi
        chosen[Base.ResolutionUnit] = _INCH
    left_out = _SIZE if wanted == "all" else {*_SIZE, Base.MakerNote}
    shot = {tag: value for tag, value in exif.get_ifd(IFD.Exif).items() if tag not in left_out}
    if shot:
        chosen.get_ifd(IFD.Exif).update(shot)
    if wanted == "all" and (place := exif.get_ifd(IFD.GPSInfo)):
        chosen.get_ifd(IFD.GPSInfo).update(place)
    chosen.tobytes()  # that it can be written
    return chosen


def _cleaned(packet: bytes, wanted: Metadata) -> bytes:
    """Return an XMP packet without orientation, and without the place unless that is wanted."""
    cleaned = _XMP_ORIENTATION.sub(b"", packet)
    if wanted == "all":
        return cleaned
    cleaned = _XMP_PLACE.sub(b"", cleaned)
    # in another form, or in letters of two bytes
    return b"" if b"GPS" in cleaned or b"\0" in cleaned else cleaned
