"""Choose how much goes through a model at once, by the memory that is free: rows to generate, tokens for the head.

Results change by float rounding only, whatever these say. Not here: the token budget of a micro-batch,
which is the user's (`hardware.micro_batch_tokens`).
"""

import ctypes
import os
import sys
from typing import Final

import torch
from transformers import PreTrainedModel

_MIB: Final = 2**20
_LOGITS_CPU: Final = 64 * _MIB
"""Bytes of one chunk's float32 logits; a few times as much lives at once. More is no faster on a CPU."""
_LOGITS_GPU_SHARE: Final = 1 / 256
_MOST_ROWS: Final = 512
_CACHE_SHARE: Final = 1 / 8
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h


def head_chunk(model: PreTrainedModel, device: torch.device) -> int:
    """Tokens whose logits fit one chunk of the LM head."""
    room = _LOGITS_CPU
    if device.type == "cuda":
        room = max(room, int(total_memory(device) * _LOGITS_GPU_SHARE))
    return max(1, room // (4 * int(model.config.get_text_config().vocab_size)))


def generated_rows(model: PreTrainedModel, tokens: int, device: torch.device) -> int:
    """Sequences of `tokens` whose keys and values take at most an eighth of the memory, 512 at most."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * 4 * int(config.num_hidden_layers) * int(heads) * int(width) * tokens
    return max(1, min(_MOST_ROWS, int(total_memory(device) * _CACHE_SHARE) // row))


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
