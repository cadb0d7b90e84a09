"""Run a synthesis of so many sources whose shards nobody makes, and print what its driver took, as JSON.

    python tests/pipelines/synthesize/simulated_plan.py SOURCES WORKDIR

Everything is real but the tasks: listing, planning, Ray, receipts, metrics and manifests.
"""

import json
import sys
import time
from pathlib import Path

START = time.time()
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from daefr.data.manifest import Shard  # noqa: E402
from daefr.faces.rejection import Rejection  # noqa: E402
from pipelines.commands import main as run_pipelines  # noqa: E402
from pipelines.storage.listing import ListingDigest  # noqa: E402
from pipelines.synthesize import step as synthesize  # noqa: E402
from pipelines.synthesize.shards import Receipt, ShardTask  # noqa: E402


def pretend(task: ShardTask) -> Receipt:
    """Return the receipt of a shard with one sample for every source but the last, which is rejected."""
    started = task.path.parent / "started"
    if not started.exists():
        started.write_text(str(time.time()))
    samples = len(task.sources) - 1
    shard = Shard(name=task.path.name, bytes=400_000 * samples, sha256=f"{task.first:064x}", samples=samples)
    rejected = [Rejection(source=task.sources[-1].name, reason="too small: 300 pixels, where 512 are wanted")]
    return Receipt(sources=ListingDigest.of(task.sources), shard=shard, rejected=rejected, fruitless=1)


def peak_mb() -> float:
    """Return the most memory that this program had; getrusage would count that of who started it too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main(sources: int, workdir: Path) -> int:
    """Run it and print the figures."""
    synthesize.make_shard = pretend
    overrides = [
        f"workdir={workdir}",
        f"data.num_portraits={sources}",
        "data.samples_per_shard=1000",
        "compute.max_in_flight=8",
    ]
    code = run_pipelines(["synthesize", *overrides])
    (started,) = workdir.glob("steps/*/dataset/started")
    figures = {
        "sources": sources,
        "driver_peak_mb": round(peak_mb()),
        "first_task_after_s": round(float(started.read_text()) - START, 1),
        "seconds": round(time.time() - START, 1),
        "pytorch": "torch" in sys.modules,
    }
    print(json.dumps(figures))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
