"""Results as files: their names, their formats, and what they carry over."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.ExifTags import IFD, Base

from daefr.outputs import RECORD
from daefr.restore import ImageError, Photograph, Restoration, Wanted, read_photograph, restore_files, result_name
from daefr.restore.encode import encode
from daefr.restore.files import encode_result
from daefr.restore.metadata import Description, read_description, type_of_content
from daefr.restore.names import result_type, type_of_name
from daefr.settings.restore import Format, ImageType
from tests.daefr import foreign

KINDS: dict[ImageType, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
NAMES = st.lists(
    st.sampled_from(
        ["a", "b", ".jpg", ".jpeg", ".JPG", ".png", ".PNG", ".tif", ".tiff", ".webp", ".gif", ".image", "."]
    ),
    min_size=1,
    max_size=5,
).map(lambda parts: f"x{''.join(parts)}")
FORMATS = st.sampled_from(get_args(Format))


# --- names


@settings(max_examples=500, deadline=None)
@given(names=st.sets(NAMES, min_size=2, max_size=30), wanted=FORMATS, suffix=st.sampled_from(["", "_r", ".png"]))
def test_no_two_sources_have_the_same_result(names: set[str], wanted: Format, suffix: str) -> None:
    assert len({result_name(name, wanted, suffix) for name in names}) == len(names)
    for name in names:
        assert type_of_name(result_name(name, wanted, suffix)) == result_type(name, wanted)


@pytest.mark.parametrize(
    ("name", "wanted", "result"),
    [
        ("a/photo.png", "png", "a/photo.png"),
        ("photo.PNG", "png", "photo.PNG"),
        ("photo.jpg", "png", "photo.jpg.png"),
        ("photo.jpg.png", "png", "photo.jpg.png.png"),
        ("photo.v2.png", "png", "photo.v2.png"),
        ("photo.jpeg", "jpg", "photo.jpeg"),
        ("photo.png", "jpg", "photo.png.jpg"),
        ("photo.tif", "tiff", "photo.tif"),
        ("photo.jpg", "same", "photo.jpg"),
        ("photo.jpg.png", "same", "photo.jpg.png"),
        ("photo.gif", "same", "photo.gif.png"),
        ("photo", "png", "photo.image.png"),
    ],
)
def test_a_result_keeps_its_sources_name(name: str, wanted: Format, result: str) -> None:
    assert result_name(name, wanted) == result


class Unchanged:
    """Stands for a restorer that finds no face."""

    def restore_all(self, photographs: Sequence[Photograph], **_: Any) -> list[Restoration]:
        return [Restoration(photograph, [], photograph) for photograph in photographs]


@settings(max_examples=40, deadline=None)
@given(
    names=st.sets(NAMES, min_size=1, max_size=5),
    later=st.sets(NAMES, max_size=3),
    theirs=st.sets(st.tuples(NAMES, FORMATS, st.sampled_from(["", "-1"])), max_size=6),
    wanted=FORMATS,
    conflict=st.sampled_from(["stop", "rename"]),
)
def test_nothing_foreign_changes_and_every_photograph_has_its_own_result(
    names: set[str], later: set[str], theirs: set[tuple[str, Format, str]], wanted: Format, conflict: Any
) -> None:
    options = Wanted(format=wanted, on_conflict=conflict)
    with tempfile.TemporaryDirectory() as parent:
        source, out = Path(parent) / "in", Path(parent) / "out"
        source.mkdir()
        before = foreign.fill(out, [result_name(name, kind, number) for name, kind, number in theirs])
        results = dict[str, str]()
        for batch in (names, names | later):
            for number, name in enumerate(sorted(batch)):
                if not (source / name).exists():
                    (source / name).write_bytes(_png(number))
            for outcome in restore_files(Unchanged(), source, out, options, settings={}, batch=2):  # type: ignore[arg-type]
                if outcome.target is None:
                    assert result_name(outcome.source.name, wanted) in before
                    continue
                name = str(outcome.target.relative_to(out))
                assert results.setdefault(outcome.source.name, name) == name
                pixels = read_photograph(outcome.target).pixels.astype(int)
                assert np.abs(pixels - read_photograph(outcome.source).pixels).max() < 12
            assert foreign.lost(before, out) == []
            assert len(set(results.values())) == len(results)
            assert set(foreign.seen(out)) == {*before, *results.values(), RECORD}


# --- formats


def _png(seed: int, side: int = 16) -> bytes:
    data = io.BytesIO()
    smooth = np.full((side, side, 3), seed * 37 % 256, np.uint8)
    PIL.Image.fromarray(smooth).save(data, "PNG")
    return data.getvalue()


def _pixels(depth: Any, channels: int, seed: int = 0) -> Any:
    """Smooth colours, which lossy formats keep."""
    rows, columns = np.mgrid[0:40, 0:60] / 60
    waves = [np.sin(rows * (2 + index + seed) + columns * 3) for index in range(channels)]
    return np.rint((np.dstack(waves) + 1) / 2 * np.iinfo(depth).max).astype(depth)


def _profile(space: str = "sRGB") -> bytes:
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile(space)).tobytes()  # type: ignore[arg-type]


def _read(data: bytes, kind: ImageType) -> Any:
    """Read with another library than what wrote it, in the file's own depth."""
    if kind == "tiff":
        return tifffile.imread(io.BytesIO(data))
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {2: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}
    return image if image.ndim == 2 else image[..., order[image.shape[2]]]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_photograph_is_read_as_it_was_written(kind: ImageType, depth: Any, gray: bool, transparent: bool) -> None:
    pixels = np.repeat(_pixels(depth, 1), 3, axis=2) if gray else _pixels(depth, 3)
    alpha = _pixels(depth, 1, seed=3)[..., 0] if transparent else None
    data = encode(Photograph(pixels, alpha, _profile(), gray), kind)
    assert type_of_content(data) == kind
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert image.format == KINDS[kind]
        assert image.info["icc_profile"] == _profile()
    read = _read(data, kind)
    if kind in ("png", "tiff"):
        assert read.dtype == depth
        colours = read[..., None] if read.ndim == 2 else read[..., : read.shape[2] - transparent]
        assert np.array_equal(np.broadcast_to(colours, pixels.shape), pixels)
        assert alpha is None or np.array_equal(read[..., -1], alpha)
        return
    scale = 255 / np.iinfo(depth).max
    expected = pixels * scale
    if kind == "jpg" and alpha is not None:
        opaque = (alpha * scale / 255)[..., None]
        expected = expected * opaque + 255 * (1 - opaque)
    elif alpha is not None:
        assert np.abs(read[..., 3] - alpha * scale).max() <= 1
        expected, read = expected[alpha * scale > 40], read[..., :3][alpha * scale > 40]
    assert read.dtype == np.uint8
    colours = read[..., None] if read.shape == pixels.shape[:2] else read
    assert np.abs(np.broadcast_to(colours, expected.shape) - expected).mean() < 3


def test_a_profile_of_gray_is_not_written_for_colours() -> None:
    gray = Photograph(np.repeat(_pixels(np.uint8, 1), 3, axis=2), None, b"\0" * 16 + b"GRAY" + b"\0" * 200, True)
    for kind in KINDS:
        with PIL.Image.open(io.BytesIO(encode(gray, kind))) as image:
            assert ("icc_profile" in image.info) == (kind != "webp")


@pytest.mark.parametrize(("kind", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_what_has_no_room_is_refused(kind: ImageType, side: int) -> None:
    long = Photograph(np.zeros((1, side, 3), np.uint8))
    with pytest.raises(ImageError, match=f"{side}x1 pixels, where {kind} has room for {side - 1} a side"):
        encode(long, kind)
    assert encode(long, "png")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_photograph_without_a_face_is_its_own_file_where_the_type_is_the_same(kind: ImageType) -> None:
    source = _png(5)
    restoration = Unchanged().restore_all([read_photograph(source)])[0]
    content = encode_result(restoration, source, kind, beside=True)
    assert (content == source) == (kind == "png")
    assert type_of_content(content) == kind
    larger = Restoration(restoration.photograph, [], restoration.original, scale=2)
    assert encode_result(larger, source, "png") != source


# --- metadata

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6" exif:GPSLatitude="1,2N"><exif:GPSLongitude>3,4E</exif:GPSLongitude>'
    b"<tiff:Artist>grandfather</tiff:Artist></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def _exif() -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[Base.Orientation], exif[Base.Make], exif[Base.ImageDescription] = 6, "Agfa", "grandmother"
    exif.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: "1953:06:02 00:00:00", Base.MakerNote: b"hidden"})
    exif.get_ifd(IFD.Exif)[Base.ExifImageWidth] = 9
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (51.0, 30.0, 0.0)})
    return exif


def _described(kind: str) -> bytes:
    exif, more, data = _exif(), dict[str, Any](), io.BytesIO()
    if kind == "TIFF":
        exif[700] = XMP
    if kind == "PNG":
        more["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        more["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if kind == "WEBP":
        exif[Base.XResolution] = exif[Base.YResolution] = 300 / 2.54
        exif[Base.ResolutionUnit] = 3
    image = PIL.Image.fromarray(_pixels(np.uint8, 3))
    image.save(data, kind, exif=exif.tobytes(), xmp=XMP, dpi=(300, 300), **more)
    return data.getvalue()


@pytest.mark.parametrize("source", KINDS.values())
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("wanted", ["none", "basic", "all"])
def test_metadata_is_carried_over(source: str, kind: ImageType, wanted: Any) -> None:
    data = _described(source)
    photograph = read_photograph(data)
    deep = Photograph(np.asarray(photograph.pixels, np.uint16) * 257)  # type: ignore[arg-type]
    for each in (photograph, deep):
        result = encode(each, kind, read_description(data, wanted))
        with PIL.Image.open(io.BytesIO(result)) as image:
            image.load()
            exif = image.getexif()
            assert exif.get(Base.Orientation, 1) == 1
            assert exif.get(Base.Make) == (None if wanted == "none" else "Agfa")
            shot, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
            assert (shot.get(Base.DateTimeOriginal) == "1953:06:02 00:00:00") == (wanted != "none")
            assert (shot.get(Base.MakerNote) == b"hidden") == (wanted == "all")
            assert Base.ExifImageWidth not in shot
            assert dict(place) == ({1: "N", 2: (51.0, 30.0, 0.0)} if wanted == "all" else {})
        assert (b"grandfather" in result) == (wanted != "none")
        assert (b"GPSLongitude>3,4E" in result) == (b'GPSLatitude="1' in result) == (wanted == "all")
        assert b":Orientation" not in result
        assert read_description(result, "all").dpi == (
            None if wanted == "none" else pytest.approx((300, 300), abs=0.01)
        )


@pytest.mark.parametrize("damage", [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"\xff" * 500])
def test_damaged_metadata_is_left_out(damage: bytes) -> None:
    data = io.BytesIO()
    PIL.Image.fromarray(_pixels(np.uint8, 3)).save(data, "JPEG", exif=damage)
    for kind in KINDS:
        assert encode(read_photograph(data.getvalue()), kind, read_description(data.getvalue(), "all"))


@pytest.mark.parametrize("packet", [XMP.decode().encode("utf-16"), b"<a>GPS</a>", b'<a x:GPSx="' + b"<x:GPS>" * 20_000])
def test_a_place_in_another_form_leaves_out_the_packet(packet: bytes) -> None:
    exif, data = PIL.Image.Exif(), io.BytesIO()
    exif[700] = packet
    PIL.Image.fromarray(_pixels(np.uint8, 3)).save(data, "TIFF", exif=exif.tobytes())
    assert read_description(data.getvalue(), "basic").xmp == b""
    assert read_description(data.getvalue(), "all").xmp


def test_what_a_jpeg_has_no_room_for_is_left_out() -> None:
    exif = PIL.Image.Exif()
    exif[Base.ImageDescription] = "x" * 70_000
    about = Description(exif, b"x" * 70_000)
    photograph = Photograph(_pixels(np.uint8, 3))
    for kind in KINDS:
        assert (b"x" * 1000 in encode(photograph, kind, about)) == (kind != "jpg")
