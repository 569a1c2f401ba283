import threading
import time

import pytest

from canthus.runtime.channel import Channel, Stage

GONE = 2.0
"""Seconds in which every thread must have ended."""


def test_nothing_is_lost_on_the_way_from_a_file():
    with Stage(lambda: iter(range(100)), "count", capacity=3) as numbers:
        assert list(numbers) == list(range(100))


def test_live_the_newest_wins_and_the_rest_is_counted():
    channel = Channel(1, newest_wins=True)
    for number in range(5):
        assert channel.put(number)
    channel.close()
    assert list(channel) == [4]
    assert channel.dropped == 4


def test_an_error_comes_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise ValueError("broken")

    taken = []
    with Stage(failing, "failing") as items, pytest.raises(ValueError, match="broken"):
        for item in items:
            taken.append(item)
    assert taken == [1, 2]


def test_a_consumer_that_leaves_releases_the_producer_and_its_tear_down_runs():
    ended = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            ended.set()

    began = time.monotonic()
    with Stage(endless, "endless", capacity=2) as items:
        assert next(iter(items)) == 0
    assert ended.is_set()
    assert time.monotonic() - began < GONE
    assert not any(thread.name == "endless" for thread in threading.enumerate())


def test_putting_after_the_consumer_left_says_so():
    channel = Channel(1)
    channel.leave()
    assert not channel.put(1)


def test_an_error_stays_whatever_closes_afterwards():
    channel = Channel(1)
    channel.close(ValueError("broken"))
    channel.close()
    with pytest.raises(ValueError, match="broken"):
        list(channel)


def test_who_has_left_hears_no_more():
    channel = Channel(2)
    channel.put(1)
    channel.close(ValueError("broken"))
    channel.leave()
    assert list(channel) == []
