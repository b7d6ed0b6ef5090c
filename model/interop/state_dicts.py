"""Reading state dicts that ``torch.save`` wrote, without running code in the file."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    Args:
        path: a file of ``torch.save`` that holds a state dict, or a dict with a state dict at ``state_dict``.

    Returns:
        The tensors by name, without gradients.

    Raises:
        CheckpointError: the file is absent, torn or of another kind, or unpickling the file would run code.
    """
    try:
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"unpickling it would run {found[1]}" if found else "the file is torn or holds other objects"
        raise CheckpointError(
            f"{path} is refused: {reason}; only tensors and plain values are read"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torn bytes make torch raise nearly any error
        kind = type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a torch state dict ({kind}): the file is torn or of another kind"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds no state dict of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds no state dict of tensors")
        if not _is_plain(tensor):
            raise CheckpointError(f"{path} has a tensor that is not dense, real and whole in memory: {name}")
    return {name: tensor.detach() for name, tensor in state.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Say whether a tensor is dense, real and on the CPU, and has memory for each of its numbers.

    With a stride of 0, a tensor of one number could claim any size.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    is_whole = tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    return is_whole and not tensor.is_complex()
