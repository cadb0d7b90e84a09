"""Reports a worker's metrics and images to MLflow, its progress to the driver, and its checkpoints to Ray."""

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
from pipelines.train.checkpoints import METRICS, UNSENT, checkpoint_name, step_of
from pipelines.train.job import TrainingJob
from pipelines.train.machine import MachineMetrics
from pipelines.train.startup import Startup
from pipelines.train.stopping import StopListener, StoreTime


class RayReporter:
    """The reporter of one worker; those of all workers report checkpoints together."""

    def __init__(self, job: TrainingJob, startup: Startup) -> None:
        """Open a writer on the first rank of every machine: for metrics on rank 0, for system metrics on the others."""
        context = ray.train.get_context()
        self._job, self._startup = job, startup
        first_here = context.get_local_rank() == 0
        writer = MetricWriter(job.tracking, job.run_id) if first_here else None
        self._machine = writer and MachineMetrics(job.tracking, job.run_id, context.get_node_rank(), writer)
        self._machine_writer = writer
        self._writer = writer if context.get_world_rank() == 0 else None
        self._validated: tuple[int, dict[str, float]] = (-1, {})
        self._stop_listener, self._store_time = StopListener(job.progress, job.stop_timeout_s), StoreTime()
        self._unstored = Queue[str]()
        self._saves = dict[str, Save]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._machine is not None and self._machine_writer is not None:
            self._machine.close()
            self._machine_writer.close()
        if kind is StoppedError:
            self._stop_listener.wait_for_preemption()
        self._stop_listener.close()

    def resume(self, checkpoint: Path) -> None:
        """Send the metrics that were not sent when this checkpoint was made."""
        unsent = checkpoint / UNSENT
        if self._writer is not None and unsent.is_file():
            self._writer.resend(json.loads(unsent.read_text()))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """See `Reporter`."""
        if self._writer is not None:
            self._writer.log(step, values)
        if "validation_loss" in values:
            self._validated = step, values
        if "samples_per_second" in values:
            note = f"loss {values['loss']:.4f}, {values['samples_per_second']:.1f} samples/s"
            self._job.progress.update.remote(step, note)

    def image(self, step: int, name: str, image: Image) -> None:
        """See `Reporter`."""
        if self._writer is not None:
            self._writer.image(name, step, image)

    def checkpoint(self, step: int, save: Save) -> None:
        """See `Reporter`: write and store a checkpoint in the background."""
        metrics = self._validated[1] if self._validated[0] == step else {}
        checkpoint = None
        if self._writer is not None and self._can_be_stored(step):
            folder = Path(tempfile.mkdtemp(prefix="daefr-"))
            self._saves[str(folder)] = save
            (folder / METRICS).write_text(json.dumps(metrics))
            # after resuming from this checkpoint, earlier metrics are not computed again
            (folder / UNSENT).write_text(json.dumps(self._writer.unsent()))
            checkpoint = Checkpoint.from_directory(folder)
            self._unstored.put(checkpoint_name(step))
        ray.train.report(
            {"step": step} | metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=checkpoint_name(step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._store,
        )

    def _can_be_stored(self, step: int) -> bool:
        """Return whether there is time to store a checkpoint, if the training was asked to stop."""
        left = self._stop_listener.seconds_left()
        expected = self._store_time.expected(self._unstored.unfinished_tasks)
        if step == self._job.training.last_step or expected <= left:
            return True
        self._job.progress.log.remote(
            f"{self._job.stage}: skipping the checkpoint of step {step}, because storing it takes {expected:.0f} s but "
            f"{left:.0f} s are left"
        )
        return False

    def should_stop(self) -> bool:
        """Return whether the driver or the node's preemption asks the training to stop."""
        if not self._startup.finished:
            self._log_startup()
        return self._stop_listener.should_stop()

    def _log_startup(self) -> None:
        self._startup.finished = True
        self._startup.finish_phase("first step")
        if self._writer is not None:
            workers = ray.train.get_context().get_world_size()
            self._job.progress.log.remote(f"{self._job.stage}: {workers} worker{'s' * (workers > 1)}, {self._startup}")
            seconds = {f"startup/{phase}": spent for phase, spent in self._startup.seconds.items()}
            self._writer.log(0, seconds)

    def finish(self) -> None:
        """Wait on all ranks until the last checkpoint is stored, as Ray ends all when the first returns."""
        self._unstored.join()
        barrier()

    def _store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Write and store a checkpoint, log how long that took, and delete old checkpoints."""
        job, folder, start = self._job, Path(checkpoint.path), time.monotonic()
        try:
            self._saves.pop(checkpoint.path)(folder)
            written = time.monotonic()
            job.checkpoints.put(folder, name)
            self._store_time.record(time.monotonic() - start)
            job.checkpoints.prune(job.compute.keep_last, step_of(name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._unstored.task_done()
        if self._writer is not None:
            self._writer.log(step_of(name), {"checkpoint_store_seconds": time.monotonic() - written})
        return job.checkpoints.as_ray_checkpoint(name)
