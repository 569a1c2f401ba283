"""Items pass between threads, live or without loss, and no thread is left behind."""

import threading
import time

import pytest

from canthus.runtime.channel import Channel, Stage

JOIN_TIMEOUT = 2.0
"""Seconds in which every thread must have ended."""


def test_stage_passes_every_item_in_order():
    with Stage(lambda: iter(range(100)), "count", capacity=3) as numbers:
        assert list(numbers) == list(range(100))


def test_full_live_channel_keeps_the_newest_item_and_counts_the_dropped():
    channel = Channel(1, newest_wins=True)
    for number in range(5):
        assert channel.put(number)
    channel.close()
    assert list(channel) == [4]
    assert channel.dropped == 4


def test_error_is_raised_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise ValueError("broken")

    taken = []
    with Stage(failing, "failing") as items, pytest.raises(ValueError, match="broken"):
        for item in items:
            taken.append(item)
    assert taken == [1, 2]


def test_leaving_consumer_ends_the_producer_and_its_finally_block_runs():
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
    assert time.monotonic() - began < JOIN_TIMEOUT
    assert not any(thread.name == "endless" for thread in threading.enumerate())


def test_put_returns_false_after_the_consumer_left():
    channel = Channel(1)
    channel.leave()
    assert not channel.put(1)


def test_first_error_is_kept_when_the_channel_is_closed_again():
    channel = Channel(1)
    channel.close(ValueError("broken"))
    channel.close()
    with pytest.raises(ValueError, match="broken"):
        list(channel)


def test_consumer_that_left_gets_neither_items_nor_errors():
    channel = Channel(2)
    channel.put(1)
    channel.close(ValueError("broken"))
    channel.leave()
    assert list(channel) == []


def test_heavy_items_are_read_ahead_one_at_a_time():
    made = []

    def heavy():
        for number in range(6):
            made.append(number)
            yield number

    with Stage(heavy, "heavy", capacity=4, weight=lambda number: 4.0) as items:
        for number in items:
            time.sleep(0.02)
            assert len(made) <= number + 3  # in the hands of the consumer, in the channel, and waiting for room
    assert made == list(range(6))
