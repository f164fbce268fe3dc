import math
import threading
import time

import pytest

from digsite._core.cost import count_backward, count_forward, measure, peak_memory_mb


def test_an_open_measurement_counts_what_happens_inside():
    with measure() as outer:
        count_forward(8)
        with measure() as inner:
            count_forward(2)
            count_backward(2)
        count_forward(1)
    count_forward(100)
    assert (inner.forwards, inner.rows, inner.backwards) == (1, 4, 1)
    assert (outer.forwards, outer.rows, outer.backwards) == (3, 13, 1)


def test_time_is_filled_in_at_the_end():
    with measure() as cost:
        assert cost.seconds == 0
        time.sleep(0.05)
    assert cost.seconds >= 0.05 > cost.cpu_seconds >= 0


def test_an_error_still_closes_the_measurement():
    with pytest.raises(ZeroDivisionError), measure() as cost:
        _ = 1 / 0
    count_forward(1)
    assert cost.forwards == 0 and cost.seconds > 0


def test_peak_memory_covers_what_was_allocated():
    with measure() as cost:
        block = bytearray(64 * 10**6)
        block[::4096] = b"x" * len(block[::4096])
    assert cost.peak_mb >= 64 and math.isfinite(peak_memory_mb())


def test_another_thread_is_not_charged():
    with measure() as cost:
        thread = threading.Thread(target=count_forward, args=(5,))
        thread.start()
        thread.join()
    assert cost.forwards == 0
