"""Reading ahead and writing behind: order, errors, and no thread that outlives its block."""

import threading
import time

import pytest

from seedvr2_lab.restore.threads import Behind, reading


def test_items_come_in_order_and_never_far_ahead():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    with reading(items(), 3) as ahead:
        for i, item in enumerate(ahead):
            time.sleep(0.002)
            assert item == i and len(made) <= i + 1 + 3 + 2
    assert made == list(range(20))


def test_an_error_of_the_reader_comes_after_what_was_read():
    def items():
        yield 1
        raise OSError("gone")

    with reading(items(), 3) as ahead:
        assert next(ahead) == 1
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                next(ahead)


def test_a_reader_that_is_left_ends_and_closes_its_source():
    before, closed = threading.active_count(), []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    with reading(items(), 2) as ahead:
        next(ahead)
    assert closed and threading.active_count() == before


def test_all_is_written_in_order_before_the_block_ends():
    written = []
    with Behind(lambda item: (time.sleep(0.002), written.append(item)), 2) as behind:
        for i in range(20):
            behind.put(i)
    assert written == list(range(20))


def test_an_error_of_the_writer_stops_the_block_and_nothing_more_is_written():
    written = []

    def write(item):
        written.append(item)
        if item == 2:
            raise OSError("full")

    with pytest.raises(OSError, match="full"), Behind(write, 1) as behind:
        for i in range(100):
            behind.put(i)
    assert written == [0, 1, 2]


def test_what_waits_is_dropped_when_the_block_fails():
    written = []
    with pytest.raises(KeyboardInterrupt), Behind(lambda item: (time.sleep(0.05), written.append(item)), 5) as behind:
        for i in range(4):
            behind.put(i)
        raise KeyboardInterrupt
    assert len(written) <= 2
