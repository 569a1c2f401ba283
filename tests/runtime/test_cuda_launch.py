"""`Cuda` on a fake driver: which calls it makes, in which order, and what is left after errors."""

from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime.cuda import launch
from canthus.runtime.cuda.launch import Address, Cuda, find_gpu
from canthus.runtime.errors import BackendError


class Status(int):
    """A CUresult."""

    @property
    def name(self) -> str:
        return {0: "CUDA_SUCCESS", 600: "CUDA_ERROR_NOT_READY", 2: "CUDA_ERROR_OUT_OF_MEMORY"}[self]


OK, NOT_READY, NO_MEMORY = Status(0), Status(600), Status(2)


class FakeDriver:
    """The part of cuda.bindings.driver that `Cuda` uses. Device memory is an address that counts up."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=OK, CUDA_ERROR_NOT_READY=NOT_READY)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=9, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=0
    )
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.depth = 0  # of the stack of contexts
        self.address = 4096
        self.memory: set[int] = set()
        self.buffers: dict[int, np.ndarray] = {}
        self.status = dict.fromkeys(("cuStreamQuery", "cuGraphInstantiate", "cuMemAlloc", "cuMemFree"), OK)
        self.launched: list[tuple] = []

    def __getattr__(self, name: str):
        """Any other call succeeds, and is noted."""
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*_: object) -> tuple:
            self.calls.append(name)
            outside = ("cuInit", "cuDevice", "cuCtx")
            assert self.depth or name.startswith(outside), f"{name} without a context"
            return (self.status.get(name, OK), 7)

        return call

    def _note(self, name: str, *values: object) -> tuple:
        self.calls.append(name)
        assert self.depth, f"{name} without a context"
        return (self.status.get(name, OK), *values)

    def cuInit(self, flags):  # noqa: N802
        return (OK,)

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return OK, attribute

    def cuDeviceGetName(self, size, device):  # noqa: N802
        return OK, b"NVIDIA X\0\0"

    def cuCtxPushCurrent(self, context):  # noqa: N802
        self.depth += 1
        return (OK,)

    def cuCtxPopCurrent(self):  # noqa: N802
        self.depth -= 1
        return OK, 7

    def cuMemAlloc(self, size):  # noqa: N802
        result = self._note("cuMemAlloc", self.address)
        if not result[0]:
            self.memory.add(self.address)
            self.address += 4096
        return result

    def cuMemFree(self, address):  # noqa: N802
        self.memory.remove(address)
        return self._note("cuMemFree")

    def cuMemHostAlloc(self, size, flags):  # noqa: N802
        buffer = np.zeros(size, np.uint8)
        self.buffers[buffer.ctypes.data] = buffer
        return self._note("cuMemHostAlloc", buffer.ctypes.data)

    def cuMemFreeHost(self, address):  # noqa: N802
        del self.buffers[address]
        return self._note("cuMemFreeHost")

    def cuStreamQuery(self, stream):  # noqa: N802
        return self._note("cuStreamQuery")

    def cuLaunchKernel(self, *values):  # noqa: N802
        self.launched.append(values)
        return self._note("cuLaunchKernel")

    def cuMemGetInfo(self):  # noqa: N802
        return self._note("cuMemGetInfo", 3, 4)


@pytest.fixture
def driver(monkeypatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(launch, "_driver", lambda: fake)
    return fake


def test_the_context_is_current_during_calls_only(driver):
    cuda = Cuda()
    assert (cuda.gpu.name, cuda.gpu.capability) == ("NVIDIA X", 90)
    assert driver.depth == 0
    with pytest.raises(ZeroDivisionError), cuda.active():
        assert driver.depth == 1
        raise ZeroDivisionError
    assert driver.depth == 0  # whatever was current before is current again


def test_close_frees_everything_once(driver):
    cuda = Cuda()
    with cuda.active():
        freed, kept = cuda.allocate(10), cuda.allocate(10)
        pinned, other = cuda.allocate_pinned(5), cuda.allocate_pinned(0)
        cuda.free(freed)
        cuda.free_pinned(pinned)
        with cuda.capture():
            pass
        cuda.measure_seconds(lambda: None)
        assert cuda.available_memory() == 3
    assert driver.memory == {kept}
    assert list(driver.buffers) == [other.ctypes.data]
    cuda.close()
    cuda.close()
    assert not driver.memory
    assert not driver.buffers
    assert [driver.calls.count(name) for name in ("cuGraphExecDestroy", "cuEventDestroy", "cuStreamDestroy")] == [
        1,
        2,
        1,
    ]
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease"
    assert driver.depth == 0


def test_memory_whose_release_fails_is_not_released_again(driver):
    cuda = Cuda()
    with cuda.active():
        address = cuda.allocate(10)
        driver.status["cuMemFree"] = NO_MEMORY
        with pytest.raises(BackendError, match="CUDA: CUDA_ERROR_OUT_OF_MEMORY"):
            cuda.free(address)
    driver.status["cuMemFree"] = OK
    cuda.close()
    assert driver.calls.count("cuMemFree") == 1


def test_a_gpu_without_a_result_in_time_is_an_error_and_is_left_alone(driver):
    cuda = Cuda()
    with cuda.active():
        cuda.allocate(10)
        cuda.synchronize()
        driver.status["cuStreamQuery"] = NOT_READY
        with pytest.raises(BackendError, match=r"NVIDIA X: no result within 0\.01 s"):
            cuda.synchronize(0.01)
    before = list(driver.calls)
    cuda.close()
    assert cuda.hung
    assert driver.calls == before  # each call would wait for the GPU


def test_a_graph_is_uploaded_after_its_capture(driver):
    cuda = Cuda()
    with cuda.active(), cuda.capture() as graphs:
        driver.calls.clear()
    assert graphs == [7]
    expected = ["cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy", "cuGraphUpload"]
    assert driver.calls[:4] == expected
    with cuda.active():
        cuda.replay(graphs[0])
    assert driver.calls[-1] == "cuGraphLaunch"


@pytest.mark.parametrize("inside", [True, False])
def test_a_failed_capture_is_ended_and_leaves_no_graph(driver, inside):
    cuda = Cuda()
    driver.status["cuGraphInstantiate"] = NO_MEMORY
    with cuda.active(), pytest.raises(BackendError, match=r"OUT_OF_MEMORY|not captured"), cuda.capture() as graphs:
        if inside:
            raise BackendError("not captured")
    assert graphs == []
    assert driver.calls.count("cuStreamEndCapture") == driver.calls.count("cuGraphDestroy") == 1
    assert "cuGraphUpload" not in driver.calls


def test_arguments_of_a_kernel_have_the_types_of_its_parameters(driver):
    cuda = Cuda()
    with cuda.active():
        cuda.launch("kernel", (1, 2, 3), (16, 16, 1), Address(2**40), 5, 0.5, shared=64)
    (values,) = driver.launched
    assert values[:8] == ("kernel", 1, 2, 3, 16, 16, 1, 64)
    numbers, types = values[9]
    assert numbers == (2**40, 5, 0.5)
    assert [one.__name__ for one in types] == ["c_void_p", "c_int", "c_float"]


def test_there_is_no_gpu_without_a_driver(monkeypatch, driver):
    assert find_gpu().capability == 90

    def absent():
        raise BackendError("no NVIDIA driver on this machine")

    monkeypatch.setattr(launch, "_driver", absent)
    assert find_gpu() is None
