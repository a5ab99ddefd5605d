"""Estimate a run's need of a device's memory from the model's shape alone; imports no torch.

    found = needs(shape, config, gpu_bytes=None)      # None: a CPU
    found.total, found.parts

Parts that are always there add up, of the phases of a step (sampling, updating) the larger counts. Tests
compare it with tensors that were counted. The same module says how much goes through a model at once, so
that plan and trainer cannot disagree.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from alpkit.config import RunConfig
from alpkit.config.hardware import HardwareConfig
from alpkit.policy.shapes import Shape

_MIB: Final = 2**20
_GIB: Final = 2**30
_LOGITS_CPU: Final = 64 * _MIB
"""Bytes of one chunk's float32 logits; a few times as much lives at once. More is no faster on a CPU."""
_LOGITS_GPU_SHARE: Final = 1 / 256
MOST_ROWS: Final = 512
"""Sequences generated at once, where memory allows it."""
_CACHE_SHARE: Final = 1 / 8
_KEPT_CPU: Final = 512 * _MIB
"""Bytes of a forward's activations to aim at on a CPU, where larger matrices are no faster."""
_FEWEST_TOKENS: Final = 256
"""Below it matrices are slower on a CPU."""
_PROCESS: Final = 640 * _MIB
"""A process that has imported everything and holds no tensor."""
_VLLM_PROCESS: Final = 1024 * _MIB
_CUDA_CONTEXT: Final = 512 * _MIB
_LOGIT_BYTES: Final = 28
"""Of one number that is sampled from: logits as they come and divided, a float64 CDF, log-probs."""
_MOMENTS: Final = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}
"""Bytes of a weight's two moments; 8-bit ones share a scale among 256."""
PROMPT: Final = 128
"""Tokens of a prompt, where nothing says how long they are."""


class Needs(NamedTuple):
    """Bytes that one cell needs of one device, by what they are for; `phases` do not come together."""

    standing: Mapping[str, int]
    phases: Mapping[str, int]

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return sum(self.standing.values()) + max(self.phases.values())

    @property
    def parts(self) -> dict[str, int]:
        """Everything that stands, and the largest phase."""
        name = max(self.phases, key=lambda phase: self.phases[phase])
        return {**self.standing, name: self.phases[name]}


def prompt_tokens(config: RunConfig) -> int:
    """Give the tokens of a prompt that are reckoned with."""
    return config.rollout.filter.max_prompt or PROMPT


def needs(shape: Shape, config: RunConfig, *, gpu_bytes: int | None) -> Needs:
    """Estimate what one cell needs; `gpu_bytes`: the GPU's memory."""
    prompt = prompt_tokens(config)
    weights = 4 * shape.parameters
    standing = {
        "process": _PROCESS if gpu_bytes is None else _CUDA_CONTEXT,
        "weights": weights,
        "gradients": weights,
        "optimizer": int(_MOMENTS[config.train.optimizer] * shape.parameters),
    }
    if config.objective.reference_kl.coef > 0:
        standing["reference policy"] = weights
    if gpu_bytes is None and config.rollout.lag:
        standing["lagging weights"] = (config.rollout.lag + 1) * weights
    if config.rollout.engine == "hf":
        standing["sampler"] = weights
    elif gpu_bytes is None:
        size = 4 if config.rollout.dtype == "float32" else 2
        cache = int(config.hardware.sampler_kv_gib * _GIB)
        standing["sampler"] = size * shape.parameters + cache + _VLLM_PROCESS
    else:
        standing["sampler"] = int(config.hardware.sampler_share * gpu_bytes)
    phases = {
        "an update": update_bytes(shape, config, gpu_bytes=gpu_bytes),
        "sampling": sampling_bytes(shape, config, gpu_bytes=gpu_bytes, prompt=prompt),
        "an evaluation": evaluation_bytes(shape, config, gpu_bytes=gpu_bytes, prompt=prompt),
    }
    return Needs(standing, phases)


def update_bytes(shape: Shape, config: RunConfig, *, gpu_bytes: int | None) -> int:
    """Bytes of the largest forward and backward, beside weights, gradients and optimizer."""
    hardware, autocast = config.hardware, config.dtype != "float32"
    on_gpu = gpu_bytes is not None
    aim = None if config.objective.cut_matters else forward_tokens(
        shape, hardware, autocast=autocast, on_gpu=on_gpu
    )  # fmt: skip
    tokens = min(hardware.micro_batch_tokens, aim or hardware.micro_batch_tokens, _batch(config))
    layer = int(tokens * shape.kept_per_token(autocast=autocast))
    copies = 2 * shape.matrices if autocast else 0  # a layer's weights in half precision
    inside = _layer_backward(shape, tokens)
    if hardware.checkpoint_layers:
        kept = tokens * shape.layers * 4 * shape.hidden
        inside += layer + copies
    else:
        kept = shape.layers * (layer + copies)
    kept += tokens * shape.kept_once_per_token() + (2 * shape.head if autocast else 0)
    return kept + max(_head_bytes(shape, config, tokens, gpu_bytes), inside)


def sampling_bytes(shape: Shape, config: RunConfig, *, gpu_bytes: int | None, prompt: int) -> int:
    """Bytes of sampling a rollout by the hf engine; vLLM's are part of the sampler."""
    if config.rollout.engine != "hf":
        return 0
    rows = config.rollout.prompts * config.rollout.group
    batch, longest = config.hardware.rollout_batch, config.rollout.max_tokens
    return _generation(shape, rows, batch, prompt, longest, gpu_bytes or machine_bytes())


def evaluation_bytes(shape: Shape, config: RunConfig, *, gpu_bytes: int | None, prompt: int) -> int:
    """Bytes of an evaluation on the trainer's own weights, its largest set counting."""
    if config.eval.engine == "sampler":
        return 0
    sets = [
        (
            (entry.items or config.eval.items) * (entry.k or config.eval.k),
            entry.max_tokens or config.rollout.max_tokens,
        )
        for entry in config.evals
    ] or [(config.eval.items * config.eval.k, config.rollout.max_tokens)]
    batch, memory = config.hardware.eval_batch, gpu_bytes or machine_bytes()
    return max(_generation(shape, rows, batch, prompt, new, memory) for rows, new in sets)


def _generation(
    shape: Shape, rows: int, batch: int | None, prompt: int, new: int, memory: int
) -> int:
    """Bytes of transformers' generation: keys and values, one layer's again, logits or the prompt's forward."""
    row = 2 * 4 * shape.layers * shape.cached * (prompt + new)
    rows = min(batch or generated_rows(row, memory), rows)
    step = 2 * row // shape.layers + _LOGIT_BYTES * shape.vocab
    first = 4 * prompt * (3 * shape.hidden + 3 * shape.inner)  # of one layer at a time
    return rows * (row + max(step, first))


def head_chunk(vocab: int, gpu_bytes: int | None) -> int:
    """Tokens whose logits fit one chunk of the LM head; `gpu_bytes`: the GPU's memory, None: a CPU."""
    room = _LOGITS_CPU
    if gpu_bytes is not None:
        room = max(room, int(gpu_bytes * _LOGITS_GPU_SHARE))
    return max(1, room // (4 * vocab))


def generated_rows(row_bytes: int, memory: int) -> int:
    """Sequences whose keys and values, `row_bytes` each, take at most an eighth of the memory, 512 at most."""
    return max(1, min(MOST_ROWS, int(memory * _CACHE_SHARE) // row_bytes))


def forward_tokens(
    shape: Shape | None, hardware: HardwareConfig, *, autocast: bool, on_gpu: bool
) -> int | None:
    """Tokens that a forward with gradient should aim at; None: as many as the budget allows.

    A CPU multiplies a few hundred rows as fast as thousands, so that more would cost memory alone.
    """
    if shape is None or on_gpu:
        return None
    layer = shape.kept_per_token(autocast=autocast)
    kept = 4.0 * shape.layers * shape.hidden if hardware.checkpoint_layers else shape.layers * layer
    return max(_FEWEST_TOKENS, int(_KEPT_CPU / kept))


def machine_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory


def _batch(config: RunConfig) -> int:
    """Most tokens of a mini-batch."""
    rows = config.rollout.prompts * config.rollout.group // config.train.updates_per_rollout
    return rows * (prompt_tokens(config) + config.rollout.max_tokens)


def _head_bytes(shape: Shape, config: RunConfig, tokens: int, gpu_bytes: int | None) -> int:
    """Bytes of the LM head's backward pass: a chunk's logits, and its weight's gradient again."""
    chunk = min(tokens, config.hardware.head_chunk or head_chunk(shape.vocab, gpu_bytes))
    exact = config.dtype == "float32" or config.head == "float32"
    at_once = 1 if exact else 5
    return 4 * chunk * shape.vocab * at_once + 4 * shape.head + 4 * tokens * shape.hidden


def _layer_backward(shape: Shape, tokens: int) -> int:
    """Bytes of gradients inside one layer, beside what it frees on the way: of the MLP's middle and its ends."""
    return 4 * tokens * (shape.inner + 2 * shape.hidden)
