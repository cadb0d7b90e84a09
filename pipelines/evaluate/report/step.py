"""Step: write the report of an evaluation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from daefr.files import write_atomically
from daefr.metrics.registry import higher_is_better
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.evaluate.report.charts import code_usage, histogram
from pipelines.evaluate.report.comparison import EvaluationResult, compare, select_comparable
from pipelines.evaluate.report.published import published
from pipelines.evaluate.results import metrics_file
from pipelines.evaluate.step import CODES

REPORT = "report.html"
TITLES = {
    "fid": "FID",
    "lpips": "LPIPS",
    "lpips_01": "LPIPS on [0, 1]",
    "niqe": "NIQE",
    "ida": "IDA",
    "lmd": "LMD",
    "psnr": "PSNR",
    "ssim": "SSIM",
}
MAX_PROBLEMS = 200


@dataclass(frozen=True)
class Report(Step):
    """Writes a report that compares a candidate's evaluation with the champion's and others of the same images."""

    candidate: StepResult
    champion: StepResult | None
    others: Sequence[StepResult] = ()
    """Other evaluations; the report shows the comparable ones, the newest of each label."""

    name = "report"
    version = 1

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        return {}

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        inputs = {"candidate": self.candidate.as_input()}
        if self.champion is not None:
            inputs["champion"] = self.champion.as_input()
        for other in {each.folder: each for others in self._rows.values() for each in others}.values():
            inputs[f"other {other.folder.name}"] = other.result.as_input()
        return inputs

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        write_atomically(context.folder / REPORT, self.page())
        for run_id in (context.run_id, self.candidate.manifest.run_id, context.parent_run_id):
            context.tracking.client.log_artifact(run_id, str(context.folder / REPORT))
        return StepOutput({"report": REPORT}, [REPORT])

    def page(self) -> str:
        """Return the report as HTML."""
        ours, rows = self._ours, self._rows
        theirs = None if self.champion is None else EvaluationResult(self.champion)
        champions = {name: select_comparable(name, ours, [] if theirs is None else [theirs]) for name in rows}
        benchmarks = [compare(name, ours, next(iter(champions[name]), None), others) for name, others in rows.items()]
        codes = self.candidate.folder / CODES
        return render(
            target=ours.summary.target,
            champion=theirs.summary.target if theirs is not None and any(champions.values()) else None,
            summary=ours.summary,
            manifest=self.candidate.manifest,
            benchmarks=benchmarks,
            usage=code_usage(json.loads(codes.read_text())) if codes.is_file() else "",
            metrics_file=str(metrics_file(self.candidate.folder)),
        )

    @cached_property
    def _ours(self) -> EvaluationResult:
        return EvaluationResult(self.candidate)

    @cached_property
    def _rows(self) -> dict[str, list[EvaluationResult]]:
        """The other comparable evaluations, by benchmark."""
        shown = {each.folder for each in (self.candidate, self.champion) if each is not None}
        others = [EvaluationResult(other) for other in self.others if other.folder not in shown]
        return {name: select_comparable(name, self._ours, others) for name in self._ours.summary.benchmarks}


def render(**content: Any) -> str:
    """Render the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed}
    environment.globals |= {
        "titles": TITLES,
        "histogram": histogram,
        "higher_is_better": higher_is_better,
        "source": published().source,
        "max_problems": MAX_PROBLEMS,
    }
    return environment.get_template("page.html").render(**content)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
