"""What a piece of work cost: passes through the model, time, memory.

Models report their passes with `count_forward` and `count_backward`; every `measure` block that is open counts them, so
that a method and the investigation around it both know what they spent.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None


@dataclass(kw_only=True)
class Cost:
    """What a piece of work cost.

    Attributes:
        forwards: Forward passes of the model, each over one batch.
        rows: Rows that went through those passes, forward and backward together.
        backwards: Backward passes.
        seconds: Time on the clock.
        cpu_seconds: Processor time of all threads; more than `seconds` where several work.
        peak_mb: The most memory in use at one moment, in 10^6 bytes: of the GPUs where PyTorch uses them, else of the
            process.

    Caveats:
        `peak_mb` is the peak since the process started, so it is not the memory that this piece of work added. To
        compare two methods, run each in its own process. It is NaN where the system does not tell.
    """

    forwards: int = 0
    rows: int = 0
    backwards: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0


_OPEN: ContextVar[tuple[Cost, ...]] = ContextVar("open measurements", default=())


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure the block: passes are counted while it runs, time and memory are filled in when it ends."""
    cost = Cost()
    token = _OPEN.set((*_OPEN.get(), cost))
    clock, processor = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - clock
        cost.cpu_seconds = time.process_time() - processor
        cost.peak_mb = peak_memory_mb()
        _OPEN.reset(token)


def count_forward(rows: int) -> None:
    """One forward pass over `rows` rows has happened."""
    for cost in _OPEN.get():
        cost.forwards += 1
        cost.rows += rows


def count_backward(rows: int) -> None:
    """One backward pass over `rows` rows has happened."""
    for cost in _OPEN.get():
        cost.backwards += 1
        cost.rows += rows


def peak_memory_mb() -> float:
    """The most memory that was in use at one moment since the process started, in 10^6 bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())) / 1e6
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
