"""State dicts in torch's own files, read without running anything that is in them."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, or what lies under ``state_dict`` in a training checkpoint, onto the CPU.

    Raises:
        CheckpointError: the file is absent, torn, of another kind, or would run code when unpickled.
    """
    try:
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"unpickling it would run {found[1]}" if found else "it is torn, or more than tensors"
        raise CheckpointError(
            f"{path} is refused: {reason}; only tensors and plain values are read"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch's reader answers torn bytes with nearly every error there is
        kind = type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a torch state dict ({kind}): it is torn") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds no state dict of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds no state dict of tensors")
        if not _is_plain(tensor):
            raise CheckpointError(f"{path} has no plain numbers in {name}")
    return {name: tensor.detach() for name, tensor in state.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Say whether a tensor's numbers are all in memory, where a stride of 0 could claim any."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    is_whole = tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    return is_whole and not tensor.is_complex()
