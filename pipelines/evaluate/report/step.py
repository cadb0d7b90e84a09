"""Step: write the report of an evaluation."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from daefr.files import write_atomically
from daefr.metrics.registry import higher_is_better
from pipelines.engine.names import VALIDATION
from pipelines.engine.run import Run
from pipelines.engine.step import Committed, find
from pipelines.evaluate.report.charts import code_usage, histogram
from pipelines.evaluate.report.comparison import Evaluation, compare, on_the_same_images
from pipelines.evaluate.report.published import published
from pipelines.evaluate.step import CODES

VERSION = 1
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
MOST_PROBLEMS = 200


def report(run: Run, candidate: Committed, champion: Committed | None) -> Path:
    """Write the report of an evaluation, beside the champion's and all others of the run's directory; return its path.

    The others are those of the same images, one for each label: the table's rows.
    """
    found = {folder: find(folder) for folder in sorted((run.workdir / "steps").glob("evaluate-*"))}
    shown = {each.folder for each in (candidate, champion) if each is not None}
    others = [Evaluation(each) for folder, each in found.items() if each is not None and folder not in shown]
    ours = Evaluation(candidate)
    theirs = None if champion is None else Evaluation(champion)
    rows = {name: on_the_same_images(name, ours, others) for name in ours.summary.benchmarks}
    inputs = {"candidate": candidate.as_input()} | ({} if champion is None else {"champion": champion.as_input()})
    for other in {each.folder: each for others in rows.values() for each in others}.values():
        inputs[f"other {other.folder.name}"] = other.committed.as_input()

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        rivals = {name: on_the_same_images(name, ours, [] if theirs is None else [theirs]) for name in rows}
        benchmarks = [compare(name, ours, next(iter(rivals[name]), None), others) for name, others in rows.items()]
        codes = candidate.folder / CODES
        page = render(
            subject=ours.summary.subject,
            rival=theirs.summary.subject if theirs is not None and any(rivals.values()) else None,
            summary=ours.summary,
            manifest=candidate.manifest,
            benchmarks=benchmarks,
            usage=code_usage(json.loads(codes.read_text())) if codes.is_file() else "",
            figures=str(candidate.folder),
        )
        write_atomically(folder / REPORT, page)
        for target in (run_id, candidate.manifest.run_id, run.parent):
            run.tracking.client.log_artifact(target, str(folder / REPORT))
        return {"report": REPORT}, [REPORT]

    return run.step("report", VERSION, {}, inputs, work).folder / REPORT


def render(**content: Any) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "signed": _signed}
    environment.globals |= {
        "titles": TITLES,
        "histogram": histogram,
        "higher_is_better": higher_is_better,
        "source": published().source,
        "validation": VALIDATION,
        "most_problems": MOST_PROBLEMS,
    }
    return environment.get_template("page.html").render(**content)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
