"""Finds the faces of a stream, with a model that can be replaced while the frames go on."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from canthus.gui.mailbox import Mailbox
from canthus.gui.preload import preload
from canthus.gui.stream import FaceFinder
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import CanthusError
from canthus.runtime.models import Precision
from canthus.runtime.types import Faces, Frame

if TYPE_CHECKING:
    from canthus.gui.live_trace import LiveTrace
    from canthus.runtime.measures import KnownPerson
    from canthus.runtime.pipeline import Settings


@dataclass(frozen=True)
class Tracking:
    """How faces are found: `Settings` of the runtime, which is not imported here because that takes a second."""

    model: str | Path | None = None
    detector_model: str | Path | None = None
    precision: Precision | None = None
    gpu: bool = True
    max_faces: int = 8
    smoothing: bool = True
    measures: bool = False
    detection_interval: float = 0.5  # seconds between runs of the detector while faces are tracked
    min_score: float = 0.0  # faces with a lower face score are not shown
    person: Path | None = None  # a file of `canthus calibrate`; None = the neutral face is measured

    @property
    def networks(self) -> tuple[object, ...]:
        """What cannot change without opening the networks again."""
        return self.model, self.detector_model, self.precision, self.gpu

    def settings(self) -> "Settings":
        """Return the runtime's settings."""
        from canthus.runtime.pipeline import Settings

        return Settings(
            model=self.model,
            detector_model=self.detector_model,
            max_faces=self.max_faces,
            smoothing=self.smoothing,
            gpu=self.gpu,
            precision=self.precision,
            measures=self.measures,
            person=self.person,
        )


class Landmarks(FaceFinder, Protocol):
    """Finds the faces of frames, with settings that may change: a `TrackingLandmarker`."""

    def calibrate(self) -> None: ...

    def change(self, tracking: Tracking) -> None: ...

    def person(self) -> "KnownPerson | None": ...

    def record(self, trace: "LiveTrace | None") -> None: ...


Open = Callable[[Tracking], AbstractContextManager[Landmarks]]


class TrackingLandmarker(Closeable):
    """The runtime's `Landmarker`, whose settings may change. It belongs to the thread that opened it."""

    def __init__(self, tracking: Tracking, live: bool) -> None:
        preload("cv2", "openvino", "mediapipe")
        from canthus.runtime.pipeline import Landmarker

        self._trace: LiveTrace | None = None
        self._faces = Faces.none()  # of the last frame
        self._landmarker: Landmarker = Landmarker(replace(tracking.settings(), measures=False), live=live)
        self.change(tracking)

    @property
    def seconds(self) -> dict[str, float]:
        """Time of each stage for the last frame."""
        return self._landmarker.seconds

    @property
    def backend_name(self) -> str:
        """The library and the device that run the network."""
        return self._landmarker.backend_name

    def update(self, frame: Frame) -> Faces:
        """Return the faces of the next frame."""
        faces = self._landmarker.update(frame)
        self._faces = faces[faces.face_scores >= self._min_score] if self._min_score else faces
        return self._faces

    def restart(self) -> None:
        """Forget the faces."""
        self._landmarker.restart()

    def calibrate(self) -> None:
        """Measure the neutral faces again."""
        self._landmarker.calibrate()

    def change(self, tracking: Tracking) -> None:
        """Use other settings from the next frame on. Those of `tracking.networks` must be the same. Ends a trace."""
        if self._trace is not None:
            self.record(None)
        self._min_score = tracking.min_score
        measures = tracking.measures and self._landmarker.can_measure  # models with other points have none
        self._landmarker.change(replace(tracking.settings(), measures=measures))
        tracker = self._landmarker.tracker
        tracker.settings = replace(tracker.settings, detection_interval=tracking.detection_interval)

    def person(self) -> "KnownPerson | None":
        """Return what was measured of the person of the largest face in the last frame; None without one."""
        faces, people = self._faces, self._landmarker.people()
        if not len(faces) or not people:
            return None
        heights = faces.boxes[:, 3] - faces.boxes[:, 1]
        return people.get(int(faces.ids[heights.argmax()]))

    def record(self, trace: "LiveTrace | None") -> None:
        """Record a trace from the next frame on; with None, record no more."""
        if self._trace is not None:
            self._trace.active = False
        self._landmarker.record(trace)
        self._trace = trace

    def close(self) -> None:
        """Free the networks."""
        if self._trace is not None:
            self._trace.active = False
        self._landmarker.close()


@dataclass(frozen=True)
class FinderState:
    """What the finder does: it uses a backend, opens another model, or could not open it."""

    backend: str = ""  # empty before the first model is open
    opening: bool = False
    error: str = ""


class LiveFinder(Closeable):
    """Finds faces with one model while another one is opened. The picture goes on meanwhile.

    Each model is opened, used and closed in a thread of its own, and used as soon as it is open. `update` and `restart`
    belong to the thread that entered the `with` block; the other methods may be called in any thread.

    open_landmarks: opens a model. `with` waits for the first one. states: gets what happens.
    """

    def __init__(self, open_landmarks: Open, tracking: Tracking, states: Mailbox[FinderState]) -> None:
        self.states = states
        self._open = open_landmarks
        self._tracking = tracking
        self._lock = Lock()  # of the following four: a worker gets no task after it was retired
        self._active: _Worker | None = None
        self._next: _Worker | None = None
        self._old: list[_Worker] = []
        self._trace: LiveTrace | None = None  # waits for the first model

    def __enter__(self) -> "LiveFinder":
        worker = self._start(self._tracking)
        try:
            worker.opened.result()
        except CanthusError as error:
            self.states.post(FinderState(error=str(error)))
            raise
        self._adopt(worker)
        return self

    @property
    def seconds(self) -> dict[str, float]:
        """Time of each stage for the last frame."""
        return self._active.landmarks.seconds if self._active else {}

    @property
    def backend_name(self) -> str:
        """The library and the device that run the network; empty before the first model is open."""
        return self._active.landmarks.backend_name if self._active else ""

    def change(self, tracking: Tracking) -> None:
        """Use other settings as soon as possible. Returns at once."""
        before, self._tracking = self._tracking, tracking
        if before.networks != tracking.networks:
            self._start(tracking)
            return
        with self._lock:
            for worker in (self._active, self._next):
                if worker is not None:
                    worker.run(lambda landmarks: landmarks.change(tracking))

    def reopen(self) -> None:
        """Open the model again, for example because there is an engine for it now. Returns at once."""
        self._start(self._tracking)

    def calibrate(self) -> None:
        """Measure the neutral faces again. Returns at once."""
        self._run(lambda landmarks: landmarks.calibrate())

    def person(self) -> "Future[KnownPerson | None] | None":
        """Return what is known of the person of the largest face, later. None before the first model is open."""
        return self._run(lambda landmarks: landmarks.person())

    def record(self, trace: "LiveTrace | None") -> None:
        """Record a trace from the next frame on, until other settings are used; None ends it. Returns at once."""
        with self._lock:
            self._trace = trace
            if self._active is not None:
                self._active.run(lambda landmarks: landmarks.record(trace))

    def _run(self, task: Callable[[Landmarks], Any]) -> "Future[Any] | None":
        """Run a task with the model in use; None before the first model is open."""
        with self._lock:
            return None if self._active is None else self._active.run(task)

    def _start(self, tracking: Tracking) -> "_Worker":
        with self._lock:
            if self._next is not None:
                self._retire(self._next)
            self._next = _Worker(lambda: self._open(tracking))
            worker = self._next
        self.states.post(FinderState(self.backend_name, opening=True))
        worker.opened.add_done_callback(lambda _: self._adopt(worker))
        return worker

    def _retire(self, worker: "_Worker") -> None:
        worker.end()
        self._old = [old for old in self._old if old.is_alive()] + [worker]

    def _adopt(self, worker: "_Worker") -> None:
        """Use a model that is open now, unless another one is wanted. If it could not be opened, the old one stays."""
        with self._lock:
            if self._next is not worker:
                return
            self._next = None
            error = worker.opened.exception()
            if error is None:
                trace = self._trace
                if self._active is not None:
                    self._retire(self._active)
                elif trace is not None:
                    worker.run(lambda landmarks: landmarks.record(trace))
                self._active = worker
        self.states.post(FinderState(self.backend_name, error=str(error or "")))

    def update(self, frame: Frame) -> Faces:
        """Return the faces of the next frame."""
        found = self._run(lambda landmarks: landmarks.update(frame))
        assert found is not None, "used outside of its `with` block"
        faces: Faces = found.result()
        return faces

    def restart(self) -> None:
        """Forget the faces. Call it after a jump to another time."""
        self._run(lambda landmarks: landmarks.restart())

    def close(self) -> None:
        """Free all models, and wait for their threads."""
        with self._lock:
            for worker in (self._active, self._next):
                if worker is not None:
                    self._retire(worker)
            self._active = self._next = None
        for worker in self._old:
            worker.join()


class TrackingControl:
    """The settings of all finders of a viewer, one after the other. `states` gets what the current one does."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking
        self.states: Mailbox[FinderState] = Mailbox()
        self._finder: LiveFinder | None = None

    def open(self, live: bool) -> LiveFinder:
        """Return a finder for a camera (live) or for a clip."""
        self._finder = LiveFinder(lambda tracking: TrackingLandmarker(tracking, live), self.tracking, self.states)
        return self._finder

    def change(self, tracking: Tracking) -> None:
        """Use other settings, in the current finder and in those to come. Returns at once."""
        self.tracking = tracking
        if self._finder is not None:
            self._finder.change(tracking)

    def reopen(self) -> None:
        """Open the model again. Returns at once."""
        if self._finder is not None:
            self._finder.reopen()

    def calibrate(self) -> None:
        """Measure the neutral faces again. Returns at once."""
        if self._finder is not None:
            self._finder.calibrate()

    def person(self) -> "Future[KnownPerson | None] | None":
        """Return what is known of the person of the largest face, later; None before the first model is open."""
        return None if self._finder is None else self._finder.person()

    def record(self, trace: "LiveTrace | None") -> None:
        """Record a trace; None ends it. Returns at once."""
        if self._finder is not None:
            self._finder.record(trace)


class _Worker:
    """A thread that opens a model and uses it."""

    landmarks: Landmarks

    def __init__(self, open_landmarks: Callable[[], AbstractContextManager[Landmarks]]) -> None:
        self.opened: Future[None] = Future()
        self._tasks: SimpleQueue[tuple[Callable[[Landmarks], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=(open_landmarks,), name="landmarks", daemon=True)
        self._thread.start()

    def _work(self, open_landmarks: Callable[[], AbstractContextManager[Landmarks]]) -> None:
        try:
            with open_landmarks() as self.landmarks:
                self.opened.set_result(None)
                while (item := self._tasks.get()) is not None:
                    task, done = item
                    try:
                        done.set_result(task(self.landmarks))
                    except BaseException as error:  # noqa: BLE001 - raised again by the caller
                        done.set_exception(error)
                    del item, task, done  # the frame of a task may have 100 MB
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            if not self.opened.done():
                self.opened.set_exception(error)

    def run(self, task: Callable[[Landmarks], Any]) -> "Future[Any]":
        """Run a task in the thread, after those before it."""
        done: Future[Any] = Future()
        self._tasks.put((task, done))
        return done

    def end(self) -> None:
        """Close the model after the tasks so far. Returns at once."""
        self._tasks.put(None)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()
