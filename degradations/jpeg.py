"""JPEG: the file that the face was kept in; and reading files. BGR order stays inside this module."""

from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import AfterValidator

from degradations.errors import DegradationError
from degradations.images import FloatImage, Uint8Image, to_float, to_uint8
from degradations.step import Params, Range, RecipeStep


def _one_to_hundred(quality: tuple[float, float]) -> tuple[float, float]:
    if quality[0] < 1 or quality[1] > 100:
        raise ValueError(f"JPEG qualities lie in 1 to 100, got {quality}")
    return quality


Quality = Annotated[Range, AfterValidator(_one_to_hundred)]


class JpegStep(RecipeStep):
    """Range of the JPEG quality."""

    op: Literal["jpeg"] = "jpeg"
    quality: Quality

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws quality, uniform, then truncated to an integer."""
        return {"quality": int(rng.uniform(*self.quality))}


def encode_jpeg(image: Uint8Image, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB to the bytes of a JPEG file."""
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DegradationError(f"An image of shape {image.shape} could not be encoded as JPEG.")
    return encoded.tobytes()


def encode_png(image: Uint8Image) -> bytes:
    """(H, W, 3) uint8 RGB to the bytes of a PNG file, without loss."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def decode_image(data: bytes) -> Uint8Image:
    """Bytes of an image file (JPEG, PNG, WebP) to (H, W, 3) uint8 RGB."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if buffer.size else None
    if bgr is None:
        raise DegradationError(f"These {len(data)} bytes are not an image that OpenCV can decode.")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def compress(image: FloatImage, quality: int) -> FloatImage:
    """(H, W, 3) float32 to the same, as it comes back from a JPEG file."""
    return to_float(decode_image(encode_jpeg(to_uint8(image), quality)))
