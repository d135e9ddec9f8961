"""How long the parts of a run take."""

import contextlib
import time
from collections.abc import Iterator


class Timer:
    """Adds up durations by part, in the order in which the parts first end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the duration of the block to a part."""
        start = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - start)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def with_total(self) -> dict[str, float]:
        """Seconds of each part, and their sum as `total`."""
        return {**self.seconds, "total": sum(self.seconds.values())}
