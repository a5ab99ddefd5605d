"""A model's sizes as its config.json gives them: parameters and arithmetic, without torch.

    shape = read_shape("builtin:smollm2-135m", None)     # None: nothing here can tell
    shape.parameters, shape.kept_per_token(autocast=False)

Exact for decoders of the Llama kind (RMS norms, rotary positions, a gated MLP), which tests count on
real models; `Shape.exact` says of others that the same sums are an estimate. Mixtures of experts are
not known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alpkit.policy.folders import local_folder

_EXACT: Final = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_BIASED: Final = ("qwen2",)
_NORMED_HEADS: Final = ("qwen3",)
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
PADDED: Final = 1.1
"""Slots of the attention kernel for a token: samples of like length share a call (`attention.Segments`)."""
_SMOLLM2: Final[Mapping[str, object]] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
"""The built-in that has no config.json before its first use."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; `inner` is the MLP's width, `width` an attention head's."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    width: int
    vocab: int
    tied: bool
    biased: bool = False
    """Whether queries, keys and values have biases."""
    normed_heads: bool = False
    """Whether every head's queries and keys are normalised."""
    exact: bool = True
    """Whether the sums below are exact for this architecture."""

    @property
    def attended(self) -> int:
        """Numbers of a token's queries."""
        return self.heads * self.width

    @property
    def cached(self) -> int:
        """Numbers of a token's keys, and as many of its values."""
        return self.kv_heads * self.width

    @property
    def matrices(self) -> int:
        """Weights of one layer's matrices."""
        return self.hidden * (2 * self.attended + 2 * self.cached + 3 * self.inner)

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Weights of the whole model, shared ones once."""
        layer = self.matrices + 2 * self.hidden
        layer += (self.attended + 2 * self.cached) * self.biased
        layer += 2 * self.width * self.normed_heads
        return self.layers * layer + self.hidden + self.head * (1 if self.tied else 2)

    def kept_per_token(self, *, autocast: bool) -> float:
        """Bytes that one layer keeps of a packed token for its backward pass.

        Both norms' input and what they normalise to, the inputs of every matrix, queries, keys and values as
        the kernel takes them (keys and values once a head), its output, and the MLP's four parts. Autocast
        halves what goes through matrices, and copies it for each.
        """
        h, a, k, f = self.hidden, self.attended, self.cached, self.inner
        kernel = PADDED * 4 * a
        softmax = PADDED * self.heads
        heads = self.heads + self.kv_heads
        if autocast:
            kept = 4 * (4 * h + 2 + softmax) + 2 * (5 * h + a + kernel + 4 * f)
            return kept + self.normed_heads * (4 * (a + k + heads) + 2 * (a + k))
        kept = 4 * (6 * h + a + kernel + 4 * f + 2 + softmax)
        return kept + self.normed_heads * 4 * (2 * (a + k) + heads)

    def kept_once_per_token(self) -> int:
        """Bytes kept of a token beside the layers: the last norm's, the head's input, the rotary angles."""
        return 4 * (3 * self.hidden + 2 * self.width)

    def flops_per_token(self) -> int:
        """Operations of a token's way forward through the layers' matrices; two for a weight."""
        return 2 * self.layers * self.matrices

    def flops_per_pair(self) -> int:
        """Operations forward for one token that attends to one: a score and a weighted value, all layers."""
        return 4 * self.layers * self.attended

    def flops_per_prediction(self) -> int:
        """Operations forward of the LM head for one token."""
        return 2 * self.head


def read_shape(name: str, revision: str | None) -> Shape | None:
    """Read the sizes of `builtin:…`, a folder or a hub id that was downloaded; None where they are not known."""
    if name == "builtin:smollm2-135m":
        return shape_of(_SMOLLM2)
    folder = local_folder(name)
    path = _downloaded(name, revision) if folder is None else folder / "config.json"
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return shape_of(config) if isinstance(config, dict) else None


def shape_of(config: Mapping[str, object]) -> Shape | None:
    """Read the sizes from a model's configuration; None for what is no plain decoder."""
    inside = config.get("text_config")
    config = inside if isinstance(inside, dict) else config
    if any(_number(config, name) for name in _EXPERTS):
        return None
    layers, hidden = _number(config, "num_hidden_layers"), _number(config, "hidden_size")
    heads, inner = _number(config, "num_attention_heads"), _number(config, "intermediate_size")
    vocab, kind = _number(config, "vocab_size"), config.get("model_type")
    if not (layers and hidden and heads and inner and vocab):
        return None
    return Shape(
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads") or heads,
        width=_number(config, "head_dim") or hidden // heads,
        vocab=vocab,
        tied=bool(config.get("tie_word_embeddings", False)),
        biased=bool(config.get("attention_bias", False)) or kind in _BIASED,
        normed_heads=kind in _NORMED_HEADS,
        exact=kind in _EXACT and not config.get("attention_bias") and not config.get("mlp_bias"),
    )


def _number(config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else 0


def _downloaded(name: str, revision: str | None) -> Path | None:
    """Find a hub model's config.json among what was downloaded; never asks the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
