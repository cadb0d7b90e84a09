"""The duration of the phases between the last activity of any worker and the first step."""

import time


class Startup:
    """Seconds by phase, in the order of the phases."""

    def __init__(self, since: float) -> None:
        """Begin at a time of `time.time`, possibly of another machine."""
        self._phase_start = since
        self.seconds: dict[str, float] = {}
        self.finished = False

    def finish_phase(self, phase: str) -> None:
        """Record the duration of a phase that ends now."""
        now = time.time()
        self.seconds[phase] = max(0.0, now - self._phase_start)
        self._phase_start = now

    def __str__(self) -> str:
        parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        return f"first step after {sum(self.seconds.values()):.1f} s: {parts}"
