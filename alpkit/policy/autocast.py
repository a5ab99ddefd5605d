"""The trainer's precision: autocast over float32 masters, with or without the LM head in it.

Every forward of the trainer's own policy goes through here (updates, log pi_old, evaluation, probe,
replay), so that all of them round alike. Not here: the sampler's precision (`alpkit.rollout`).

    with precision.autocast(device):
        response_logprobs(model, ..., head_float32=precision.head_float32)
"""

from typing import Final, Literal, NamedTuple

import torch

TrainDtype = Literal["float32", "bfloat16", "float16"]
Head = Literal["autocast", "float32"]

_LOW: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision(NamedTuple):
    """`dtype` of the autocast (float32: none) and whether the LM head is part of it."""

    dtype: TrainDtype = "float32"
    head: Head = "autocast"

    @property
    def head_float32(self) -> bool:
        return self.head == "float32"

    def autocast(self, device: torch.device) -> torch.autocast:
        """Give the context in which the policy's forwards run."""
        low = _LOW.get(self.dtype)
        return torch.autocast(device.type, low or torch.bfloat16, enabled=low is not None)


FLOAT32: Final = Precision()
