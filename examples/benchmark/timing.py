"""How long something takes."""

import time
from collections.abc import Callable


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def timed_with_cpu(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call by the clock, and those that this process' threads computed: of use beside other work."""
    computed = time.process_time()
    return timed(function), time.process_time() - computed
