"""Pass items from one thread to another through a bounded queue. Live, the newest wins; from a file, none is lost."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A queue for one producer, which calls `put`, and one consumer, which iterates.

    If the channel is full, the producer waits. With `newest_wins` the oldest item is dropped instead, and `dropped`
    counts these. An item takes `weight(item)` of the capacity, or 1. A heavier one than the capacity is taken alone.
    """

    def __init__(self, capacity: int, newest_wins: bool = False, weight: Callable[[T], float] = lambda _: 1.0) -> None:
        self.dropped = 0
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._newest_wins = newest_wins
        self._weight = weight
        self._changed = threading.Condition()
        self._closed = False
        self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Append an item. Returns False after the consumer has left: the producer should end."""
        with self._changed:
            if self._newest_wins and len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._has_room(item) or self._left)
            if self._left:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def _has_room(self, item: T) -> bool:
        return not self._items or sum(map(self._weight, [*self._items, item])) <= self._capacity

    def close(self, error: BaseException | None = None) -> None:
        """End the channel. An `error` is raised in the consumer after the items before it."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def leave(self) -> None:
        """End the channel for the consumer: a producer that waits is released, and the items are dropped."""
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
                taken = [self._items.popleft()]
                self._changed.notify_all()
            yield taken.pop()  # not kept here: a frame may have 100 MB
        if not self._left:
            self.raise_error()

    def raise_error(self) -> None:
        """Raise the error that the channel was closed with, if there is one."""
        if self._error is not None:
            raise self._error


class Stage(Generic[T]):
    """Runs a generator in a thread. Iterate over the stage to take its items.

    As a context manager: the thread starts with the block and has ended after it. With an `executor`, a thread of it
    runs the generator instead.

        with Stage(lambda: decode(path), "decode") as frames:
            for frame in frames: ...
    """

    def __init__(
        self,
        make: Callable[[], Iterable[T]],
        name: str,
        capacity: int = 4,
        weight: Callable[[T], float] = lambda _: 1.0,
        executor: Executor | None = None,
    ) -> None:
        self._channel: Channel[T] = Channel(capacity, weight=weight)
        self._make = make
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._executor = executor

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            items = iter(self._make())
            try:
                for item in items:
                    if not self._channel.put(item):
                        break
                    del item  # a frame may have 100 MB
            finally:
                close = getattr(items, "close", None)
                if close:
                    close()
        except BaseException as raised:  # noqa: BLE001 - raised again in the consumer
            error = raised
        self._channel.close(error)

    def __iter__(self) -> Iterator[T]:
        return iter(self._channel)

    def __enter__(self) -> "Stage[T]":
        if self._executor is None:
            self._thread.start()
        else:
            self._future = self._executor.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.leave()
        if self._executor is None:
            self._thread.join(timeout=2)
        else:
            wait([self._future], timeout=2)
