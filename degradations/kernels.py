"""Blur kernels, as arithmetic on numpy arrays: (ksize, ksize) weights that sum to 1, rows are y.

Sources: the rotated bivariate Gaussian is the degradation model of blind face restoration (GFP-GAN, CodeFormer,
DAEFR). Real-ESRGAN (arXiv 2107.10833, section 3.2) adds its generalized and plateau-shaped relatives, whose exponent
beta applies to the same quadratic form, and the 2-D sinc filter, which rings at edges.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

REFERENCE_SIDE = 512  # recipes state sigmas and kernel sides for images of this side
Weights = NDArray[np.float64]


def gaussian_2d(ksize: int, sigma_x: float, sigma_y: float, theta: float) -> Weights:
    """A normal density.

    `sigma_x`, `sigma_y`: pixels, above 0, along the kernel's own axes. `theta`: radians, from the image's x axis (to
    the right) towards its y axis (downwards). The centre weighs exp(0) = 1 before normalization, so that a sigma far
    below a pixel gives the identity and never a division by zero.
    """
    return _normalized(np.exp(-0.5 * _distance(ksize, sigma_x, sigma_y, theta)))


def generalized_2d(ksize: int, sigma_x: float, sigma_y: float, theta: float, beta: float) -> Weights:
    """A generalized normal density, exp(-d^beta / 2): peaked below beta 1, flat-topped above."""
    return _normalized(np.exp(-0.5 * _distance(ksize, sigma_x, sigma_y, theta) ** beta))


def plateau_2d(ksize: int, sigma_x: float, sigma_y: float, theta: float, beta: float) -> Weights:
    """A plateau with long tails, 1 / (1 + d^beta)."""
    return _normalized(1 / (1 + _distance(ksize, sigma_x, sigma_y, theta) ** beta))


def sinc_2d(ksize: int, cutoff: float) -> Weights:
    """The circular low-pass filter, cut off at `cutoff` radians a pixel (above 0, at most pi): c J1(c r) / (2 pi r)."""
    x, y = _offsets(ksize)
    radius = np.hypot(x, y)
    radius[ksize // 2, ksize // 2] = 1  # any number: the limit replaces the quotient there
    weights = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    weights[ksize // 2, ksize // 2] = cutoff**2 / (4 * np.pi)
    return _normalized(weights)


def motion_2d(length: float, angle: float) -> Weights:
    """A straight streak of `length` pixels with soft edges; `angle` in radians, from x towards y."""
    x, y = _offsets(2 * int(np.ceil(length / 2)) + 1)
    along = np.abs(np.cos(angle) * x + np.sin(angle) * y)
    across = np.abs(np.cos(angle) * y - np.sin(angle) * x)
    return _normalized(np.clip(1 - across, 0, 1) * np.clip((length + 1) / 2 - along, 0, 1))


def scaled_ksize(ksize: int, scale: float) -> int:
    """The odd kernel side that covers, at `scale` times the size, what `ksize` covers; 1 is no blur at all."""
    return 2 * round(ksize // 2 * scale) + 1


def _offsets(ksize: int) -> tuple[Weights, Weights]:
    """(1, ksize) offsets in x and (ksize, 1) in y from the centre, in pixels."""
    offsets = np.arange(ksize, dtype=np.float64) - ksize // 2
    return offsets[None, :], offsets[:, None]


def _distance(ksize: int, sigma_x: float, sigma_y: float, theta: float) -> Weights:
    """(ksize, ksize) squared distances from the centre, in sigmas."""
    x, y = _offsets(ksize)
    along = (np.cos(theta) * x + np.sin(theta) * y) / sigma_x
    across = (np.cos(theta) * y - np.sin(theta) * x) / sigma_y
    squared: Weights = along**2 + across**2
    return squared


def _normalized(weights: Weights) -> Weights:
    normalized: Weights = weights / weights.sum()
    return normalized
