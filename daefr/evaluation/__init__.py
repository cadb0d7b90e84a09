"""Restoring the images of a benchmark with a model or another method, and measuring what came out."""

from daefr.evaluation.evaluator import Evaluated, EvaluationSample, Evaluator
from daefr.evaluation.grid import draw_grid
from daefr.evaluation.method import Method, MethodOutput, TrainedModel
from daefr.evaluation.subjects import SUBJECTS, Subject, column

__all__ = [
    "SUBJECTS",
    "Evaluated",
    "EvaluationSample",
    "Evaluator",
    "Method",
    "MethodOutput",
    "Subject",
    "TrainedModel",
    "column",
    "draw_grid",
]
