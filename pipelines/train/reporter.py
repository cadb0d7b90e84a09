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

from daefr.images import Image
from daefr.training.errors import StoppedError
from daefr.training.reporter import Save
from pipelines.tracking.client import MetricWriter
from pipelines.train.checkpoints import MEASURES, UNSENT, checkpoint_name, step_of
from pipelines.train.job import TrainingJob
from pipelines.train.machine import MachineMetrics
from pipelines.train.startup import Startup
from pipelines.train.stopping import StopListener, StoreTime


class RayReporter:
    """The reporter of one worker; those of all workers report checkpoints together."""

    def __init__(self, job: TrainingJob, startup: Startup) -> None:
        """Open what writes to MLflow: on rank 0, and on the first rank of every other machine for its load."""
        context = ray.train.get_context()
        self._job, self._startup = job, startup
        first_here = context.get_local_rank() == 0
        writer = MetricWriter(job.tracking, job.run_id) if first_here else None
        self._machine = writer and MachineMetrics(job.tracking, job.run_id, context.get_node_rank(), writer)
        self._machines_writer = writer
        self._writer = writer if context.get_world_rank() == 0 else None
        self._measured: tuple[int, dict[str, float]] = (-1, {})
        self._stop_listener, self._store_time = StopListener(job.progress, job.stop_timeout_s), StoreTime()
        self._unstored = Queue[str]()
        self._saves = dict[str, Save]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._machine is not None and self._machines_writer is not None:
            self._machine.close()
            self._machines_writer.close()
        if kind is StoppedError:
            self._stop_listener.wait_for_the_end()
        self._stop_listener.close()

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
            self._job.progress.update.remote(step, note)

    def image(self, step: int, name: str, image: Image) -> None:
        """Send a picture on its way."""
        if self._writer is not None:
            self._writer.image(name, step, image)

    def checkpoint(self, step: int, save: Save) -> None:
        """Have a checkpoint written and stored while the training goes on."""
        measured = self._measured[1] if self._measured[0] == step else {}
        mine = None
        if self._writer is not None and self._can_be_stored(step):
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

    def _can_be_stored(self, step: int) -> bool:
        """Tell whether there is time for a checkpoint, which only one of a training that is to stop may not have."""
        left = self._stop_listener.seconds_left()
        expected = self._store_time.expected(self._unstored.unfinished_tasks)
        if step == self._job.training.last_step or expected <= left:
            return True
        self._job.progress.log.remote(
            f"{self._job.stage}: no checkpoint of step {step}: storing it would take {expected:.0f} s and {left:.0f} s "
            "are left; those that are being stored are finished"
        )
        return False

    def should_stop(self) -> bool:
        """Tell whether the driver, or the node's own end, asks the training to stop."""
        if not self._startup.is_over:
            self._tell_startup()
        return self._stop_listener.should_stop()

    def _tell_startup(self) -> None:
        self._startup.is_over = True
        self._startup.reached("first step")
        if self._writer is not None:
            workers = ray.train.get_context().get_world_size()
            self._job.progress.log.remote(f"{self._job.stage}: {workers} worker{'s' * (workers > 1)}, {self._startup}")
            seconds = {f"startup/{phase}": spent for phase, spent in self._startup.seconds.items()}
            self._writer.log(0, seconds)

    def finish(self) -> None:
        """Wait until the last checkpoint is stored, on all ranks: Ray ends them all when the first ends."""
        self._unstored.join()
        barrier()

    def _store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Write a checkpoint, store it, tell the time of that, and delete those that are not to be kept."""
        job, folder, begin = self._job, Path(checkpoint.path), time.monotonic()
        try:
            self._saves.pop(checkpoint.path)(folder)
            start = time.monotonic()
            job.checkpoints.put(folder, name)
            self._store_time.note(time.monotonic() - begin)
            job.checkpoints.prune(job.compute.keep_last, step_of(name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._unstored.task_done()
        if self._writer is not None:
            self._writer.log(step_of(name), {"checkpoint_store_seconds": time.monotonic() - start})
        return job.checkpoints.address(name)
