"""What `daefr measure` measures and how many images at once, apart from the libraries that measuring loads."""

from daefr.settings.metrics import MetricName

WITH_TARGETS: tuple[MetricName, ...] = ("psnr", "ssim", "niqe")
WITHOUT_TARGETS: tuple[MetricName, ...] = ("niqe",)
# a CPU is fastest when an image's arrays stay in its cache
BATCH_ON_GPU, BATCH_ON_CPU = 16, 1
