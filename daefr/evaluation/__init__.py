"""Restores the images of benchmarks with a model or another method, and computes metrics of the results."""

from daefr.evaluation.evaluator import NOT_RESTORED, EvaluationSample, Evaluator, ImageResult
from daefr.evaluation.grid import draw_grid
from daefr.evaluation.image_kinds import IMAGE_KINDS, ImageKind, column
from daefr.evaluation.method import Method, MethodOutput, TrainedModel

__all__ = [
    "IMAGE_KINDS",
    "NOT_RESTORED",
    "EvaluationSample",
    "Evaluator",
    "ImageKind",
    "ImageResult",
    "Method",
    "MethodOutput",
    "TrainedModel",
    "column",
    "draw_grid",
]
