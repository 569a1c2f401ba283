"""OpenVINO on the CPU: faults of the library become one clear error."""

import threading

import numpy as np
import pytest

from canthus.runtime.backends.cpu import OpenVINOBackend
from canthus.runtime.errors import BackendError
from canthus.runtime.models import find_model, read_model


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
