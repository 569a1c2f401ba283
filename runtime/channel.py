"""Hand-over between two threads, bounded: live, the newest item wins; from a file, nothing is lost."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """One producer puts, one consumer iterates.

    A full channel makes the producer wait, or, with `newest_wins`, drops its oldest item. An error given to `close`
    is raised in the consumer after the items before it. `leave` by the consumer releases the producer at once.
    """

    def __init__(self, capacity: int, newest_wins: bool = False) -> None:
        self.dropped = 0
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._newest_wins = newest_wins
        self._changed = threading.Condition()
        self._closed = False
        self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand an item over; False once the consumer has left, and the producer should end."""
        with self._changed:
            if self._newest_wins and len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._items) < self._capacity or self._left)
            if self._left:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """No more items will come, because of `error` if one is given."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def leave(self) -> None:
        """The consumer wants no more."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed or self._left)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None and not self._left:
            raise self._error


class Stage(Generic[T]):
    """A generator that runs in a thread of its own; iterate over the stage to take what it makes.

    Used as a context manager: at the end of the block the thread is released and gone.
    """

    def __init__(self, make: Callable[[], Iterable[T]], name: str, capacity: int = 4) -> None:
        self._channel: Channel[T] = Channel(capacity)
        self._make = make
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            items = iter(self._make())
            try:
                for item in items:
                    if not self._channel.put(item):
                        break
            finally:
                close = getattr(items, "close", None)
                if close:
                    close()
        except BaseException as raised:  # noqa: BLE001 - handed to the consumer, who raises it
            error = raised
        self._channel.close(error)

    def __iter__(self) -> Iterator[T]:
        return iter(self._channel)

    def __enter__(self) -> "Stage[T]":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.leave()
        self._thread.join(timeout=2)
