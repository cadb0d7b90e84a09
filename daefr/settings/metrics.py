"""The names of the metrics, and the protocols under which they are computed."""

from typing import Literal, get_args

MetricName = Literal["psnr", "ssim", "lpips", "fid", "niqe", "ida", "lmd"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
Protocol = Literal["paper", "standard"]
"""As published, quirks included, or corrected."""
