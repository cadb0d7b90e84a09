"""Bivariate Gaussian blur kernels, as arithmetic on numpy arrays.

Source: the degradation model of blind face restoration (GFP-GAN, CodeFormer, DAEFR): a normal density with axes
sigma_x, sigma_y, rotated by theta, sampled at integer offsets and normalized to sum 1.
"""

import numpy as np
from numpy.typing import NDArray

REFERENCE_SIDE = 512  # recipes state sigmas and kernel sides for images of this side


def gaussian_1d(ksize: int, sigma: float) -> NDArray[np.float64]:
    """(ksize,) weights that sum to 1; the outer product with itself is the isotropic kernel."""
    offsets = np.arange(ksize, dtype=np.float64) - ksize // 2
    weights: NDArray[np.float64] = np.exp(-0.5 * (offsets / sigma) ** 2)
    normalized: NDArray[np.float64] = weights / weights.sum()
    return normalized


def gaussian_2d(ksize: int, sigma_x: float, sigma_y: float, theta: float) -> NDArray[np.float64]:
    """(ksize, ksize) weights that sum to 1, rows are y.

    `sigma_x`, `sigma_y`: pixels, above 0, along the kernel's own axes. `theta`: radians, from the image's x axis (to
    the right) towards its y axis (downwards). The centre weighs exp(0) = 1 before normalization, so that a sigma far
    below a pixel gives the identity and never a division by zero.
    """
    offsets = np.arange(ksize, dtype=np.float64) - ksize // 2
    x, y = offsets[None, :], offsets[:, None]
    along = (np.cos(theta) * x + np.sin(theta) * y) / sigma_x
    across = (np.cos(theta) * y - np.sin(theta) * x) / sigma_y
    weights: NDArray[np.float64] = np.exp(-0.5 * (along**2 + across**2))
    normalized: NDArray[np.float64] = weights / weights.sum()
    return normalized


def scaled_ksize(ksize: int, scale: float) -> int:
    """The odd kernel side that covers, at `scale` times the size, what `ksize` covers; 1 is no blur at all."""
    return 2 * round(ksize // 2 * scale) + 1
