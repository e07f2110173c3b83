import gc
import itertools
import threading

import pytest

from mergedistill_jax.data.prefetch import in_background, placed_ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def joined():
    for thread in threads():
        thread.join(5)
    return threads()


def test_items_come_in_their_order_and_the_thread_ends_with_them():
    assert list(in_background(iter(range(100)), 3)) == list(range(100))
    assert joined() == []


def test_an_error_is_raised_where_its_item_would_be():
    def source():
        yield 1
        yield 2
        raise ValueError("the third")

    stream = in_background(source(), 5)
    assert (next(stream), next(stream)) == (1, 2)
    with pytest.raises(ValueError, match="the third"):
        next(stream)
    assert list(stream) == []
    assert joined() == []


def test_no_more_is_made_than_was_asked_for():
    made, enough = [], threading.Event()

    def source():
        for number in itertools.count():
            made.append(number)
            if number == 4:
                enough.set()
            yield number

    stream = in_background(source(), 3)
    assert next(stream) == 0
    assert enough.wait(5)  # 0 taken, 1 to 3 waiting, 4 in the thread's hands
    assert not any(thread is threading.current_thread() for thread in threads())
    assert made == [0, 1, 2, 3, 4]
    stream.close()
    assert joined() == []
    assert made[-1] <= 5


def test_a_forgotten_stream_ends_its_thread():
    stream = in_background(itertools.count(), 2)
    next(stream)
    assert len(threads()) == 1
    del stream
    gc.collect()
    assert joined() == []


def test_two_are_placed_before_the_first_is_needed():
    placed = []

    def place(number):
        placed.append(number)
        return -number

    stream = placed_ahead(iter(range(1, 6)), place)
    assert placed == []
    assert next(stream) == (1, -1)
    assert placed == [1, 2, 3]
    assert list(stream) == [(2, -2), (3, -3), (4, -4), (5, -5)]
    assert placed == [1, 2, 3, 4, 5]
