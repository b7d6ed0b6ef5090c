"""Training of one network by several processes, which torchrun starts. A single process works too.

Each process has the same weights and a part of each batch. Embeddings and labels are gathered from all
processes, so that each process computes the loss of the whole batch, and finds the hardest pairs in the whole
batch. Batch normalisation uses the statistics of the whole batch too. The losses therefore equal those of one
process, up to rounding.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from training.engine.errors import TrainingError

Value = TypeVar("Value")


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the other processes if torchrun started this one, and give the device of this process.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: the device is unknown or absent.
    """
    chosen = choose_device(device)
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield chosen
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if chosen.index >= torch.cuda.device_count():
            raise TrainingError(
                f"process {chosen.index} has no GPU: this machine has {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``; ``auto`` is CUDA if torch finds a CUDA device.

    Raises:
        TrainingError: the name is unknown, or torch finds no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"--device is auto, cpu or cuda, not {name}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda needs a CUDA device, and torch finds none")
    return torch.device(name)


def is_joined() -> bool:
    """Say whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0. Process 0 writes the files."""
    return dist.get_rank() if is_joined() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_joined() else 1


def wait() -> None:
    """Wait until every process has called this function."""
    if is_joined():
        dist.barrier()


def parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a network so that each backward pass averages the gradients of all processes."""
    if not is_joined():
        return network
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices)


def own_part(batch: Sequence[Value]) -> Sequence[Value]:
    """Return this process's part of a batch: one of `world_size` contiguous parts of equal size."""
    size = len(batch) // world_size()
    return batch[rank() * size : (rank() + 1) * size]


class Sum(torch.autograd.Function):
    """Sum a tensor over all processes. The gradient is the sum of the gradients in all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """Return the sum of the tensors of all processes."""
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients of all processes."""
        return Sum.forward(ctx, gradient)


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks; gradients flow back to each process.

    Each process computes the same loss from the gathered rows, so the gradient of its rows is `world_size`
    times too large. The average over the processes that `parallel` takes makes up for this factor.

    Args:
        rows: (N, ...), with the same shape in each process.
    """
    if not is_joined():
        return rows
    padded = rows.new_zeros((world_size(), *rows.shape))
    padded[rank()] = rows
    gathered: Tensor = Sum.apply(padded)
    return gathered.flatten(0, 1)


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a module over all processes, for a module that `parallel` does not wrap."""
    if is_joined():
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()


def share(items: Sequence[Value]) -> Sequence[Value]:
    """Return the items that this process works on when all processes share a list: every `world_size`-th."""
    return items[rank() :: world_size()]


def collect(results: Mapping[int, Value]) -> list[Value]:
    """Return the results of all processes, in the order of their keys; each process calls this function."""
    parts: list[Any] = [results]
    if is_joined():
        parts = [None] * world_size()
        dist.all_gather_object(parts, dict(results))
    everything = {key: value for part in parts for key, value in part.items()}
    return [everything[key] for key in sorted(everything)]


def synchronise_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace each batch normalisation by one over all processes, with the same weights and statistics."""
    if not is_joined():
        return network
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SynchronisedNorm(child))
    return network


class SynchronisedNorm(_BatchNorm):
    """Batch normalisation over all processes on a CPU, where torch's SyncBatchNorm does not run.

    Each process must have the same number of images.

    Args:
        norm: the batch normalisation whose weights and statistics are used.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise a tensor (N, C, ...) by channel."""
        if not self.training:
            return torch.as_tensor(super().forward(input))
        values, shape = input.float(), (1, -1, *[1] * (input.dim() - 2))
        dims = [0, *range(2, input.dim())]
        count = values.numel() // self.num_features * world_size()
        mean = (Sum.apply(values.sum(dims, dtype=torch.float64)) / count).float()
        centred = values - mean.view(shape)
        variance = (Sum.apply(centred.square().sum(dims, dtype=torch.float64)) / count).float()
        if self.track_running_stats:
            self._update_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale: Tensor = self.weight * torch.rsqrt(variance + self.eps)
        normalised = centred * scale.view(shape) + self.bias.view(shape)
        return torch.as_tensor(normalised, dtype=input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        running_mean, running_var, momentum = self.running_mean, self.running_var, self.momentum
        if running_mean is not None and running_var is not None and momentum is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
