"""What people bring is read by one reader, which every way of using it shares: depth, colours, transparency, pages."""

import io
import itertools
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daefr import ImageError, Restorer
from daefr.__main__ import main
from daefr.faces.crops import Aligner
from daefr.faces.detected import DetectedFace
from daefr.images import Image
from daefr.metrics.pairs import find_pairs, read_ahead
from daefr.photographs import Photograph, count_pixels, read_photograph, read_srgb
from daefr.restore import Restoration, encode_result, side_by_side
from daefr.restore.encode import encode
from daefr.settings.faces import FaceFilters
from daefr.stages import RestorationStage
from tests.daefr import tiny
from tests.daefr.photographs import SHARED, Told, photograph

FIELD = SHARED / "field" / "photographs"
needs_field = pytest.mark.skipif(not FIELD.is_dir(), reason=f"there are no photographs at {FIELD}")
some_examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)

Deep = npt.NDArray[np.uint16]


def _stage() -> RestorationStage:
    stage = tiny.build("restoration", seed=3)
    assert isinstance(stage, RestorationStage)
    return stage


STAGE = _stage()


def _restorer(*faces: DetectedFace) -> Restorer:
    return Restorer(STAGE, torch.device("cpu"), detector=Told(list(faces)))


def _restored(source: bytes, *faces: DetectedFace, **options: object) -> Restoration:
    return _restorer(*faces)(source, **options)  # type: ignore[arg-type]


def _crop(source: bytes, face: DetectedFace) -> Image:
    filters = FaceFilters(min_score=0.5, min_size=1, max_outside=1, max_turn=180, min_sharpness=0)
    aligner = Aligner(Told([face]), filters, tiny.SIDE)  # type: ignore[arg-type]
    return aligner(source, "p").crops["p#0"].image


def _stored(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _picture(seed: int = 0, side: int = 48) -> Image:
    return tiny.face(np.random.default_rng(seed), side)


def _deep(side: int = 300) -> tuple[Deep, DetectedFace]:
    """A photograph whose lower 8 bits say as much as the upper ones."""
    image, face = photograph(1, side, zoom=0.4)
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint16)
    return image.astype(np.uint16) * 256 + noise, face


def _deep_png(pixels: Deep) -> bytes:
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1].tobytes()


def _deep_tiff(pixels: Deep, **options: object) -> bytes:
    data = io.BytesIO()
    kinds = {1: ("minisblack", None), 3: ("rgb", None), 4: ("rgb", ["unassalpha"])}
    photometric, extra = kinds[pixels.shape[2]]
    given_options: dict[str, object] = {"photometric": photometric, "extrasamples": extra} | options
    tifffile.imwrite(data, pixels[..., 0] if pixels.shape[2] == 1 else pixels, **given_options)  # type: ignore[arg-type]
    return data.getvalue()


def _lzw(pixels: Deep) -> bytes:
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    return cv2.imencode(".tiff", np.ascontiguousarray(pixels[..., ::-1]), options)[1].tobytes()


# --- 16 bits

DEEP = {
    "png": _deep_png,
    "tiff": _deep_tiff,
    "deflate": lambda pixels: _deep_tiff(pixels, compression="zlib", predictor=2),
    "lzw": _lzw,
    "big endian": lambda pixels: _deep_tiff(pixels, byteorder=">"),
    "tiles": lambda pixels: _deep_tiff(pixels, tile=(64, 64)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_16_bits_are_kept_wherever_nothing_was_restored(kind: str) -> None:
    pixels, face = _deep()
    result = _restored(DEEP[kind](pixels), face)
    changed = (result.image != pixels).any(axis=2)
    assert result.image.dtype == np.uint16
    assert 0.02 < changed.mean() < 0.6
    # what was pasted is blended with 16 bits too: its levels are not those of 8
    assert (result.image[changed] % 257 != 0).mean() > 0.5
    eight = _restored(_stored(PIL.Image.fromarray((pixels >> 8).astype(np.uint8))), face)
    assert np.abs(result.image / 257 - eight.image).max() <= 3
    assert np.array_equal(read_photograph(result.png()).pixels, result.image)
    assert np.array_equal(read_photograph(encode(result.photograph, "tiff")).pixels, result.image)


@pytest.mark.parametrize("write", [_deep_png, _deep_tiff])
def test_16_bits_of_gray_and_of_transparency_are_kept(write: object) -> None:
    assert callable(write)
    pixels, face = _deep()
    gray = _restored(write(pixels[..., :1]), face)
    assert gray.photograph.one_channel
    assert gray.image.dtype == np.uint16
    assert (gray.image != pixels[..., :1]).any(axis=2).mean() < 0.6
    assert PIL.Image.open(io.BytesIO(gray.png())).mode == "I;16"
    alpha = np.random.default_rng(1).integers(0, 65536, pixels.shape[:2], dtype=np.uint16)
    clear = _restored(write(np.dstack([pixels, alpha])), face)
    again = read_photograph(clear.png())
    assert clear.photograph.alpha is not None
    assert again.alpha is not None
    assert np.array_equal(clear.photograph.alpha, alpha)
    assert np.array_equal(again.alpha, alpha)
    larger = _restored(write(np.dstack([pixels, alpha])), face, upscale=2)
    assert larger.image.dtype == np.uint16
    assert larger.image.shape == (600, 600, 3)


def test_gray_whose_zero_is_white_is_no_negative() -> None:
    pixels, _ = _deep()
    data = _deep_tiff(pixels[..., :1], photometric="miniswhite")
    assert np.array_equal(read_photograph(data).pixels, 65535 - np.repeat(pixels[..., :1], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_alike_with_8_and_16_bits(orientation: int) -> None:
    pixels = _deep(60)[0][:40]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    plain = _stored(PIL.Image.fromarray((pixels >> 8).astype(np.uint8)), exif=exif)
    chunk_of = plain[plain.index(b"eXIf") - 4 :]
    chunk = chunk_of[: int.from_bytes(chunk_of[:4]) + 12]
    png = _deep_png(pixels)
    tiff = _deep_tiff(pixels, extratags=[(274, "H", 1, orientation, True)])
    upright = read_photograph(plain).pixels
    for data in (png[:33] + chunk + png[33:], tiff):
        read = read_photograph(data).pixels
        assert read.dtype == np.uint16
        assert np.array_equal(read >> 8, upright)


# --- colours


def _lut_profile(space: bytes, colours: npt.NDArray[np.uint8]) -> bytes:
    """An ICC profile with no way back: for each corner of its space, in the order of counting, Lab with 8 bits."""
    count = len(space.strip().replace(b"RGB", b"123"))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (index % 4 == 0) for index in range(9)))
    table = b"mft1" + bytes(4) + bytes([count, 3, 2, 0]) + identity + ramp * count + colours.tobytes() + ramp * 3
    table += bytes(-len(table) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    place = 128 + 4 + 24
    tags = struct.pack(">I", 2)
    tags += struct.pack(">4sII4sII", b"A2B0", place, len(table), b"wtpt", place + len(table), len(white))
    size = place + len(table) + len(white)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"none", 0x02100000, b"scnr", space, b"Lab ", bytes(12), b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + table + white


def _cmyk_profile() -> bytes:
    """CMYK in which ink darkens, and cyan is green: nothing that could come about without a profile."""
    corners = itertools.product((0, 1), repeat=4)
    light = [
        (0 if k else 255 - 60 * (c + m + y), 128 - 100 * c * (1 - k), 128 + 100 * (y - m) * (1 - k))
        for c, m, y, k in corners
    ]
    return _lut_profile(b"CMYK", np.clip(light, 0, 255).astype(np.uint8))


def _as_cmyk() -> PIL.Image.Image:
    wide = cv2.resize(_picture(), (96, 96))
    return PIL.Image.fromarray(np.asarray(wide)).convert("CMYK")


def _without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def test_cmyk_is_read_through_its_profile() -> None:
    cmyk, profile = _as_cmyk(), _cmyk_profile()
    srgb = PIL.ImageCms.createProfile("sRGB")
    expected = np.asarray(PIL.ImageCms.profileToProfile(cmyk, io.BytesIO(profile), srgb, outputMode="RGB")).astype(int)
    assert np.abs(expected - np.asarray(cmyk.convert("RGB"))).mean() > 20
    inverted = PIL.Image.eval(cmyk, lambda level: 255 - level)
    files = {
        "tiff": _stored(cmyk, "TIFF", icc_profile=profile),
        "tiff of 16 bits": _deep_tiff_of_cmyk(cmyk, profile),
        "Adobe's jpeg, inverted": _stored(cmyk, "JPEG", icc_profile=profile, quality=100),
        "another jpeg, not inverted": _without_adobe(_stored(inverted, "JPEG", icc_profile=profile, quality=100)),
    }
    for name, data in files.items():
        read = read_photograph(data)
        assert read.profile is None, name
        assert np.abs(read.pixels - expected).mean() < 2, name
        assert np.array_equal(read.srgb, read.pixels), name


def _deep_tiff_of_cmyk(cmyk: PIL.Image.Image, profile: bytes) -> bytes:
    data = io.BytesIO()
    pixels = np.asarray(cmyk).astype(np.uint16) * 257
    tifffile.imwrite(data, pixels, photometric="separated", iccprofile=profile)
    return data.getvalue()


def test_cmyk_and_lab_without_a_profile_are_read() -> None:
    cmyk = _as_cmyk()
    read = read_photograph(_stored(cmyk, "JPEG", quality=100)).pixels
    assert np.abs(read.astype(int) - np.asarray(cmyk.convert("RGB"))).mean() < 2
    rgb, lab = PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB")
    picture = PIL.Image.fromarray(_picture())
    stored = _stored(PIL.ImageCms.profileToProfile(picture, rgb, lab, outputMode="LAB"), "TIFF")
    assert np.abs(read_photograph(stored).pixels.astype(int) - _picture()).mean() < 2


def test_a_profile_with_no_way_back_becomes_srgb() -> None:
    corners = [(128 * (r + g + b) // 2, 128 + 90 * (g - r), 128) for r, g, b in itertools.product((0, 1), repeat=3)]
    profile = _lut_profile(b"RGB ", np.clip(corners, 0, 255).astype(np.uint8))
    image, face = photograph(1, 300, zoom=0.4)
    data = _stored(PIL.Image.fromarray(image), icc_profile=profile)
    srgb = PIL.ImageCms.createProfile("sRGB")
    expected = np.asarray(PIL.ImageCms.profileToProfile(PIL.Image.fromarray(image), io.BytesIO(profile), srgb))
    result = _restored(data, face)
    assert result.photograph.profile is None
    assert np.array_equal(result.original.pixels, expected)
    assert np.abs(expected.astype(int) - image).mean() > 20


def _profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    """The profile of sRGB with other primaries."""
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    for tag, values in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue)):
        at = profile.index(tag)
        place = int.from_bytes(profile[at + 4 : at + 8]) + 8
        for index, value in enumerate(values):
            profile[place + 4 * index : place + 4 * index + 4] = round(value * 65536).to_bytes(4)
    return bytes(profile)


PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
profiles = st.permutations(PRIMARIES).map(lambda primaries: _profile(*primaries))


@some_examples
@given(profile=profiles, seed=st.integers(0, 9), is_deep=st.booleans(), kind=st.sampled_from(["PNG", "TIFF", "WEBP"]))
def test_crops_are_srgb_everywhere(profile: bytes, seed: int, is_deep: bool, kind: str) -> None:
    image, face = photograph(seed % 3, 200, zoom=0.3)
    srgb = PIL.ImageCms.createProfile("sRGB")
    own = PIL.ImageCms.profileToProfile(PIL.Image.fromarray(image), srgb, io.BytesIO(profile))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _stored(own, kind, icc_profile=profile, **options)
    if is_deep and kind == "TIFF":
        data = _deep_tiff(np.asarray(own).astype(np.uint16) * 257, iccprofile=profile)
    result = _restored(data, face)
    crop = result.faces[0].crop
    assert np.abs(crop.astype(int) - _restored(_stored(PIL.Image.fromarray(image)), face).faces[0].crop).max() <= 4
    assert np.array_equal(_crop(data, face), _crop(_stored(PIL.Image.fromarray(read_srgb(data))), face))
    assert np.abs(read_srgb(data).astype(int) - image).max() <= 4
    aligned = _restored(data, aligned=True)
    assert aligned.photograph.profile is None
    before, after = np.split(side_by_side(aligned).pixels, 2, axis=1)
    assert before.dtype == after.dtype == np.uint8
    shrunk = cv2.resize(read_srgb(data), (tiny.SIDE, tiny.SIDE), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(before, shrunk)


def test_a_gray_profile_is_used() -> None:
    ramp = np.tile(np.arange(0, 256, dtype=np.uint8)[:, None], (1, 40))
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    # a profile of gray with a gamma of 1: header, white point and one curve
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"kTRC", 156, 12, b"wtpt", 168, 20)
    linear = bytes(profile[4:16]) + b"GRAYXYZ " + bytes(profile[24:128]) + tags + curve + white
    linear = (len(linear) + 4).to_bytes(4) + linear
    read = read_photograph(_stored(PIL.Image.fromarray(ramp), icc_profile=linear))
    assert read.one_channel
    assert read.srgb[60, 0, 0] > 100
    assert np.abs(read.colours.from_srgb(read.srgb)[..., 0].astype(int) - ramp).max() <= 3


@needs_field
def test_the_way_in_does_not_change_a_photograph_with_swapped_primaries() -> None:
    data = (FIELD / "swapped_primaries.png").read_bytes()
    raw = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    face = DetectedFace(np.array([0, 0, 9, 9], np.float32), 1.0, photograph()[1].landmarks / 3)
    assert not np.array_equal(read_srgb(data), raw)
    assert np.array_equal(_crop(data, face), _crop(_stored(PIL.Image.fromarray(read_srgb(data))), face))
    red, green, _ = read_srgb(data).reshape(-1, 3).mean(axis=0)
    assert red > green


# --- what is hidden


@st.composite
def cut_outs(draw: st.DrawFn) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], bool]:
    """Two pictures (H, W, 4) that differ only where nothing of them shows, and whether to store them with 16 bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image, _ = photograph(draw(st.integers(0, 2)), 160, zoom=0.25)
    alpha = np.full((160, 160), draw(st.integers(1, 255)), np.uint8)
    for _ in range(draw(st.integers(1, 4))):
        x, y, width, height = rng.integers(0, 160, 4)
        alpha[y : y + height, x : x + width] = draw(st.sampled_from([0, 0, 60, 255]))
    alpha[0, 0] = 0
    others = []
    for kind in draw(st.permutations(["black", "white", "noise"]))[:2]:
        filled = {"black": 0, "white": 255, "noise": rng.integers(0, 256, image.shape)}[kind]
        others.append(np.dstack([np.where(alpha[..., None] == 0, filled, image), alpha]).astype(np.uint8))
    return others[0], others[1], draw(st.booleans())


def _visible(photograph: Photograph) -> npt.NDArray[np.generic]:
    assert photograph.alpha is not None
    return np.where(photograph.alpha[..., None] == 0, 0, photograph.pixels)


@some_examples
@given(pair=cut_outs(), upscale=st.sampled_from([1, 2]))
def test_what_is_hidden_changes_nothing_that_is_seen(
    pair: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], bool], upscale: int
) -> None:
    _, face = photograph(1, 160, zoom=0.25)
    *pictures, is_deep = pair
    files = [
        _deep_png(each.astype(np.uint16) * 257) if is_deep else _stored(PIL.Image.fromarray(each)) for each in pictures
    ]
    assert np.array_equal(read_srgb(files[0]), read_srgb(files[1]))
    assert np.array_equal(_crop(files[0], face), _crop(files[1], face))
    whole = [_restored(data, face, upscale=upscale) for data in files]
    aligned = [_restored(data, aligned=True) for data in files]
    for one, other in (whole, aligned):
        assert np.array_equal(one.faces[0].restored, other.faces[0].restored)
        assert np.array_equal(_visible(one.photograph), _visible(other.photograph))
    sheets = [side_by_side(each).pixels for each in whole]
    if upscale == 1:
        assert np.array_equal(*sheets)
    assert aligned[0].photograph.alpha is not None
    assert aligned[0].photograph.alpha.shape == (tiny.SIDE, tiny.SIDE)
    seen = read_photograph(files[0])
    opaque = seen.alpha == seen.alpha.max()  # type: ignore[union-attr]
    assert np.array_equal(seen.seen[opaque], seen.pixels[opaque])


@some_examples
@given(alpha=st.integers(1, 255), seed=st.integers(0, 99))
def test_what_hardly_shows_hardly_matters(alpha: int, seed: int) -> None:
    image = np.asarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3)), np.uint8)
    transparency = np.full((40, 40), 255, np.uint8)
    transparency[10:30, 15:25] = alpha
    files = []
    for level in (0, 255):
        changed = image.copy()
        changed[10:30, 15:25] = level
        files.append(_stored(PIL.Image.fromarray(np.dstack([changed, transparency]))))
    difference = np.abs(read_srgb(files[0]).astype(int) - read_srgb(files[1]))
    assert difference[transparency < 255].max() <= alpha * 8
    assert difference[transparency == 255].max() == 0


def test_a_photograph_of_one_transparency_is_seen_as_it_is() -> None:
    clear = np.dstack([_picture(), np.full((48, 48), 90, np.uint8)])
    assert np.array_equal(read_srgb(_stored(PIL.Image.fromarray(clear))), _picture())
    nothing = np.dstack([_picture(), np.zeros((48, 48), np.uint8)])
    assert not read_srgb(_stored(PIL.Image.fromarray(nothing))).any()


def test_hidden_pixels_take_the_colours_around_them() -> None:
    pixels = np.zeros((64, 3000, 4), np.uint8)
    pixels[:, :1000] = (200, 40, 30, 255)
    pixels[:, 2500:] = (20, 40, 230, 255)
    seen = read_srgb(_stored(PIL.Image.fromarray(pixels))).astype(int)
    assert np.abs(seen[:, 1010] - (200, 40, 30)).max() < 12
    assert np.abs(seen[:, 2490] - (20, 40, 230)).max() < 12
    assert np.abs(np.diff(seen[32], axis=0)).max() < 12


@needs_field
def test_the_visible_part_of_a_cut_out_does_not_depend_on_the_rest() -> None:
    data = [(FIELD / f"hidden_{colour}.png").read_bytes() for colour in ("black", "white")]
    face = DetectedFace(np.array([0, 0, 9, 9], np.float32), 1.0, photograph(side=300, zoom=0.4)[1].landmarks)
    results = [_restored(each, face) for each in data]
    assert np.array_equal(_visible(results[0].photograph), _visible(results[1].photograph))
    assert not np.array_equal(_visible(results[0].photograph), _visible(results[0].original))


# --- kinds of files, pages and damage


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "HEIF"])
def test_every_kind_is_read_by_its_content(kind: str, tmp_path: Path) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    smooth = np.asarray(cv2.resize(_picture(), (96, 96), interpolation=cv2.INTER_CUBIC))
    data = _stored(PIL.Image.fromarray(smooth), kind, **({"quality": 95} if kind in ("JPEG", "AVIF", "HEIF") else {}))
    misnamed = tmp_path / "photograph.txt"
    misnamed.write_bytes(data)
    read = read_photograph(misnamed)
    assert read.format == kind
    assert np.abs(read.pixels.astype(int) - smooth).mean() < 12
    assert count_pixels(data) == 96 * 96
    assert _restored(data, aligned=True).image.shape == (tiny.SIDE, tiny.SIDE, 3)
    (pair,) = read_ahead(find_pairs(misnamed, None))
    assert np.array_equal(pair.restored.numpy().transpose(1, 2, 0), read.pixels)  # type: ignore[union-attr]


def test_heic_without_its_reader_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1"):
        data = struct.pack(">I4s4sI4s4s", 24, b"ftyp", brand, 0, b"mif1", b"heic") + bytes(100)
        for read in (read_photograph, count_pixels):
            with pytest.raises(ImageError, match=r"pip install 'daefr\[heic\]'"):
                read(data)  # type: ignore[operator]


def _pages(kind: str, count: int = 3) -> bytes:
    first, *others = [PIL.Image.fromarray(_picture(seed)) for seed in range(count)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return _stored(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_of_several_pages_the_first_or_each_is_restored(kind: str) -> None:
    data = _pages(kind)
    first = read_photograph(data)
    assert (first.page_count, first.further) == (3, ())
    result = _restored(data, aligned=True)
    assert (result.pages_left, result.face_count, result.further) == (2, 1, ())
    assert count_pixels(data) == 48 * 48
    every = _restored(data, aligned=True, pages="all")
    assert (every.pages_left, every.face_count, len(every.further)) == (0, 3, 2)
    assert np.array_equal(every.image, result.image)
    for page, seed in zip((every, *every.further), range(3), strict=True):
        assert np.abs(page.original.pixels.astype(int) - _picture(seed)).mean() < 25
        assert np.array_equal(page.image, _restored(page.original, aligned=True).image)  # type: ignore[arg-type]


def test_pages_of_16_bits_are_written_as_pages() -> None:
    pixels, face = _deep()
    data = io.BytesIO()
    with tifffile.TiffWriter(data) as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[:250, ::-1], photometric="rgb")
    result = _restored(data.getvalue(), face, pages="all")
    again = read_photograph(encode_result(result, data.getvalue(), "tiff"), pages="all")
    assert again.page_count == 2
    for page, written in zip((result, *result.further), (again, *again.further), strict=True):
        assert written.pixels.dtype == np.uint16
        assert np.array_equal(written.pixels, page.image)
    assert np.array_equal(again.further[0].pixels[:20], pixels[:20, ::-1])
    with pytest.raises(ImageError, match="2 pages, where png has room for one"):
        encode_result(result, data.getvalue(), "png")


def test_a_limit_holds_for_all_pages_together() -> None:
    data = _pages("TIFF")
    assert len(read_photograph(data, 3 * 48 * 48, "all").further) == 2
    with pytest.raises(ImageError, match=f"more than {3 * 48 * 48 - 1}"):
        read_photograph(data, 3 * 48 * 48 - 1, "all")
    assert read_photograph(data, 48 * 48).page_count == 3


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_may_lack_its_end_marker_and_nothing_else(progressive: bool, subsampling: int) -> None:
    smooth = PIL.Image.fromarray(np.asarray(cv2.resize(_picture(), (203, 301), interpolation=cv2.INTER_CUBIC)))
    data = _stored(smooth, "JPEG", progressive=progressive, subsampling=subsampling, quality=90)
    assert data.endswith(b"\xff\xd9")
    whole = read_photograph(data).pixels
    for cut in (1, 2):
        assert np.array_equal(read_photograph(data[:-cut]).pixels, whole)
    assert np.array_equal(read_photograph(data + bytes(100)).pixels, whole)
    for cut in (3, 4, 6, 20, 200, len(data) // 2):
        with pytest.raises(ImageError, match="damaged"):
            read_photograph(data[:-cut])


def test_a_jpeg_that_lacks_a_whole_scan_is_cut_short() -> None:
    data = _stored(PIL.Image.fromarray(_picture(side=96)), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for at in scans[1:]:
        # before it there may be tables for it
        table = data.rfind(b"\xff\xc4", 0, at)
        end = table if data[table + 2 + int.from_bytes(data[table + 2 : table + 4]) :][:2] == b"\xff\xda" else at
        with pytest.raises(ImageError, match="damaged"):
            read_photograph(data[:end])


def test_the_command_says_which_pages_it_restored(
    tmp_path: Path,
    checkpoints: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.tif").write_bytes(_pages("TIFF"))
    model = str(checkpoints["restoration"].path)  # type: ignore[attr-defined]
    command = ["restore", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model, "--device", "cpu", "--aligned"]
    assert main(command) == 0
    assert "first of 3 pages" in capsys.readouterr().err
    assert main([*command, "--pages", "all"]) == 1
    assert "3 pages, where png has room for one" in capsys.readouterr().err
    assert main([*command, "--pages", "all", "--format", "tiff"]) == 0
    assert capsys.readouterr().err == ""
    (written,) = [path for path in (tmp_path / "out").iterdir() if path.suffix in (".tif", ".tiff")]
    assert read_photograph(written).page_count == 3
