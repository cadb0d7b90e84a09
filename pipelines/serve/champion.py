"""The model in service, which follows its alias: a newer version takes over when it has shown that it works."""

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

LONGEST_PAUSE = 600.0

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Served:
    """A model that is loaded, and the name that people know it by."""

    model: Model
    restorer: Restorer


class Champion:
    """Holds the model that an address stands for. `current` is always one that works."""

    def __init__(
        self, tracking: Tracking, address: str, load: Callable[[Path], Restorer], every: float, *, follow: bool = True
    ) -> None:
        """Load the model, and look for another every so many seconds when the address can move.

        Raises `UserError` when there is none, or when it does not work.
        """
        self._tracking, self._address, self._load = tracking, address, load
        self._every = every
        self._stop = threading.Event()
        self.problem = ""
        """Why the model that the address stands for now is not the one in service; empty where it is."""
        self.current = self._open(find_model(tracking, address))
        if follow and follows_alias(address):
            threading.Thread(target=self._follow, name="champion", daemon=True).start()

    def check(self) -> bool:
        """Look once, and change over if need be; return whether all is well."""
        try:
            found = find_model(self._tracking, self._address)
            if found != self.current.model:
                self.current = self._open(found)
                logger.warning("The model in service is now %s.", found.name)
        except Exception as error:  # whatever is wrong with it, the model in service goes on
            problem = one_line(error)
            if problem != self.problem:
                logger.error("%s stays in service: %s", self.current.model.name, problem)
            self.problem = problem
            return False
        self.problem = ""
        return True

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _follow(self) -> None:
        pause = self._every
        while not self._stop.wait(pause):
            # a version that does not work is not tried as often as a working one is asked for
            pause = self._every if self.check() else min(2 * pause, max(self._every, LONGEST_PAUSE))

    def _open(self, model: Model) -> Served:
        folder = Path(tempfile.mkdtemp(prefix="daefr-"))
        try:
            restorer = self._load(model.fetch(self._tracking, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _try(restorer, model)
        return Served(model, restorer)


def _try(restorer: Restorer, model: Model) -> None:
    """Restore noise. Raises `UserError` when nothing comes of it, as when weights are not numbers."""
    side = restorer.resolution
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    (restored,) = restorer.restore_crops([noise])
    if np.ptp(restored) == 0:
        raise UserError(f"{model.name} does not work: it makes one colour of every face")
