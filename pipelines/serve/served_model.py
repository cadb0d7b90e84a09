"""The served model, which follows its alias: a new version is served once it has passed a test."""

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daefr.errors import UserError, one_line
from daefr.restore import Restorer
from pipelines.tracking.client import Tracking
from pipelines.tracking.models import Model, find_model, follows_alias

MAX_PAUSE = 600.0

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class LoadedModel:
    """A model and its loaded restorer."""

    model: Model
    restorer: Restorer


class ServedModel:
    """Loads the model at an address. `current` always works."""

    def __init__(
        self, tracking: Tracking, address: str, load: Callable[[Path], Restorer], every: float, *, follow: bool = True
    ) -> None:
        """Load the model, and if the address has an alias, check it every so many seconds.

        Raises `UserError` if there is no model, or if it does not work.
        """
        self._tracking, self._address, self._load = tracking, address, load
        self._every = every
        self._stop = threading.Event()
        self.problem = ""
        """Why the current model at the address is not served; empty if it is."""
        self.current = self._open(find_model(tracking, address))
        if follow and follows_alias(address):
            threading.Thread(target=self._follow, name="champion", daemon=True).start()

    def check(self) -> bool:
        """Check the address once, and switch to a new model; return False if that failed."""
        try:
            found = find_model(self._tracking, self._address)
            if found != self.current.model:
                self.current = self._open(found)
                logger.warning("Serving %s.", found.name)
        except Exception as error:  # any error leaves the current model in service
            problem = one_line(error)
            if problem != self.problem:
                logger.error("Still serving %s: %s", self.current.model.name, problem)
            self.problem = problem
            return False
        self.problem = ""
        return True

    def close(self) -> None:
        """Stop checking."""
        self._stop.set()

    def _follow(self) -> None:
        pause = self._every
        while not self._stop.wait(pause):
            # back off from versions that do not work
            pause = self._every if self.check() else min(2 * pause, max(self._every, MAX_PAUSE))

    def _open(self, model: Model) -> LoadedModel:
        folder = Path(tempfile.mkdtemp(prefix="daefr-"))
        try:
            restorer = self._load(model.fetch(self._tracking, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _test(restorer, model)
        return LoadedModel(model, restorer)


def _test(restorer: Restorer, model: Model) -> None:
    """Restore noise. Raises `UserError` if the result is a constant, as with weights that are NaN."""
    side = restorer.resolution
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    (restored,) = restorer.restore_crops([noise])
    if np.ptp(restored) == 0:
        raise UserError(f"{model.name} does not work: it restores an image of one color")
