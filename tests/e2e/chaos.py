"""A run of the four stages while workers, drivers and nodes are killed at random, beside one that is left in peace.

    python -m tests.e2e.chaos [--seconds 60 120] [--kills 10] [KEY=VALUE ...]

Ends with 0 when the run completed, had at least that many kills, and its weights equal those of the other, bit by bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daefr.checkpoint import MODEL
from daefr.files import file_digest
from tests.e2e.command import ROOT, command, environment
from tests.e2e.nodes import Nodes, start_cluster, training_processes

CONFIG = Path(__file__).with_name("chaos.yaml")
STAGES = ("hq_codebook", "lq_codebook", "association", "restoration")
NODES = 2
LONGEST = 3 * 3600.0


@dataclass
class Kill:
    """One kill, and how long it took until the training was further than before it."""

    after: float
    what: str
    stage: str
    reached: int
    recovered: float | None = None


@dataclass
class Disturbed:
    """A run that is disturbed: its cluster, its driver, and what was done to it."""

    nodes: Nodes
    workdir: Path
    overrides: Sequence[str]
    random: random.Random
    start: float = field(default_factory=time.monotonic)
    driver: subprocess.Popen[bytes] = field(init=False)
    kills: list[Kill] = field(default_factory=list)
    drivers: int = 0

    def __post_init__(self) -> None:
        """Start the nodes and the driver."""
        for _ in range(NODES):
            self.nodes.add(cpus=1)
        self.start_driver()

    def start_driver(self) -> None:
        """Run the one command again, as whoever watches would."""
        self.drivers += 1
        variables = environment() | dict(self.nodes.variables) | {"RAY_ADDRESS": self.nodes.address}
        with (self.workdir / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                command("full", self.workdir, CONFIG, tuple(self.overrides)), cwd=ROOT, env=variables,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def seconds(self) -> float:
        """Return how long the run has taken."""
        return time.monotonic() - self.start

    def run(self, between: tuple[float, float]) -> bool:
        """Kill something every so many seconds until the run has completed; tell whether it has."""
        next_kill = self.seconds() + self.random.uniform(*between)
        while self.seconds() < LONGEST:
            code = self.driver.poll()
            if code == 0:
                return True
            if code is not None:
                say(f"{self.seconds():6.0f} s  the driver ended with {code}, and is started again")
                self.start_driver()
            # before it is further than at the last kill there is none, or a slow machine would never get anywhere
            if (
                self._has_recovered()
                and self.seconds() > next_kill
                and self._kill(self.random.choice(["worker", "driver", "node"]))
            ):
                next_kill = self.seconds() + self.random.uniform(*between)
            time.sleep(1)
        return False

    def _kill(self, what: str) -> bool:
        after, (stage, reached) = self.seconds(), progress(self.workdir)
        if what == "worker":
            workers = [process for node in self.nodes.workers for process in training_processes(node.process.pid)]
            if not workers:
                return False
            os.kill(self.random.choice(workers), signal.SIGKILL)
        elif what == "driver":
            self.driver.kill()
            self.driver.wait()
            self.start_driver()
        else:
            node = self.random.choice(self.nodes.workers)
            self.nodes.workers.remove(node)
            node.kill()
            self.nodes.add(cpus=1)
        self.kills.append(Kill(after, what, stage, reached))
        say(f"{after:6.0f} s  kill {len(self.kills)}: {what}, in {stage} after step {reached}")
        return True

    def _has_recovered(self) -> bool:
        if self.kills and self.kills[-1].recovered is None:
            last = self.kills[-1]
            stage, reached = progress(self.workdir)
            if stage != last.stage or reached > last.reached:
                last.recovered = self.seconds() - last.after
        return not self.kills or self.kills[-1].recovered is not None


def main() -> int:
    """Run both, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs=2, default=(60, 120), help="between two kills, at random")
    parser.add_argument("--kills", type=int, default=10, help="how many there must be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    workdir = Path(tempfile.mkdtemp(prefix="chaos-"))
    start = time.monotonic()
    peaceful = subprocess.run(
        command("full", workdir / "peaceful", CONFIG, tuple(options.overrides)), cwd=ROOT, env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    alone = time.monotonic() - start
    if peaceful.returncode:
        say(peaceful.stderr)
        return 1
    say(f"undisturbed: {alone:.0f} s")
    with start_cluster(cpus=0) as nodes:
        (workdir / "disturbed").mkdir()
        run = Disturbed(nodes, workdir / "disturbed", options.overrides, random.Random(options.seed))
        completed = run.run(tuple(options.seconds))
        if run.driver.poll() is None:
            run.driver.kill()
    wanted, found = digests(workdir / "peaceful"), digests(workdir / "disturbed")
    say(f"{'completed' if completed else 'DID NOT COMPLETE'} after {run.seconds():.0f} s, {len(run.kills)} kills")
    recovered = [kill.recovered for kill in run.kills if kill.recovered is not None]
    if recovered:
        say(f"until a later checkpoint: {min(recovered):.0f} to {max(recovered):.0f} s a kill, ", end="")
        say(f"{sum(recovered) / len(recovered):.0f} on average")
    say(f"time lost: {run.seconds() - alone:.0f} s, {(run.seconds() - alone) / max(1, len(run.kills)):.0f} a kill")
    say(
        f"drivers: {run.drivers}; kills: "
        + json.dumps({what: _count(run, what) for what in ("worker", "driver", "node")})
    )
    for stage in STAGES:
        same = "equal" if wanted.get(stage) == found.get(stage) else "DIFFERENT"
        say(f"{stage:>12}  {wanted.get(stage, '')[:16]}  {found.get(stage, '')[:16]}  {same}")
    if not completed or wanted != found or len(wanted) < len(STAGES):
        say(f"left for a look: {workdir}")
        return 1
    shutil.rmtree(workdir)
    if len(run.kills) < options.kills:
        say(f"only {len(run.kills)} of {options.kills} kills: give the stages more steps")
        return 1
    return 0


def _count(run: Disturbed, what: str) -> int:
    return sum(kill.what == what for kill in run.kills)


def progress(workdir: Path) -> tuple[str, int]:
    """Return the stage whose checkpoint is the newest, and its step."""
    found = [(path.stat().st_mtime, path) for path in workdir.glob("checkpoints/*/step-*") if path.exists()]
    if not found:
        return "none", 0
    path = max(found)[1]
    return path.parents[1].name.rpartition("-")[0], int(path.name.rpartition("-")[2])


def digests(workdir: Path) -> dict[str, str]:
    """Return the digests of the trained weights."""
    return {
        path.parents[1].name.rpartition("-")[0]: file_digest(path)
        for path in workdir.glob(f"steps/*/checkpoint/{MODEL}")
    }


def say(line: str, end: str = "\n") -> None:
    """Print to whoever watches."""
    sys.stdout.write(line + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
