"""Several processes that train as one: torchrun starts them, torch.distributed joins them."""

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from canthus.runtime.errors import BackendError


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    neighbours: int = 1  # processes on this machine
    control: "distributed.ProcessGroup | None" = None  # for what the processes agree on, on the CPU

    @property
    def first(self) -> bool:
        """Is this the process that writes files and shows progress?"""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sums over all processes."""
        if self.ranks == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self.control)
        return [float(one) for one in sums]

    def any(self, here: bool) -> bool:
        """Does it hold in any process?"""
        return self.total(float(here))[0] > 0

    def workers(self) -> int:
        """How many processes should make batches for this one.

        Beside a GPU, the cores that it has to itself but one; on the CPU the network needs the cores.
        """
        if self.device.type == "cpu" or sys.platform != "linux":
            return 0
        free = len(os.sched_getaffinity(0)) // self.neighbours - 1
        return min(free, 16) if free > 1 else 0

    def spread(self, network: nn.Module) -> nn.Module:
        """The network as it is called in training: the same object's weights, its gradients the mean of all."""
        if self.ranks == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.13
        own: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, devices, gradient_as_bucket_view=True, **own)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started; alone where it started none, or one."""
    cuda = torch.cuda.is_available()
    if not distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield World(torch.device("cuda" if cuda else "cpu"))
        return
    rank, ranks, place, neighbours = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if cuda and neighbours > torch.cuda.device_count():
        raise BackendError(f"{neighbours} processes on a machine that shows {torch.cuda.device_count()} GPUs")
    device = torch.device("cuda", place) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    yield World(device, rank, ranks, neighbours, distributed.new_group(backend="gloo"))
    # Not after an error: the others may still wait for this process, and are ended by torchrun.
    distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; a gradient of it reaches every process's part."""

    @staticmethod
    def forward(_: Any, here: Tensor) -> Tensor:
        total = here.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _everywhere(here: Tensor) -> Tensor:
    """The mean over all processes."""
    total: Tensor = _Sum.apply(here)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class SharedNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, which torch itself has only on GPUs."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if not self.training:
            return super().forward(x)
        full = x.float()
        mean = _everywhere(full.mean((0, 2, 3)))
        centred = full - mean[:, None, None]
        deviation = _everywhere(centred.square().mean((0, 2, 3)))
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(deviation * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(deviation + self.eps)
        normal: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normal.to(x.dtype)


def share_norms(network: nn.Module, world: World) -> nn.Module:
    """Let batch normalisation see the whole batch, so that a run does not depend on how many processes share it."""
    if world.ranks == 1:
        return network
    if world.device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedNorm  # the same parameters and buffers under the same names
    return network
