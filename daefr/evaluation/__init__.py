"""Restoring the images of a benchmark with a model or another method, and measuring what came out."""

from daefr.evaluation.evaluator import Evaluated, Evaluator, Sample
from daefr.evaluation.grid import draw_grid
from daefr.evaluation.method import Method, Restored, TrainedModel
from daefr.evaluation.subjects import SUBJECTS, Subject, column

__all__ = [
    "SUBJECTS",
    "Evaluated",
    "Evaluator",
    "Method",
    "Restored",
    "Sample",
    "Subject",
    "TrainedModel",
    "column",
    "draw_grid",
]
