"""The kinds of files that are mutated: seed files, made here, and the functions that read them."""

import bz2
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from fuzz import requests, results, schemes
from fuzz.mutations import Mutate, mutate_any, mutate_bytes, mutate_json, mutate_text

Seeds = dict[str, bytes]
"""File name -> content."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    make: writes what the files need beside them into a folder, and returns the seed files.
    read: reads a file in that folder completely. It raises CanthusError if the file cannot be read.
    """

    make: Callable[[Path], Seeds]
    read: Callable[[Path], object]
    mutate: Mutate
    memory_gb: float = 4.0  # address space of the process


# Images


def make_images(folder: Path) -> Seeds:
    """Return an image in each format that OpenCV writes, with and without an alpha channel, and with EXIF data."""
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
    alpha = np.dstack([image, image[..., :1]])
    seeds = {}
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pam"):
        seeds[f"image{suffix}"] = cv2.imencode(suffix, image)[1].tobytes()
    for suffix in (".png", ".webp", ".tiff"):
        seeds[f"alpha{suffix}"] = cv2.imencode(suffix, alpha)[1].tobytes()
    seeds["deep.png"] = cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes()
    seeds["lossy.webp"] = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 60])[1].tobytes()
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    seeds["progressive.jpg"] = cv2.imencode(".jpg", image, progressive)[1].tobytes()
    seeds["gray.pbm"] = cv2.imencode(".pbm", image[..., 0])[1].tobytes()
    seeds["gray.jpg"] = cv2.imencode(".jpg", image[..., 0])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    seeds["exif.jpg"] = seeds["image.jpg"][:2] + segment + seeds["image.jpg"][2:]
    chunk = b"EXIF" + len(exif).to_bytes(4, "little") + exif
    size = b"".join((side - 1).to_bytes(3, "little") for side in (image.shape[1], image.shape[0]))
    extended = b"VP8X" + (10).to_bytes(4, "little") + b"\x08\0\0\0" + size
    body = b"WEBP" + extended + seeds["lossy.webp"][12:] + chunk
    seeds["exif.webp"] = b"RIFF" + len(body).to_bytes(4, "little") + body
    return seeds


def read_image_file(path: Path) -> None:
    """Decode an image file."""
    from canthus.runtime.image_files import read_image

    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.size


# Videos

VIDEOS = (
    ("h264.mp4", "libx264", "aac"), ("mpeg4.mp4", "mpeg4", None), ("h264.mkv", "libx264", "aac"),
    ("mjpeg.avi", "mjpeg", "pcm_s16le"), ("h264.avi", "libx264", None), ("vp8.webm", "libvpx", None),
    ("h264.flv", "libx264", "aac"), ("mpeg2.mpg", "mpeg2video", "mp2"), ("h264.ts", "libx264", "aac"),
    ("mpeg4.mov", "mpeg4", "pcm_s16le"), ("mjpeg.mjpeg", "mjpeg", None), ("gif.gif", "gif", None),
    ("wmv2.wmv", "wmv2", None), ("h264.h264", "libx264", None),
)  # fmt: skip

FRAMES = 12

MOST_FRAMES = 400
"""Reading stops here: a changed duration may make a file longer."""


def make_videos(folder: Path) -> Seeds:
    """Return a short video in each of several formats."""
    return {name: _write_video(folder / name, codec, audio) for name, codec, audio in VIDEOS}


def _write_video(path: Path, codec: str, audio: str | None) -> bytes:
    texture = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:  # the same bytes each time
        # With its other presets, libx264 writes other bytes each time.
        options = {"preset": "ultrafast", "bf": "2"} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = 64, 48
        stream.codec_context.thread_count = 1  # with several threads, the bytes vary
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        tone = file.add_stream(audio, rate=16_000 if audio != "mp2" else 32_000, layout="mono") if audio else None
        for index in range(FRAMES):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(texture, 3 * index, 1), format="rgb24")))
        file.mux(stream.encode(None))
        if tone is not None:
            wave = (8000 * np.sin(np.arange(tone.rate // 2) / 16)).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts = tone.rate, 0
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))
    content = path.read_bytes()
    path.unlink()
    return content


def read_video(path: Path) -> None:
    """Decode the frames of a video."""
    from canthus.runtime.video_file import VideoFile

    with VideoFile(path) as video:
        last = -1.0
        for frame in video:
            assert frame.seconds > last, f"{frame.seconds} after {last}"
            last = frame.seconds
            if frame.index > MOST_FRAMES:
                return
        assert video.end is not None
        assert video.end >= last
        assert "\n" not in video.damaged


def write_overlay(path: Path) -> None:
    """Run `canthus video` on a video, with fakes of the networks, and read what it has written."""
    from canthus.runtime import pipeline
    from canthus.runtime.options import Outputs
    from canthus.runtime.video_file import VideoFile
    from canthus.runtime.video_run import process_video
    from support.fakes import FakeBackend, FakeDetector

    pipeline.open_automatic = lambda *_: FakeBackend()  # type: ignore[assignment]
    pipeline.Detector = lambda _: FakeDetector()  # type: ignore[misc, assignment]
    outputs = Outputs(path.parent / "out" / "overlay.mp4", path.parent / "out" / "table.csv", overwrite=True)
    outputs.table.parent.mkdir(exist_ok=True)
    for output in (outputs.overlay, outputs.table):
        output.unlink(missing_ok=True)
    report = process_video(path, outputs, pipeline.Settings())
    assert outputs.table.is_file()
    assert "\n" not in report.damage + report.incomplete
    with VideoFile(outputs.overlay) as video:
        frames = sum(1 for _ in video)
        assert frames == report.frames, f"{frames} frames in the overlay, {report.frames} were reported"
        assert not video.damaged, f"overlay: {video.damaged}"


# Labels of faces


def make_lists(folder: Path) -> Seeds:
    """Return the list of a shard."""
    from canthus.trainer.faces.wflw_lists import SHARD_LIST
    from support.shards import write_shard

    write_shard(folder, 3)
    return {SHARD_LIST: (folder / SHARD_LIST).read_bytes()}


def make_tables(folder: Path) -> Seeds:
    """Return the tables of a shard: quality.csv and human.csv."""
    from support.shards import FROM_68, write_kinds, write_shard

    write_shard(folder, 3)
    write_kinds(folder, {"some/face 0.png": FROM_68, "some/face 2.png": "5" * 40 + "1" * 58})
    seeds = {name: (folder / name).read_bytes() for name in ("quality.csv", "human.csv")}
    for name in seeds:
        (folder / name).unlink()
    return seeds


def make_pts(folder: Path) -> Seeds:
    """Return a .pts file of 300W."""
    from support.data_sets import write_300w

    write_300w(folder, 2)
    return {"face_0.pts": (folder / "face_0.pts").read_bytes()}


def read_folder(path: Path) -> None:
    """Open the labelled set in the folder of the file, and its first image."""
    read_set(path.parent)


def read_set(path: Path) -> None:
    """Open a labelled set, and its first image."""
    from canthus.runtime.errors import InputError
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.faces.labelled import yaw_estimate

    labelled = open_set(path)
    for face in labelled.faces:
        assert np.isfinite(face.points).all()
        assert np.isfinite(face.rect).all()
        assert face.points.shape == (labelled.scheme.points, 2)
        yaw_estimate(face.points[None])
    with contextlib.suppress(InputError):
        labelled.read_image(labelled.faces[0].image)


def make_coco(folder: Path) -> Seeds:
    """Return keypoints in COCO format."""
    from canthus.trainer.faces.schemes import COFW, W300
    from support.data_sets import write_coco

    for scheme in (COFW, W300):
        write_coco(folder / f"{scheme.name}.json", scheme, 3)
    seeds = {name: (folder / name).read_bytes() for name in ("COFW.json", "300W.json")}
    for name in seeds:
        (folder / name).unlink()
    return seeds


def make_archives(folder: Path) -> Seeds:
    """Return a shard as a tar file, compressed in each way, and a file of COFW."""
    from support.data_sets import write_cofw
    from support.shards import write_shard

    write_shard(folder / "shard", 2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder / "shard", ".", filter=lambda member: member.replace(mtime=0))
    plain = buffer.getvalue()
    seeds = {
        "shard.tar": plain,
        "shard.tar.gz": gzip.compress(plain, mtime=0),
        "shard.tar.bz2": bz2.compress(plain),
        "shard.tar.xz": lzma.compress(plain),
    }
    write_cofw(folder / "cofw" / "faces.mat", 2)
    seeds["faces.mat"] = (folder / "cofw" / "faces.mat").read_bytes()
    return seeds


# Descriptions of networks and runs


def make_manifests(folder: Path) -> Seeds:
    """Return the manifests of a model and of an engine."""
    from canthus.runtime.engine_files import EngineManifest, EngineRecipe
    from canthus.runtime.models import Manifest

    digest = hashlib.sha256(b"network").hexdigest()
    for name in ("model.onnx", "engine.engine"):
        (folder / name).write_bytes(b"network")
    recipe = EngineRecipe(digest, "tensorrt-rtx", "1.2.3", "A GPU", ("sm86", "sm90"), "fp16", (1, 4, 8))
    manifests: list[Any] = [
        Manifest(digest, "student", 128, 98, 4, (1.5, -0.5), {"recipe": {"epochs": 3}}, {"nme": 4.5}, "MIT"),
        EngineManifest(
            digest, recipe, "fast", 128, 98, 4, "2026-01-01T00:00:00", ("crops: uint8",), {"cast": 2},
            {"engine": {"within_tolerance": True}}, (1.5, -0.5),
        ),
    ]  # fmt: skip
    texts = [json.dumps(dataclasses.asdict(manifest)).encode() for manifest in manifests]
    return dict(zip(("model.json", "engine.json"), texts, strict=True))


def read_manifest_file(path: Path) -> None:
    """Read a manifest, with the checks that come before the network is loaded."""
    from canthus.runtime.calibration import apply_calibration
    from canthus.runtime.engine_files import find_mismatch, read_engine
    from canthus.runtime.models import read_model

    if path.name == "model.json":
        manifest = read_model(path.with_suffix(".onnx")).manifest
        path.write_text(json.dumps(dataclasses.asdict(manifest)))
    else:
        engine = read_engine(path.with_suffix(".engine")).manifest
        assert engine is not None
        assert isinstance(engine.rebuild_command + engine.recipe.key, str)
        assert engine.passed_check in (True, False)
        find_mismatch(engine.recipe, "1.2.3", "A GPU", "sm86")
        manifest = engine
    scores = apply_calibration(np.linspace(0, 1, 11, dtype=np.float32), manifest.calibration)
    assert np.isfinite(scores).all()


def make_recipes(folder: Path) -> Seeds:
    """Return a recipe as TOML and as JSON."""
    from canthus.trainer import recipe

    texts = {f"{name}.toml": recipe._RECIPES / f"{name}.toml" for name in ("student", "wflw-hrnet")}
    seeds = {name: path.read_bytes() for name, path in texts.items()}
    recipe.default_recipe("student").save(folder / "saved.json")
    return seeds | {"saved.json": (folder / "saved.json").read_bytes()}


def read_recipe(path: Path) -> None:
    """Read a recipe, and write it."""
    from canthus.trainer.recipe import load_recipe

    load_recipe(path).save(path.with_name("again.json"))


def make_checkpoints(folder: Path) -> Seeds:
    """Return a small checkpoint."""
    import torch

    from canthus.trainer.networks.checkpoint import Checkpoint, save

    weights = {"stem.weight": torch.arange(12.0).reshape(3, 4), "stem.bias": torch.zeros(3, dtype=torch.float16)}
    metadata = {"network": "student", "points": 98, "size": 128, "stride": 4, "step": 1, "calibration": [1.5, -0.5]}
    save(folder / "small", Checkpoint(weights, metadata, {"0.step": torch.ones(())}, weights))
    return {"small.safetensors": (folder / "small.safetensors").read_bytes()}


def read_checkpoint(path: Path) -> None:
    """Read the tensors and the metadata of a checkpoint."""
    from canthus.trainer.networks.checkpoint import calibration_from_metadata, load

    calibration_from_metadata(load(path).metadata, path)


KINDS = {
    "images": Kind(make_images, read_image_file, mutate_bytes),
    "videos": Kind(make_videos, read_video, mutate_bytes),
    "overlays": Kind(make_videos, write_overlay, mutate_bytes),
    "lists": Kind(make_lists, read_folder, mutate_text),
    "shard-tables": Kind(make_tables, read_folder, mutate_text),
    "pts": Kind(make_pts, read_folder, mutate_text),
    "coco": Kind(make_coco, read_set, mutate_json),
    "archives": Kind(make_archives, read_set, mutate_bytes),
    "manifests": Kind(make_manifests, read_manifest_file, mutate_json),
    "recipes": Kind(make_recipes, read_recipe, mutate_text),
    "checkpoints": Kind(make_checkpoints, read_checkpoint, mutate_bytes, memory_gb=8.0),
    "traces": Kind(results.make_traces, results.read_trace, mutate_any),
    "people": Kind(results.make_people, results.read_person_file, mutate_json),
    "tables": Kind(results.make_point_tables, results.read_point_table, mutate_any, memory_gb=8.0),
    "reports": Kind(results.make_point_tables, results.write_report, mutate_any, memory_gb=8.0),
    "states": Kind(results.make_states, results.read_state, mutate_any),
    "schemes": Kind(schemes.make_schemes, schemes.read_scheme_file, mutate_any),
    "coco-schemes": Kind(schemes.make_coco_schemes, schemes.read_coco_scheme, mutate_any),
    "addresses": Kind(requests.make_addresses, requests.read_address, mutate_text),
    "requests": Kind(requests.make_requests, requests.send_request, mutate_bytes),
}
