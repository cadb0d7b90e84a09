"""Images from outside: what cannot be used ends as one sentence, and never as a crash, a hang or a stray file."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from daefr.__main__ import main
from daefr.checkpoint import Checkpoint
from daefr.faces.detector import Detector
from daefr.images import Image, encode_png
from daefr.outputs import RECORD
from daefr.restore import ImageError, read_photograph
from daefr.settings.base import StageName
from tests.daefr import tiny
from tests.daefr.photographs import Told, photograph

COUNT = 200


def _image(side: int = 48) -> Image:
    return tiny.face(np.random.default_rng(0), side)


def _stored(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _picture() -> PIL.Image.Image:
    return PIL.Image.fromarray(_image())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes, side: int = 48, depth: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(chunks) + _chunk(b"IEND", b"")


def _pixels(side: int = 48, width: int = 3) -> bytes:
    return _chunk(b"IDAT", zlib.compress(bytes(side * (1 + width * side))))


def _frames(kind: str) -> bytes:
    others = [PIL.Image.fromarray(255 - _image()), _picture()]
    return _stored(_picture(), kind, save_all=True, append_images=others)


def _twelve_bits() -> bytes:
    data = _stored(PIL.Image.fromarray(np.zeros((8, 8), np.uint16)), "TIFF")
    return data.replace(struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))


REFUSED = {
    "a bomb": (_png(_pixels(), side=60_000), "too many pixels"),
    "a larger bomb": (_png(_pixels(), side=2_000_000), "too many pixels"),
    "cut short": (_stored(_picture(), "JPEG")[:-200], "damaged"),
    "an empty file": (b"", "not a readable"),
    "text": (b"hello", "not a readable"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "not a readable"),
    "32 bits": (_stored(PIL.Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), "32 bits a channel"),
    "12 bits": (_twelve_bits(), "12 bits a channel"),
    "a hundred thousand frames": (_stored(_picture(), "GIF") + b"\0," * 100_000, "more than 10000 frames"),
    "a text that unpacks to 100 MB": (
        _png(_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))), _pixels()),
        "damaged",
    ),
    "100 MB of text": (_png(*[_chunk(b"tEXt", b"a\0" + bytes(900_000))] * 110, _pixels()), "damaged"),
    "a huge profile": (_stored(_picture(), "JPEG", icc_profile=bytes(6_000_000)), "a colour profile of 6000000 bytes"),
    "a thousand scans": (_stored(_picture(), "JPEG", progressive=True) + b"\xff\xda" * 1000, "more than 200 scans"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        read_photograph(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_unusual_is_read() -> None:
    plain = read_photograph(_stored(_picture()))
    assert np.array_equal(plain.pixels, _image())
    with_text = _stored(_picture()).replace(b"IDAT", b"IDAT", 1)
    at = with_text.index(b"IDAT") - 4
    with_text = with_text[:at] + _chunk(b"tEXt", b"a\0" + bytes(900_000)) + with_text[at:]
    assert np.array_equal(read_photograph(with_text).pixels, _image())
    two_eyes = _stored(
        _picture(), "MPO", save_all=True, append_images=[PIL.Image.fromarray(255 - _image())], quality=95
    )
    assert np.abs(read_photograph(two_eyes).pixels.astype(int) - _image()).mean() < 5
    palette = _picture().quantize(16)
    assert np.array_equal(read_photograph(_stored(palette)).pixels, np.asarray(palette.convert("RGB")))
    see_through = read_photograph(_stored(palette, transparency=3))
    assert see_through.alpha is not None
    assert set(np.unique(see_through.alpha)) == {0, 255}
    black = read_photograph(_stored(_picture().convert("1")))
    assert black.one_channel
    assert set(np.unique(black.pixels)) == {0, 255}
    assert np.array_equal(
        read_photograph(_stored(_picture(), exif=b"Exif\0\0" + bytes(range(256)) * 20)).pixels, _image()
    )


# --- the command, over a folder of them


@pytest.fixture(scope="module")
def model(checkpoints: dict[StageName, Checkpoint]) -> Path:
    return checkpoints["restoration"].path


def _mutants(count: int) -> dict[str, bytes]:
    """Damaged and hostile files, the same each time, with names that are no better."""
    rng = np.random.default_rng(7)
    rich = _picture().convert("RGBA")
    kinds = {
        "png": [_stored(rich, icc_profile=bytes(500)), _frames("PNG")],
        "jpg": [
            _stored(_picture(), "JPEG", exif=b"Exif\0\0II*\0" + bytes(90)),
            _stored(_picture(), "JPEG", progressive=True),
        ],
        "webp": [_stored(rich, "WEBP"), _frames("WEBP")],
        "tif": [_stored(_picture(), "TIFF", compression="tiff_lzw"), _frames("TIFF")],
        "bmp": [_stored(_picture(), "BMP")],
    }
    names = [
        "a\nb{}",
        "\x1b[31m{}",
        "-rf {}",
        "…{}",
        "%2e%2e%2f{}",
        "\\..\\{}",
        "$(touch {})",
        "x" * 240 + "{}",
    ]
    files: dict[str, bytes] = {}
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        data = bytearray(kinds[kind][int(rng.integers(len(kinds[kind])))])
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(data)))
            # most of what a reader trusts is in the first bytes
            place = place if rng.random() < 0.5 else place % 80
            match int(rng.integers(5)):
                case 0:
                    data[place] ^= 1 << int(rng.integers(8))
                case 1:
                    data[place] = 255
                case 2:
                    data[place : place + 4] = b"\xff\xff\xff\x7f"
                case 3 if len(data) > 200:
                    del data[place : place + int(rng.integers(1, 60))]
                case _:
                    data[place:place] = rng.bytes(int(rng.integers(1, 60)))
        suffix = kind if rng.random() < 0.8 else list(kinds)[int(rng.integers(len(kinds)))]
        form = names[number // 4 % len(names)] if number % 4 == 0 else "{}"
        files[form.format(f"{number:03d}.{suffix}")] = bytes(data)
    return files


@pytest.mark.parametrize("options", [["--aligned"], []])
def test_of_200_damaged_and_hostile_files_every_one_is_accounted_for(
    options: list[str],
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_: Told([photograph()[1]]))
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    files = _mutants(COUNT)
    assert len(files) == COUNT
    for name, data in files.items():
        (source / name).write_bytes(data)
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    command = ["restore", str(source), str(out), "--model", str(model), "--device", "cpu", *options]
    assert main(command) == 1
    captured = capsys.readouterr()
    counts = [int(part.split()[0]) for part in captured.out.split(", ")]
    assert sum(counts) == COUNT
    restored, failed = counts[0], counts[3]
    assert restored > 10
    assert failed > 50
    lines = captured.err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.startswith("failed: ")]) == failed
    others = [line for line in lines if not re.match(r"failed: |\d+ faces?: ", line)]
    assert others
    assert all(line.startswith("first of ") for line in others)
    assert {path for path in tmp_path.rglob("*") if path != out and out not in path.parents} == before
    written = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(written) == restored
    for path in written:
        read_photograph(path)
    assert {path.name for path in out.rglob(".*")} == {RECORD}
    assert main(command) == 1
    assert capsys.readouterr().out.startswith(f"0 restored, 0 without a face, {restored} skipped, {failed} failed")


def test_names_that_are_no_text_or_too_long_stop_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    long = "y" * 255
    for name in (b"\xff\xfe.png", b"good.png", long.encode()):
        Path(os.fsdecode(os.path.join(os.fsencode(source), name))).write_bytes(encode_png(_image()))  # noqa: PTH118
    (source / "link.png").symlink_to("/dev/zero")
    command = ["restore", str(source), str(out), "--model", str(model), "--device", "cpu", "--aligned"]
    assert main(command) == 1
    out_text, err = capsys.readouterr()
    assert out_text == "2 restored, 0 without a face, 0 skipped, 1 failed, 1 other file passed over\n"
    assert "its result cannot be written: File name too long" in err
    assert main(command) == 1
    assert capsys.readouterr().out == "0 restored, 0 without a face, 2 skipped, 1 failed, 1 other file passed over\n"
