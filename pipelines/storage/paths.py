"""What a path of the user's means."""

import os
from pathlib import Path

from daefr.files import expand_home


def in_ray_job() -> bool:
    """Tell whether this process was submitted to a cluster as a job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute(path: Path) -> Path:
    """Return a path as the user means it: relative to the home directory in a Ray job, else to the working directory.

    The working directory of a Ray job is a temporary copy of the project.
    """
    return (Path.home() if in_ray_job() else Path.cwd()) / expand_home(path)
