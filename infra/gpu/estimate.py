"""Estimates the cost of a recipe on GPUs: hours per stage, from FLOPs and an assumed rate, and checkpoint sizes.

    python -m infra.gpu.estimate [--config pipelines/configs/ffhq512.yaml] [--gpus 8] [--matrix-rate 989e12]
        [--share STAGE=0.4 ...] [--operations FILE]

FLOPs are counted on fake tensors, which need no GPU and little memory. `--operations` caches the counts in a file.

The fraction of the matrix rate that training reaches is assumed until `python -m daefr gpu-check` has measured it.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from daefr.errors import UserError
from daefr.profiling import Case, CaseName
from daefr.settings.base import StageName
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from pipelines.config import RunConfig, load_config

RECIPE = Path(__file__).resolve().parents[2] / "pipelines/configs/ffhq512.yaml"
FFHQ = 70_000
H100 = 989e12
"""FLOP/s of an H100 SXM for dense bfloat16 matrices, from its data sheet."""
SHARE = 0.4
"""NOT MEASURED: the fraction of that rate that training reaches. Replace it with the results of `gpu-check`."""
CASE: dict[StageName, CaseName] = {
    "hq_codebook": "hq_codebook",
    "lq_codebook": "hq_codebook",  # the same network on other images
    "association": "association",
    "restoration": "restoration",
}
BYTES_PER_FLOAT = 4
ADAM_MOMENTS = 2


@dataclass(frozen=True)
class Cost:
    """The cost of a training step of a stage."""

    flops: int
    """FLOPs of convolutions and matrix products per sample, forward and backward."""
    weights: int
    """Number of weights."""
    trained: int
    """Number of trainable weights."""

    @property
    def checkpoint_bytes(self) -> int:
        """The size of an intermediate checkpoint: weights and the optimizers' moments."""
        return BYTES_PER_FLOAT * (self.weights + ADAM_MOMENTS * self.trained)


def main() -> int:
    """Print the table of a recipe."""
    options = _options()
    try:
        config = load_config(options.config, options.overrides)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    shares = dict.fromkeys(CASE, SHARE) | {stage: float(share) for stage, _, share in map(_split, options.share)}
    costs = _costs(config, options.operations)
    samples = options.faces - config.data.num_validation
    lines = [
        "| stage | TFLOP per sample | steps | samples/s per GPU | hours | checkpoint | exchanged per step |",
        "|" + " --- |" * 7,
    ]
    total = 0.0
    for stage, cost in costs.items():
        training = config.stages.of(stage).in_steps(samples)
        rate = shares[stage] * options.matrix_rate / cost.flops
        hours = training.last_step * training.global_batch_size / (rate * options.gpus) / 3600
        total += hours
        lines.append(
            f"| `{stage}` | {cost.flops / 1e12:.2f} | {training.last_step:,} | {rate:.0f} | {hours:.1f} "
            f"| {cost.checkpoint_bytes / 1e9:.2f} GB | {BYTES_PER_FLOAT * cost.trained / 1e9:.2f} GB |"
        )
    lines.append(f"| all | | | | {total:.1f} | | |")
    fractions = ", ".join(f"{stage} {share:g}" for stage, share in shares.items())
    lines += ["", f"{options.gpus} GPUs of {options.matrix_rate / 1e12:g} TFLOP/s; fraction of it: {fractions}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--faces", type=int, default=FFHQ, help="images of the dataset (default %(default)s)")
    parser.add_argument("--matrix-rate", type=float, default=H100, help="FLOP/s of one GPU (default %(default)s)")
    parser.add_argument(
        "--share", action="append", default=[], metavar="STAGE=X", help=f"measured fraction of it (default {SHARE:g})"
    )
    parser.add_argument("--operations", type=Path, metavar="FILE", help="JSON file of counts, written if missing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser.parse_args()


def _split(share: str) -> tuple[StageName, str, str]:
    stage, separator, value = share.partition("=")
    for name in get_args(StageName):
        if stage == name:
            return name, separator, value
    raise SystemExit(f"error: --share {share} is not STAGE=X with a stage of {', '.join(CASE)}")


def _costs(config: RunConfig, file: Path | None) -> dict[StageName, Cost]:
    if file is not None and file.is_file():
        return {stage: Cost(**cost) for stage, cost in json.loads(file.read_text()).items()}
    counted: dict[CaseName, Cost] = {}
    for name in dict.fromkeys(CASE.values()):
        sys.stderr.write(f"counting the FLOPs of {name}\n")
        counted[name] = _count(Case(name, config.network, batch=1))
    costs = {stage: counted[name] for stage, name in CASE.items()}
    if file is not None:
        file.write_text(json.dumps({stage: asdict(cost) for stage, cost in costs.items()}, indent=2) + "\n")
    return costs


def _count(case: Case) -> Cost:
    stage, training = case.build()
    state = TrainingState(stage.train(), training)
    weights = sum(tensor.numel() for tensor in stage.weights().values())
    trained = sum(
        parameter.numel()
        for optimizer in state.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    # without the optimizer step, which has no matrix products
    side = case.network.autoencoder.resolution
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        images = {name: torch.empty(case.batch, 3, side, side) for name in ("hq", "lq")}
        Optimization(state, torch.device("cpu")).compute_gradients([images])
    return Cost(int(counter.get_total_flops()) // case.batch, weights, trained)


if __name__ == "__main__":
    sys.exit(main())
