"""What is checked before the first task starts: what is missing then would stop the run hours later."""

from collections.abc import Iterable
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from daefr.compiler import missing_compiler
from daefr.errors import UserError
from daefr.settings.base import STAGES, StageName
from daefr.settings.training import AutoencoderTraining
from pipelines.config import RunConfig
from pipelines.engine import cluster
from pipelines.promote.settings import EVALUATION_METRICS, base_metric
from pipelines.train.compiler import missing_compiler_message
from pipelines.train.loss_weights import find_loss_weights


def check(config: RunConfig) -> None:
    """Find, or download, every file that a step needs, and the locations of faces and benchmarks; raises `UserError`.

    Measures that cannot be had stop nothing: the figures say so.
    """
    from pipelines.synthesize.sources import check_sources  # noqa: PLC0415  # what lists faces loads S3's client

    check_sources(config.data)
    for name in STAGES:
        start = config.stages.of(name).initial_checkpoint
        if start is not None and not start.startswith("models:") and not Path(start).exists():
            raise UserError(
                f"stages.{name}.initial_checkpoint={start} is not a checkpoint directory or a released .ckpt file"
            )
    if config.evaluation.benchmarks:
        from pipelines.evaluate.benchmarks import check_locations  # noqa: PLC0415  # it imports PyTorch, like those below

        check_locations(config.evaluation.benchmarks)
    for path in (config.evaluation.weights, config.evaluation.fid_statistics):
        if path is not None and not path.exists():
            raise UserError(f"{path}, which the evaluation should use, is not there")
    if config.data.align:
        from daefr.faces.detector import find_detector  # noqa: PLC0415

        find_detector(config.data.detector)
    for name in STAGES:
        find_loss_weights(config.stages.of(name))


def check_nodes(config: RunConfig, stages: Iterable[StageName] = STAGES) -> None:
    """Look for a compiler on every node on which a stage may compile its network; raises `UserError`.

    Nodes that join later are checked by the workers themselves. Connects to the cluster where a stage compiles.
    """
    compiling = [name for name in stages if _compiles(config, name)]
    if not compiling:
        return
    cluster.connect()
    missing = ray.remote(missing_compiler)
    for gpu in (True, False):
        names = [name for name in compiling if config.compute.of(name).use_gpu == gpu]
        kind, device = ("GPU", "cuda") if gpu else ("CPU", "cpu")
        nodes = [node for node in ray.nodes() if names and node["Alive"] and node["Resources"].get(kind)]
        asked = {
            node["NodeManagerAddress"]: missing.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(device)
            for node in nodes
        }
        for address, answer in asked.items():
            try:
                lacks = ray.get(answer)
            except ray.exceptions.RayError:  # the node has gone meanwhile
                continue
            if lacks is not None:
                raise UserError(missing_compiler_message(names[0], address, lacks))


def _compiles(config: RunConfig, name: StageName) -> bool:
    chosen = config.stages.of(name).speed.compile
    return config.compute.of(name).use_gpu if chosen is None else chosen


def remarks(config: RunConfig) -> list[str]:
    """Say what a run goes on without: the perceptual term, which the method has, and figures that gates will want."""
    without = [
        name
        for name in STAGES
        if isinstance(training := config.stages.of(name), AutoencoderTraining) and not training.perceptual.weight
    ]
    lines = [f"without the perceptual term, as perceptual.weight=0: {', '.join(without)}"] if without else []
    wanted = [gate.metric for gate in config.promotion.restoration.gates if gate.metric in EVALUATION_METRICS]
    return lines + (_unavailable(config, wanted) if wanted else [])


def _unavailable(config: RunConfig, metrics: list[str]) -> list[str]:
    import torch  # noqa: PLC0415

    from daefr.metrics.registry import MetricSetup, find_files  # noqa: PLC0415

    evaluation = config.evaluation
    setup = MetricSetup(evaluation.protocol, torch.device("cpu"), evaluation.weights, evaluation.fid_statistics)
    lines = []
    for metric in metrics:
        try:
            find_files(base_metric(metric), setup)
        except UserError as error:
            lines.append(f"a gate of restoration cannot hold, as {metric} is unavailable: {error}")
    return lines
