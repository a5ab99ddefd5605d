"""Random models built from config objects: no download, milliseconds."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM


def tiny_qwen2(*, layers=3, tied=False, seed=0, vocab=20, hidden=32):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config).eval()


def tiny_gpt2(*, layers=3, seed=0):
    """All float64 on request: unlike the RMSNorm of the Qwen family, LayerNorm never casts to float32."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=20, n_embd=32, n_layer=layers, n_head=2, n_positions=64, initializer_range=0.3
    )
    return GPT2LMHeadModel(config).eval()
