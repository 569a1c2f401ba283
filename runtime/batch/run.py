"""Run the tasks of a batch: retry once, show the progress, and never stop because of one file."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from canthus.runtime.batch.progress import Table
from canthus.runtime.batch.tasks import Outcome, Task
from canthus.runtime.batch.workers import LogLine, Pool, Progress

ATTEMPTS = 2
"""How often a file is tried."""


def run_tasks(pool: Pool, tasks: Iterable[Task], table: Table) -> Iterator[Outcome]:
    """Run tasks in a pool, and yield the last outcome of each, in the order in which they end.

    Tasks are taken from the iterable when a worker is free. One that fails is tried again after the others. If a
    process ends twice at the same part of a task of several files, the rest of the task is done without that part.
    """
    waiting = iter(tasks)
    again: deque[Task] = deque()
    deaths: Counter[tuple[str, str]] = Counter()
    while True:
        while pool.free:
            task = next(waiting, None) or (again.popleft() if again else None)
            if task is None:
                break
            pool.submit(task)
        if not pool.running:
            return
        for event in pool.wait():
            if isinstance(event, Progress):
                table.show(event)
            elif isinstance(event, LogLine):
                table.print(event.text)
            else:
                retried = _retry(event, deaths)
                if retried is None:
                    table.end(event)
                    yield event
                else:
                    again.append(retried)


def _retry(outcome: Outcome, deaths: Counter[tuple[str, str]]) -> Task | None:
    """Return the task to try again after an attempt, or None if this was the last one."""
    task = outcome.task
    if not outcome.error:
        return None
    if task.parts and outcome.died_at:
        deaths[task.name, outcome.died_at] += 1
        excluded = task.excluded
        if deaths[task.name, outcome.died_at] >= ATTEMPTS:
            excluded = (*excluded, outcome.died_at)
        return replace(task, excluded=excluded)
    if task.attempt >= ATTEMPTS:
        return None
    return replace(task, attempt=task.attempt + 1)
