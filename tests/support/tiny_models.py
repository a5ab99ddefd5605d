"""Random models built from config objects: no download, milliseconds."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_SHARED = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "sdpa",
}
_KV = {"num_key_value_heads": 2, "head_dim": 16}
# fmt: off
ARCHITECTURES = {
    "llama": _KV,
    "qwen2": _KV,
    "qwen3": _KV,
    "mistral": _KV,
    "gemma": _KV,
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "mixtral": _KV | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen3_moe": _KV | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
                        "decoder_sparse_step": 2},
    "gemma2": _KV | {"final_logit_softcapping": 3.0},
    "gemma3_text": _KV,
    "olmo2": _KV,
    "glm4": _KV,
    "cohere": _KV,
    "granite": _KV | {"logits_scaling": 8.0, "residual_multiplier": 0.5},
}
# fmt: on


def tiny(architecture, *, seed=0, **changes):
    """A three-layer model of any architecture that the perturbation must find its way in."""
    torch.manual_seed(seed)
    settings = _SHARED | ARCHITECTURES.get(architecture, {}) | changes
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings)).eval()


def tiny_qwen2(*, layers=3, tied=False, seed=0, vocab=20, hidden=32):
    return tiny(
        "qwen2",
        seed=seed,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        head_dim=hidden // 2,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
    )


def tiny_gpt2(*, layers=3, seed=0):
    """All float64 on request: unlike the RMSNorm of the Qwen family, LayerNorm never casts to float32."""
    return tiny("gpt2", seed=seed, num_hidden_layers=layers)
