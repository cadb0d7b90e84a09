"""What the time goes into from the moment that nobody works until the first step is done."""

import time


class Startup:
    """Seconds by phase, in the order of the phases."""

    def __init__(self, since: float) -> None:
        """Begin at a time as `time.time` tells it; it may come from another machine."""
        self._before = since
        self.seconds: dict[str, float] = {}
        self.is_over = False

    def reached(self, phase: str) -> None:
        """Note that a phase is over."""
        now = time.time()
        self.seconds[phase] = max(0.0, now - self._before)
        self._before = now

    def __str__(self) -> str:
        parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        return f"first step after {sum(self.seconds.values()):.1f} s: {parts}"
