"""The metrics of a committed evaluation, as the gates of promotion ask for them."""

from pipelines.engine.step import StepResult
from pipelines.evaluate.figures import read_figures, summary_of
from pipelines.promote.gates import GateMetric
from pipelines.promote.settings import Gate


def evaluated_metric(evaluated: StepResult, gate: Gate) -> GateMetric:
    """Return a metric of restored images, and that of each image."""
    summary = summary_of(evaluated.outputs)
    benchmark = summary.benchmarks[gate.benchmark]
    found = benchmark.figures["restored"].get(gate.metric)
    if found is None:
        return GateMetric(None, "it was not measured")
    if found.value is None:
        return GateMetric(None, found.problem)
    column = f"{gate.metric}/restored"
    rows = read_figures(evaluated.folder, gate.benchmark, [column])
    images = {} if gate.metric == "fid" else {image: row[column] for image, row in rows.items()}
    return GateMetric(found.value, images=images, computed=summary.computed)
