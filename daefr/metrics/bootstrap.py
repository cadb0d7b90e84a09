"""How sure a difference of two models is: the paired bootstrap over the images that both have (Efron 1979)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from daefr.errors import UserError

RESAMPLES = 10_000
# values of all resamples that are held at once: 32 MB
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A difference of means over `images` images, and the interval that holds the true one with `confidence`.

    One image says nothing of others: its interval is without end on both sides.
    """

    difference: float
    low: float
    high: float
    confidence: float
    images: int


def mean_difference(
    candidate: ArrayLike, champion: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return mean(candidate) - mean(champion), (N,) each and of the same images, with its percentile interval.

    Images are drawn with replacement, both models' figures of one together: what makes an image hard is hard for both.
    Those for which either figure is not finite are left out. Equal arguments give equal results. Raises `UserError`
    when no image is left.
    """
    one, other = np.asarray(candidate, np.float64), np.asarray(champion, np.float64)
    both = np.isfinite(one) & np.isfinite(other)
    differences: NDArray[np.float64] = one[both] - other[both]
    count = len(differences)
    if not count:
        raise UserError("there is no image of which both have the figure")
    mean = float(differences.mean())
    if count == 1:
        return Interval(mean, -np.inf, np.inf, confidence, 1)
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // count),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), confidence, count)
