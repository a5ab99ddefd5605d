"""Choose how much goes through a model at once, by the memory that is free: rows to generate, tokens for the head.

Results change by float rounding only, whatever these say. Not here: the token budget of a micro-batch,
which is the user's (`hardware.micro_batch_tokens`), and what all of a run needs (`alpkit.policy.needs`).
"""

import ctypes
import os
import sys

import torch
from transformers import PreTrainedModel

from alpkit.config.hardware import HardwareConfig
from alpkit.policy import needs
from alpkit.policy.shapes import shape_of

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h


def head_chunk(model: PreTrainedModel, device: torch.device) -> int:
    """Tokens whose logits fit one chunk of the LM head."""
    gpu = total_memory(device) if device.type == "cuda" else None
    return needs.head_chunk(int(model.config.get_text_config().vocab_size), gpu)


def forward_tokens(
    model: PreTrainedModel, hardware: HardwareConfig, *, autocast: bool
) -> int | None:
    """Tokens that a forward with gradient should aim at; None: as many as the budget allows."""
    shape = shape_of(model.config.to_dict())
    on_gpu = next(model.parameters()).device.type == "cuda"
    return needs.forward_tokens(shape, hardware, autocast=autocast, on_gpu=on_gpu)


def generated_rows(model: PreTrainedModel, tokens: int, device: torch.device) -> int:
    """Sequences of `tokens` whose keys and values take at most an eighth of the memory, 512 at most."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * 4 * int(config.num_hidden_layers) * int(heads) * int(width) * tokens
    return needs.generated_rows(row, total_memory(device))


def keep_freed_memory() -> bool:
    """Let glibc keep what the process frees for what it allocates next; says whether it does.

    Else every large tensor on a CPU begins with fresh pages, which the kernel clears: a third of a forward.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another libc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def total_memory(device: torch.device) -> int:
    """Bytes of the device's memory, whoever uses them."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
