"""A pool of tasks without processes, so that fakes of the network work in it; work for real processes."""

import contextlib
import logging
import os
import signal
import time

from canthus.runtime.batch.tasks import Outcome, perform
from canthus.runtime.errors import InputError


class InlinePool:
    """Runs each task when it is submitted, in this process, and keeps the names of all.

    lost: names of sources whose process ends, and how often. With a name of a part, its task ends at that part.
    """

    def __init__(self, work, slots=2, lost=None):
        self._work, self._slots, self._outcomes = work, slots, []
        self.lost = dict(lost or {})
        self.names, self.most = [], 0

    @property
    def running(self):
        return len(self._outcomes)

    @property
    def free(self):
        return self._slots - self.running

    def submit(self, task):
        self.names.append(task.name)
        self._outcomes.append(self._end(task) or perform(self._work, task, lambda *_: None))
        self.most = max(self.most, self.running)

    def _end(self, task):
        for name in (task.name, *(part.name for part in task.parts if part.name not in task.excluded)):
            if self.lost.get(name, 0) > 0:
                self.lost[name] -= 1
                return Outcome(task, error=f"{name}: its process was ended", died_at=name)
        return None

    def wait(self):
        return [self._outcomes.pop(0)]

    def close(self):
        pass


@contextlib.contextmanager
def inline(pools, work, options):
    """Stand in for `open_pool`, and keep the pool in the list `pools`. Its first item may be `lost`."""
    lost = pools.pop() if pools and isinstance(pools[-1], dict) else None
    pools.append(InlinePool(work, options.workers, lost))
    yield pools[-1]


class Scripted:
    """Work that does what the text of the source says: write, die SIGNAL, fail, bug, log, report or sleep.

    A task of parts writes their names; the process ends at a part with the name "bad".
    """

    goes_on = False

    def __call__(self, task, source, outputs, progress):
        if task.parts:
            names = [part.name for part in task.parts if part.name not in task.excluded]
            for index, name in enumerate(names):
                progress(index, len(names), name)
                if name == "bad":
                    os.kill(os.getpid(), signal.SIGKILL)
            outputs["table"].write_text(" ".join(names))
            return {}
        verb, *words = source.read_text().split()
        if verb != "write":
            progress(1, 10, "")
        match verb:
            case "die":
                os.kill(os.getpid(), int(words[0]))
            case "fail":
                raise InputError("this file is wrong")
            case "bug":
                raise ValueError("a bug")
            case "number":
                outputs["table"].write_text(verb)
                return {"process": os.getpid()}
            case "log":
                logging.getLogger("canthus.test").warning("a message")
            case "report":
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        progress(1, 10, "a part")
                        time.sleep(0.05)
                source.with_name("stopped").touch()
            case "sleep":
                outputs["table"].write_text("part")
                time.sleep(60)
        outputs["table"].write_text(verb)
        return {"threads": os.environ["CANTHUS_THREADS"]}
