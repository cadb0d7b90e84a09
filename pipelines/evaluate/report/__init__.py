"""The report of an evaluation: one HTML file that needs nothing else."""

from pipelines.evaluate.report.step import REPORT, report

__all__ = ["REPORT", "report"]
