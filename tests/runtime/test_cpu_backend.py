"""OpenVINO on the CPU: faults of the library become one clear error."""

import threading

import numpy as np
import pytest

from canthus.runtime.backends import cpu
from canthus.runtime.backends.cpu import BATCH, OpenVINOBackend
from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.models import find_int8, find_model, read_model


@pytest.fixture(scope="module")
def backend():
    with OpenVINOBackend(read_model(find_model("fast"))) as opened:
        yield opened


def crops(count, size):
    return np.zeros((count, size, size, 3), np.uint8)


def test_crops_of_a_wrong_size_are_one_clear_error(backend):
    with pytest.raises(BackendError, match=r"OpenVINO on the CPU: the network failed \(.+\)$"):
        backend.predict(crops(1, backend.size + 1))
    assert backend.predict(crops(1, backend.size))[0].shape == (1, 98, 2)


def test_network_that_hangs_is_an_error_after_a_limit(backend, monkeypatch):
    monkeypatch.setattr(backend, "time_limit", 0.0)
    monkeypatch.setattr(backend, "time_limit_per_crop", 0.0)
    with pytest.raises(BackendError, match="no result within 0 s"):
        backend.predict(crops(16, backend.size))
    backend._request.wait()  # the next test may run it again


def test_backend_used_in_two_threads_at_once_is_one_clear_error(backend):
    errors = []

    def run():
        for _ in range(20):
            try:
                backend.predict(crops(4, backend.size))
            except BackendError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert all(error.startswith("OpenVINO on the CPU: the network failed") for error in errors)


def test_results_do_not_change_with_the_next_prediction(backend):
    image = np.random.default_rng(0).integers(0, 255, (2, 1, backend.size, backend.size, 3), np.uint8)
    points, scores = backend.predict(image[0])
    before = points.copy(), scores.copy()
    backend.predict(image[1])
    np.testing.assert_array_equal(points, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.fixture
def eight_bits():
    with OpenVINOBackend(read_model(find_int8(find_model("tiny")))) as opened:
        yield opened


def noise(count, size):
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), np.uint8)


def test_several_crops_at_once_give_the_results_of_each_alone(eight_bits):
    faces = noise(BATCH + 1, eight_bits.size)
    alone = [eight_bits.predict(faces[index : index + 1]) for index in range(len(faces))]
    assert eight_bits._opening is None  # no second network for single faces
    eight_bits.predict(faces)
    eight_bits._opening.take()  # waits until it is open
    points, scores = eight_bits.predict(faces)
    np.testing.assert_array_equal(points, np.concatenate([one[0] for one in alone]))
    np.testing.assert_array_equal(scores, np.concatenate([one[1] for one in alone]))


def test_full_batches_go_to_the_network_for_several_crops(eight_bits, monkeypatch):
    counts = []
    faces = noise(2 * BATCH + 3, eight_bits.size)

    class Several:
        running = False

        def take(self):
            return self

        def predict(self, crops):
            counts.append(len(crops))
            return np.zeros((len(crops), 98, 2)), np.zeros((len(crops), 98))

        def close(self):
            pass

    eight_bits._opening = Several()
    points, _ = eight_bits.predict(faces)
    assert counts == [2 * BATCH]
    assert not points[: 2 * BATCH].any()
    assert points[2 * BATCH :].all()


def test_faces_are_predicted_one_by_one_if_the_other_network_cannot_be_compiled(eight_bits):
    def refuse():
        raise ModelError("no")

    eight_bits._open_several = refuse
    faces = noise(BATCH, eight_bits.size)
    for _ in range(2):
        assert eight_bits.predict(faces)[0].all()


def test_large_network_is_not_kept_twice(monkeypatch):
    monkeypatch.setattr(cpu, "SMALL_CROP", 64)
    with OpenVINOBackend(read_model(find_int8(find_model("tiny")))) as opened:
        assert opened.predict(noise(BATCH, opened.size))[0].all()
        assert opened._opening is None


def test_crops_of_a_wrong_size_are_one_clear_error_in_eight_bits_too(eight_bits):
    with pytest.raises(BackendError, match=r"8 bits: the network failed \(.+\)$"):
        eight_bits.predict(crops(1, eight_bits.size + 1))
    assert eight_bits.predict(crops(1, eight_bits.size))[0].shape == (1, 98, 2)
