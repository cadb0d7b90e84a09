"""The metrics of a committed evaluation, as the gates of promotion ask for them."""

from pipelines.engine.step import StepResult
from pipelines.evaluate.results import load_summary, read_image_metrics
from pipelines.promote.gates import GateMetric
from pipelines.promote.settings import Gate


def evaluated_metric(evaluated: StepResult, gate: Gate) -> GateMetric:
    """Return a metric of restored images, with its value for each image."""
    summary = load_summary(evaluated.outputs)
    benchmark = summary.benchmarks[gate.benchmark]
    found = benchmark.metrics["restored"].get(gate.metric)
    if found is None:
        return GateMetric(None, "it was not computed")
    if found.value is None:
        return GateMetric(None, found.problem)
    column = f"{gate.metric}/restored"
    rows = read_image_metrics(evaluated.folder, gate.benchmark, [column])
    images = {} if gate.metric == "fid" else {image: row[column] for image, row in rows.items()}
    return GateMetric(found.value, images=images, computed=summary.computed)
