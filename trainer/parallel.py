"""Distributed training: torchrun starts the processes, torch.distributed connects them."""

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

MAX_WORKERS = 16
"""Processes that make batches for one GPU, at most."""


@dataclass(frozen=True)
class World:
    """The group of processes that train together, as seen by one of them."""

    device: torch.device
    rank: int = 0
    world_size: int = 1  # number of processes
    local_world_size: int = 1  # number of processes on this machine
    cpu_group: "distributed.ProcessGroup | None" = None  # for values in CPU memory

    @property
    def first(self) -> bool:
        """Whether this process has rank 0: it writes the files and shows progress."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self.cpu_group)
        return [float(one) for one in sums]

    def any(self, condition: bool) -> bool:
        """Return whether the condition is true in any process."""
        return self.sum(float(condition))[0] > 0

    def default_workers(self) -> int:
        """Return how many worker processes should make batches for this process; 0 means a thread.

        With a GPU: the share of this process in the CPU cores, less one. Without: 0, as the network needs the cores.
        """
        if self.device.type == "cpu" or sys.platform != "linux":
            return 0
        free = len(os.sched_getaffinity(0)) // self.local_world_size - 1
        return min(free, MAX_WORKERS) if free > 1 else 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a module with the same weights, whose gradients are averaged over all processes."""
        if self.world_size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # torch < 2.13
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, devices, gradient_as_bucket_view=True, **options)


@contextlib.contextmanager
def join_processes() -> Iterator[World]:
    """Connect the processes that torchrun started. Without torchrun the world is this process alone.

    Raises BackendError if there are more processes on this machine than GPUs.
    """
    cuda = torch.cuda.is_available()
    if not distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield World(torch.device("cuda" if cuda else "cpu"))
        return
    rank, world_size, local_rank, local_world_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if cuda and local_world_size > torch.cuda.device_count():
        raise BackendError(
            f"{local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs; start one per GPU"
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    yield World(device, rank, world_size, local_world_size, distributed.new_group(backend="gloo"))
    # Not after an error: other processes may still wait for this one, and torchrun ends them.
    distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over all processes. Its backward pass sums the gradients over all processes too."""

    @staticmethod
    def forward(_: Any, local: Tensor) -> Tensor:
        total = local.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _mean(local: Tensor) -> Tensor:
    """Return the mean over all processes."""
    total: Tensor = _Sum.apply(local)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class SyncBatchNormCPU(nn.BatchNorm2d):
    """Batch normalization over the batches of all processes. `nn.SyncBatchNorm` does this on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if not self.training:
            return super().forward(x)
        full = x.float()
        mean = _mean(full.mean((0, 2, 3)))
        centered = full - mean[:, None, None]
        variance = _mean(centered.square().mean((0, 2, 3)))
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


def sync_batch_norm(network: nn.Module, world: World) -> nn.Module:
    """Normalize over the whole batch, so that the result does not depend on the number of processes."""
    if world.world_size == 1:
        return network
    if world.device.type == "cuda":
        synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronized
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNormCPU  # keeps the parameters and buffers, and their names
    return network
