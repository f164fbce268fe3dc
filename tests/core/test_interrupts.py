import os
import signal
import threading

import pytest

from digsite._core.interrupts import uninterrupted


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_what_is_half_done_is_finished_first():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_is_heeded_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        done.append(1)
        press()
        done.append(2)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_one_nothing_happens_and_threads_are_left_alone():
    with uninterrupted():
        pass
    failed = []

    def work():
        try:
            with uninterrupted():
                pass
        except ValueError as error:  # signals belong to the main thread
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
