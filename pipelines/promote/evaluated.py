"""What an evaluation says of a model, as gates ask for it."""

from pipelines.engine.step import Committed
from pipelines.evaluate.figures import read_figures, summary_of
from pipelines.promote.gates import Figure
from pipelines.promote.settings import Gate


def figure(evaluated: Committed, gate: Gate) -> Figure:
    """Return the figure of restored images for a gate, and that of each image."""
    summary = summary_of(evaluated.manifest.outputs)
    benchmark = summary.benchmarks[gate.benchmark]
    found = benchmark.figures["restored"].get(gate.metric)
    if found is None:
        return Figure(None, "it was not measured")
    if found.value is None:
        return Figure(None, found.problem)
    column = f"{gate.metric}/restored"
    rows = read_figures(evaluated.folder, gate.benchmark, [column])
    images = {} if gate.metric == "fid" else {image: row[column] for image, row in rows.items()}
    return Figure(found.value, images=images, computed=summary.computed)
