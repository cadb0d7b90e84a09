"""What a worker tells while it trains: numbers and pictures to MLflow, progress to the driver, checkpoints to Ray."""

import json
import shutil
import tempfile
import time
from pathlib import Path
from queue import Queue
from typing import Self

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.collective import barrier

from daefr.data.images import Image
from daefr.training.errors import StoppedError
from daefr.training.reporter import Save
from pipelines.tracking import MetricWriter
from pipelines.training.checkpoints import MEASURES, UNSENT, checkpoint_name
from pipelines.training.job import Job
from pipelines.training.machine import MachineMetrics
from pipelines.training.startup import Startup
from pipelines.training.stopping import Asked


class RayReporter:
    """The reporter of one worker; those of all workers report checkpoints together."""

    def __init__(self, job: Job, startup: Startup) -> None:
        """Open what writes to MLflow: on rank 0, and on the first rank of every other machine for its load."""
        context = ray.train.get_context()
        self._job, self._startup = job, startup
        first_here = context.get_local_rank() == 0
        writer = MetricWriter(job.tracking, job.run_id) if first_here else None
        self._machine = writer and MachineMetrics(job.tracking, job.run_id, context.get_node_rank(), writer)
        self._machines_writer = writer
        self._writer = writer if context.get_world_rank() == 0 else None
        self._measured: tuple[int, dict[str, float]] = (-1, {})
        self._asked = Asked(job.board)
        self._unstored = Queue[str]()
        self._saves = dict[str, Save]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._machine is not None and self._machines_writer is not None:
            self._machine.close()
            self._machines_writer.close()
        if kind is StoppedError:
            self._asked.wait_for_the_end()
        self._asked.close()

    def resume(self, checkpoint: Path) -> None:
        """Send what had not arrived at MLflow when this checkpoint was made."""
        unsent = checkpoint / UNSENT
        if self._writer is not None and unsent.is_file():
            self._writer.resend(json.loads(unsent.read_text()))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Send numbers on their way."""
        if self._writer is not None:
            self._writer.log(step, values)
        if "validation_loss" in values:
            self._measured = step, values
        if "samples_per_second" in values:
            note = f"loss {values['loss']:.4f}, {values['samples_per_second']:.1f} samples a second"
            self._job.board.write.remote(step, note)

    def image(self, step: int, name: str, image: Image) -> None:
        """Send a picture on its way."""
        if self._writer is not None:
            self._writer.image(name, step, image)

    def checkpoint(self, step: int, save: Save) -> None:
        """Have a checkpoint written and stored while the training goes on."""
        measured = self._measured[1] if self._measured[0] == step else {}
        mine = None
        if self._writer is not None:
            folder = Path(tempfile.mkdtemp(prefix="daefr-"))
            self._saves[str(folder)] = save
            (folder / MEASURES).write_text(json.dumps(measured))
            # a training that goes on from this checkpoint does not record again what came before it
            (folder / UNSENT).write_text(json.dumps(self._writer.unsent()))
            mine = Checkpoint.from_directory(folder)
            self._unstored.put(checkpoint_name(step))
        ray.train.report(
            {"step": step} | measured,
            checkpoint=mine,
            checkpoint_dir_name=checkpoint_name(step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._store,
        )

    def should_stop(self) -> bool:
        """Tell whether the driver, or the node's own end, asks the training to stop."""
        if not self._startup.is_over:
            self._tell_startup()
        return self._asked.to_stop()

    def _tell_startup(self) -> None:
        self._startup.is_over = True
        self._startup.reached("first step")
        if self._writer is not None:
            workers = ray.train.get_context().get_world_size()
            self._job.board.tell.remote(f"{self._job.stage}: {workers} worker{'s' * (workers > 1)}, {self._startup}")
            seconds = {f"startup/{phase}": spent for phase, spent in self._startup.seconds.items()}
            self._writer.log(0, seconds)

    def finish(self) -> None:
        """Wait until the last checkpoint is stored, on all ranks: Ray ends them all when the first ends."""
        self._unstored.join()
        barrier()

    def _store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Write a checkpoint, store it, tell the time of that, and delete those that are not to be kept."""
        job, folder = self._job, Path(checkpoint.path)
        try:
            self._saves.pop(checkpoint.path)(folder)
            start = time.monotonic()
            job.checkpoints.put(folder, name)
            job.checkpoints.prune(job.compute.keep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._unstored.task_done()
        if self._writer is not None:
            self._writer.log(int(name.rpartition("-")[2]), {"checkpoint_store_seconds": time.monotonic() - start})
        return job.checkpoints.address(name)
