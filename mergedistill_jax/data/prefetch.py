"""Work ahead of the training loop: batches made in a thread of their own, and laid on the devices before their step.

    thread     make 4   make 5   make 6
    host       place 3          place 4
    device     step 1  | step 2         | step 3 ...

The order of items is that of the source, whatever the timing: the clock decides nothing.
"""

import collections
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

B = TypeVar("B")
P = TypeVar("P")

_POLL_S = 0.1
"""How often a waiting thread looks whether it is still wanted."""


class _End:
    """What a thread leaves behind its last item: nothing, or what went wrong."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def in_background(source: Iterator[B], depth: int) -> Iterator[B]:
    """The items of a source that runs in a thread, at most `depth` items ahead; its error is raised here in its place.

    The thread starts with the first item asked for and ends with the source, or when this iterator is closed or
    forgotten.
    """
    items: queue.Queue[B | _End] = queue.Queue(maxsize=depth)
    left = threading.Event()
    thread = threading.Thread(target=_run, args=(source, items, left), name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        left.set()


def _run(source: Iterator[Any], items: queue.Queue[Any], left: threading.Event) -> None:
    error = None
    try:
        for item in source:
            if not _put(items, item, left):
                break
    except BaseException as found:  # noqa: BLE001 - the consumer raises it
        error = found
    _put(items, _End(error), left)


def _put(items: queue.Queue[Any], item: Any, left: threading.Event) -> bool:
    """Whether the item was taken; False where nobody wants it any more."""
    while not left.is_set():
        try:
            items.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False


def placed_ahead(batches: Iterator[B], place: Callable[[B], P], ahead: int = 2) -> Iterator[tuple[B, P]]:
    """Batches of the host, each with what `place` makes of it, placed while `ahead` earlier ones wait for their steps.

    Placing starts a copy and does not wait for it, so that the copy runs beside the steps before.
    """
    waiting: collections.deque[tuple[B, P]] = collections.deque()
    for batch in batches:
        waiting.append((batch, place(batch)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
