"""Settings of the machine: the one section that decides no number of a run, and so no cell id.

Changing it changes nothing beyond float rounding. Names that a key had before are refused where they
stood (`RENAMED` makes the messages) and moved silently where a run folder has stored them (`stored.py`).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from alpkit.config.base import Section

_LATER: Final = "is not there yet: a cell runs on one device; take it out"


class HardwareConfig(Section):
    """Fit a run to one machine; changes no number beyond float rounding, and no cell."""

    refused: ClassVar[dict[str, str]] = {"ranks": _LATER, "sampler_sleep": _LATER}

    micro_batch_tokens: PositiveInt = 4096
    """Most tokens of one forward, prompts included: a hard bound, so no sequence may be longer."""
    head_chunk: PositiveInt | None = None
    """Response tokens per pass through the LM head; default: as many as their logits have room for."""
    rollout_batch: PositiveInt | None = None
    """Sequences that the hf engine generates at once; default: at most 512, fewer where memory is short."""
    eval_batch: PositiveInt | None = None
    """Sequences generated or scored at once on the trainer's own weights; default: as rollout_batch."""
    checkpoint_layers: bool = False
    """Recompute the layers in the backward pass: about a third more time for the activations of one layer."""
    sampler_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of a GPU's memory for vLLM beside the trainer."""
    sampler_kv_gib: PositiveFloat = 1.0
    """Memory for vLLM's keys and values on a CPU, GiB."""
    attention: Literal["auto", "sdpa", "varlen"] = "auto"
    """Kernel of packed forwards: varlen (CUDA in half precision), sdpa sample by sample; auto: the first that runs."""


RENAMED: Final[Mapping[tuple[str, str], str]] = {
    ("train", "micro_batch_tokens"): "micro_batch_tokens",
    ("train", "head_chunk"): "head_chunk",
    ("rollout", "batch"): "rollout_batch",
    ("rollout", "gpu_memory_utilization"): "sampler_share",
    ("rollout", "kv_cache_gib"): "sampler_kv_gib",
}
"""Section and name that a key had, and its name in `hardware`."""


def renamed(section: str, *names: str) -> dict[str, str]:
    """Return what to say of the keys that moved from `section` to `hardware`; without names, all of them."""
    return {
        old: f"is now hardware.{new}, which is no part of a cell's identity; move it there"
        for (owner, old), new in RENAMED.items()
        if owner == section and (not names or old in names)
    }
