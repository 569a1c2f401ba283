"""A child process of `canthus bench peers`: runs one candidate on frames and answers with times.

It runs in the environment of its candidate, so this file imports nothing of canthus at its top. Arguments: the kind of
the candidate, its file or "", the file of frames (.npy, (N, H, W, 3) uint8 RGB), and the number of threads. On Linux
the process is also limited to as many cores.

Each line of the input is a JSON object {"first": A, "end": B} for the frames A to B - 1, in order. Each line of the
output answers: {"seconds": [...], "found": [...]} with a time and the number of faces for each frame. The first line is
{"ready": version} or {"error": reason}. {"image": I} answers {"points": [[x, y] ...]} or null for a single image.
{"video": V} answers {"seconds": S, "frames": F} for the way from a video file to the points of its frames.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Opened = tuple[str, Callable[[Any, int], int], Callable[[Any], Any]]
"""The version of a candidate, a function that returns the number of faces in a frame with an index, and one that
returns the points of a single image, or None."""


def main(kind: str, file: str, frames_file: str, threads: str) -> None:
    """Answer the lines of the standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")  # native libraries also write to the standard output
    os.dup2(2, 1)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # MediaPipe's threads cannot be set otherwise
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        import numpy as np

        frames = np.load(frames_file, mmap_mode="r")
        version, run, place = OPENERS[kind](file, int(threads))
    except Exception as error:  # noqa: BLE001 - every failure of a peer's library is an answer
        answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    answer({"ready": version})
    for line in sys.stdin:
        task = json.loads(line)
        if "image" in task:
            points = place(np.load(task["image"]))
            answer({"points": None if points is None else np.asarray(points).round(3).tolist()})
            continue
        if "video" in task:
            began = time.perf_counter()
            count = VIDEO_READERS[kind](file, run, task["video"])
            answer({"seconds": time.perf_counter() - began, "frames": count})
            continue
        seconds, found = [], []
        for index in range(task["first"], task["end"]):
            frame = np.ascontiguousarray(frames[index])  # in memory, as after decoding
            began = time.perf_counter()
            faces = run(frame, index)
            seconds.append(time.perf_counter() - began)
            found.append(faces)
        answer({"seconds": seconds, "found": found})


def open_canthus(model: str, threads: int) -> Opened:
    """Open a model of canthus: tracking, smoothing and the detector included."""
    import cv2

    from canthus.runtime import Frame, Landmarker, Settings

    cv2.setNumThreads(threads)
    landmarker = Landmarker(Settings(model=model, max_faces=1, gpu=False))

    def place(image: Any) -> Any:
        faces = landmarker.landmark(image)
        return faces.points[0] if len(faces) else None

    def run(frame: Any, index: int) -> int:
        return len(landmarker.update(Frame(frame, index, index / 30)))

    return f"canthus, {landmarker.backend_name}", run, place


def open_onnx(file: str, threads: int) -> Opened:
    """Open a network with one image (1, 3, S, S) as its input, and follow a face if it returns 98 points."""
    import cv2

    from canthus.runtime.bench.onnx_peer import OnnxPeer

    cv2.setNumThreads(threads)
    peer = OnnxPeer(file, threads)
    return peer.version, peer.run, peer.place


def open_face_mesh(attention: str, threads: int) -> Opened:
    """Open MediaPipe Face Mesh, with the attention mesh if the file is "attention". Its threads cannot be set."""
    import cv2
    import mediapipe

    cv2.setNumThreads(threads)
    options = {"max_num_faces": 1, "refine_landmarks": attention == "attention"}
    mesh = mediapipe.solutions.face_mesh.FaceMesh(**options)
    single = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, **options)

    def place(image: Any) -> Any:
        faces = single.process(image).multi_face_landmarks
        height, width = image.shape[:2]
        return [(p.x * width - 0.5, p.y * height - 0.5) for p in faces[0].landmark] if faces else None

    def run(frame: Any, _: int) -> int:
        return len(mesh.process(frame).multi_face_landmarks or ())

    return f"mediapipe {mediapipe.__version__}", run, place


def open_face_landmarker(file: str, threads: int) -> Opened:
    """Open MediaPipe's Face Landmarker task from its model file."""
    import cv2
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    cv2.setNumThreads(threads)

    def create(mode: Any) -> Any:
        options = vision.FaceLandmarkerOptions(BaseOptions(model_asset_path=file), running_mode=mode, num_faces=1)
        return vision.FaceLandmarker.create_from_options(options)

    video, single = create(vision.RunningMode.VIDEO), create(vision.RunningMode.IMAGE)

    def wrap(image: Any) -> Any:
        return mediapipe.Image(mediapipe.ImageFormat.SRGB, image)

    def place(image: Any) -> Any:
        faces = single.detect(wrap(image)).face_landmarks
        height, width = image.shape[:2]
        return [(p.x * width - 0.5, p.y * height - 0.5) for p in faces[0]] if faces else None

    def run(frame: Any, index: int) -> int:
        return len(video.detect_for_video(wrap(frame), index * 33).face_landmarks)

    return f"mediapipe {mediapipe.__version__}", run, place


def open_dlib(file: str, threads: int) -> Opened:  # noqa: ARG001 - it has one thread
    """Open dlib's detector and its shape predictor for 68 points."""
    import dlib  # type: ignore[import-not-found, unused-ignore]

    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(file)

    def place(image: Any) -> Any:
        boxes = detector(image, 0)
        return [(p.x, p.y) for p in predictor(image, boxes[0]).parts()] if boxes else None

    def run(frame: Any, _: int) -> int:
        return int(place(frame) is not None)

    return f"dlib {dlib.__version__}", run, place


def read_with_canthus(model: str, _: Callable[[Any, int], int], video: str) -> int:
    """Do what `canthus video --table` does, the opening of the networks included, and return the number of frames."""
    import tempfile
    from pathlib import Path

    from canthus.runtime import Settings
    from canthus.runtime.options import Outputs
    from canthus.runtime.video_run import process_video

    with tempfile.TemporaryDirectory() as folder:
        outputs = Outputs(None, Path(folder, "points.csv"))
        settings = Settings(model=model, max_faces=1, gpu=False)
        return process_video(Path(video), outputs, settings, lambda *_: None).frames


def read_with_face_mesh(_: str, run: Callable[[Any, int], int], video: str) -> int:
    """Decode with OpenCV, as MediaPipe's examples do, run the opened Face Mesh, and return the number of frames."""
    import cv2

    capture, count = cv2.VideoCapture(video), 0
    while True:
        read, frame = capture.read()
        if not read:
            capture.release()
            return count
        run(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), count)
        count += 1


VIDEO_READERS: dict[str, Callable[[str, Callable[[Any, int], int], str], int]] = {
    "canthus": read_with_canthus,
    "face_mesh": read_with_face_mesh,
}

OPENERS: dict[str, Callable[[str, int], Opened]] = {
    "canthus": open_canthus,
    "onnx": open_onnx,
    "face_mesh": open_face_mesh,
    "face_landmarker": open_face_landmarker,
    "dlib": open_dlib,
}

if __name__ == "__main__":
    main(*sys.argv[1:5])
