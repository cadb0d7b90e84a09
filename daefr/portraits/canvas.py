"""A float canvas in face coordinates, and the few drawing primitives that the portraits need.

Face coordinates are those of an upright frontal face whose five points sit on the template of an aligned
512x512 crop: x grows to the right, y downwards, one unit is one pixel of that crop. The canvas reaches
`MARGIN` units beyond the crop, so that a turned head still finds hair and shoulders to show.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]

CROP = 512
MARGIN = 64
EXTENT = CROP + 2 * MARGIN

_SUBPIXEL_BITS = 4


def floats(values: ArrayLike) -> Floats:
    """`values` as float32: without this a list in an expression turns all of it into float64."""
    return np.asarray(values, np.float32)


def smooth_curve(points: Floats, closed: bool, steps: int = 8) -> Floats:
    """Catmull-Rom curve through float32 (n, 2) points, as float32 (m, 2) with `steps` points a segment."""
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate([before, points, after])
    a, b, c, d = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return (curve if closed else np.concatenate([curve, points[-1:]])).astype(np.float32)


def mirrored(half: list[tuple[float, float]], centre: float = CROP / 2) -> Floats:
    """Closed outline from its right half, given as (offset from the centre line, y) from top to bottom."""
    right = np.array(half, np.float32)
    left = right[::-1] * floats([-1, 1])
    return np.concatenate([right, left]) + floats([centre, 0])


def ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Floats:
    """Ellipse as a float32 (40, 2) polygon; `angle` in radians, clockwise on screen."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = radii[0] * np.cos(t), radii[1] * np.sin(t)
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return floats(turned + np.array(centre))


def _blurred(mask: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Gaussian blur of a uint8 (h, w) mask by `sigma` pixels; a wide one at reduced size."""
    height, width = mask.shape
    shrink = max(1, min(int(sigma / 1.5), height // 4, width // 4))
    if shrink == 1:
        return cv2.GaussianBlur(mask, (0, 0), sigma).astype(np.uint8, copy=False)
    small = cv2.resize(mask, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(soft, (width, height)).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Stencil:
    """A mask over a rectangle of the canvas: `alpha` float32 (h, w) in [0, 1], at rows and columns `window`."""

    window: tuple[slice, slice]
    alpha: Floats

    def within(self, other: "Stencil") -> "Stencil":
        """The mask where `other`, which may lie elsewhere, lets it through."""
        (rows, columns), (other_rows, other_columns) = self.window, other.window
        top, bottom = max(rows.start, other_rows.start), min(rows.stop, other_rows.stop)
        left, right = max(columns.start, other_columns.start), min(columns.stop, other_columns.stop)
        bottom, right = max(bottom, top), max(right, left)
        mine = self.alpha[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
        theirs = other.alpha[
            top - other_rows.start : bottom - other_rows.start, left - other_columns.start : right - other_columns.start
        ]
        return Stencil((slice(top, bottom), slice(left, right)), mine * theirs)

    def scaled(self, factor: float) -> "Stencil":
        """The same mask, `factor` times as strong."""
        return Stencil(self.window, self.alpha * np.float32(factor))


@dataclass
class Canvas:
    """The person, without the background: `image` float32 RGB (n, n, 3) and `cover` float32 (n, n), both in [0, 1].

    `scale` is the number of canvas pixels a face unit. Colours are display values, not linear light.
    Painting starts from black, so at the person's edge `image` is the colour already multiplied by `cover`.
    """

    scale: float
    image: Floats = field(init=False)
    cover: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.size = round(EXTENT * self.scale)
        self.image = np.zeros((self.size, self.size, 3), np.float32)
        self.cover = np.zeros((self.size, self.size), np.float32)

    def coordinates(self, window: tuple[slice, slice]) -> tuple[Floats, Floats]:
        """Face x as float32 (1, w) and face y as float32 (h, 1) of the pixel centres in `window`."""
        rows = (np.arange(window[0].start, window[0].stop, dtype=np.float32) + 0.5) / self.scale - MARGIN
        columns = (np.arange(window[1].start, window[1].stop, dtype=np.float32) + 0.5) / self.scale - MARGIN
        return floats(columns[None, :]), floats(rows[:, None])

    def _to_fixed_point(self, points: Floats, window: tuple[slice, slice]) -> NDArray[np.int32]:
        """Face points to OpenCV's fixed-point pixels, whose integers are pixel centres, inside `window`."""
        origin = floats([window[1].start + 0.5, window[0].start + 0.5])
        pixels = (points + MARGIN) * self.scale - origin
        return np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def _window(self, points: Floats, reach: float) -> tuple[slice, slice]:
        low = np.floor((points.min(axis=0) - reach + MARGIN) * self.scale).astype(int) - 2
        high = np.ceil((points.max(axis=0) + reach + MARGIN) * self.scale).astype(int) + 3
        left, top = np.clip(low, 0, self.size)
        right, bottom = np.clip(high, 0, self.size)
        return slice(int(top), int(max(bottom, top + 1))), slice(int(left), int(max(right, left + 1)))

    def _finish(self, drawn: NDArray[np.uint8], window: tuple[slice, slice], blur: float) -> Stencil:
        if blur > 0:
            drawn = _blurred(drawn, blur * self.scale)
        return Stencil(window, drawn.astype(np.float32) / np.float32(255))

    def filled(self, outline: Floats, blur: float = 0.0) -> Stencil:
        """The inside of a float32 (n, 2) outline; `blur` is the sigma of its soft edge, in face units."""
        window = self._window(outline, 3 * blur)
        drawn = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
        cv2.fillPoly(drawn, [self._to_fixed_point(outline, window)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._finish(drawn, window, blur)

    def stroked(self, lines: list[Floats], width: float, blur: float = 0.0) -> Stencil:
        """Open polylines, each float32 (n, 2), of one `width` in face units.

        A line thinner than a pixel is drawn one pixel wide and proportionally fainter.
        """
        window = self._window(np.concatenate(lines), width + 3 * blur)
        drawn = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
        ends = np.cumsum([len(line) for line in lines])
        together = self._to_fixed_point(np.concatenate(lines), window)
        fixed = [together[end - len(line) : end] for line, end in zip(lines, ends, strict=True)]
        pixels = width * self.scale
        strength = 255 * min(1.0, pixels)
        cv2.polylines(drawn, fixed, False, strength, max(1, round(pixels)), cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._finish(drawn, window, blur)

    def paint(self, stencil: Stencil, colour: Colour | Floats) -> None:
        """Lay `colour`, one RGB or float32 (h, w, 3), over what is there; the person now covers that place."""
        self.tint(stencil, colour)
        cover = self.cover[stencil.window]
        cover += (1 - cover) * stencil.alpha

    def tint(self, stencil: Stencil, colour: Colour | Floats) -> None:
        """Like `paint`, for a mark on the person: it does not extend what the person covers, so keep it inside that."""
        image = self.image[stencil.window]
        image += (np.asarray(colour, np.float32) - image) * stencil.alpha[..., None]

    def darken(self, stencil: Stencil, strength: Colour) -> None:
        """Multiply by 1 - strength x mask in each channel; a negative strength brightens."""
        self.image[stencil.window] *= 1 - stencil.alpha[..., None] * floats(strength)


def noise(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """Smooth noise of unit deviation at `cells`, as float32 (size, size); the same pattern for every size."""
    grid = rng.standard_normal((cells, cells), np.float32)
    method = cv2.INTER_AREA if size < cells else cv2.INTER_CUBIC
    return cv2.resize(grid, (size, size), interpolation=method).astype(np.float32, copy=False)
