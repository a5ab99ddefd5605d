"""Packed forwards against padded ones: log-probs, entropy and every gradient, with noise and without."""

import logging

import pytest
import torch
from torch.testing import assert_close

from alpkit.config.hardware import HardwareConfig
from alpkit.config.perturbation import PerturbationConfig
from alpkit.policy.attention import Packing, Segments, can_pack, packing_of
from alpkit.policy.logprobs import packed_samples, response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from tests.support.tiny_models import ARCHITECTURES, tiny

SITES = ["layer_input", "attention_output", "mlp_output", "embedding", "final_hidden", "logits"]
PROMPTS, RESPONSES = (3, 9, 1, 5, 2), (7, 2, 40, 11, 1)


def batch(vocab=20):
    """Five rows of very different lengths: prompts padded left, responses right."""
    generator = torch.Generator().manual_seed(3)
    left, right = max(PROMPTS), max(RESPONSES)
    tokens = torch.randint(0, vocab, (len(PROMPTS), left + right), generator=generator)
    attention, response = (torch.zeros(tokens.shape, dtype=torch.bool) for _ in range(2))
    for row, (prompt, length) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        attention[row, left - prompt : left + length] = True
        response[row, left : left + length] = True
    return tokens, attention, response


def scored(model, packing, noise=None, **settings):
    """Log-probs, entropy and the gradients of everything for one weighted sum of log-probs."""
    tokens, attention, response = batch()
    ids = torch.tensor([4, 0, 7, 2, 9])
    model.zero_grad()
    context = torch.enable_grad()
    if noise is not None:
        noise.log_sigma.grad = None
        sample, mask = (
            (ids, attention) if packing is None else (packed_samples(ids, attention), None)
        )
        context = noise.active((1, 2, 3), sample=sample, mask=mask)
    with context:
        got = response_logprobs(model, tokens, attention, response, packing=packing, **settings)
    weight = torch.linspace(-1, 1, got.logp.numel()).view_as(got.logp)
    (got.logp * weight).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [
        got.logp.detach(),
        got.entropy,
        *gradients,
        *([] if noise is None else [noise.log_sigma.grad]),
    ]


def assert_same(packed, padded):
    assert len(packed) == len(padded)
    for a, b in zip(packed, padded, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_is_padded_on_every_architecture(architecture):
    model = tiny(architecture)
    assert can_pack(model)
    assert_same(scored(model, Packing()), scored(model, None))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("scale", ["absolute", "rms"])
def test_packed_is_padded_with_noise_at_every_site_and_scale(site, scale):
    model = tiny("qwen2", num_key_value_heads=1)
    config = PerturbationConfig(site=site, scale=scale, sigma={"init": 0.3})
    noise = LayerwisePerturbation(model, config)
    packed, padded = scored(model, Packing(), noise), scored(model, None, noise)
    assert_same(packed, padded)
    assert packed[-1].abs().min() > 0
    noise.remove()
    assert (packed[0] - scored(model, Packing())[0]).abs().max() > 1e-2


def test_a_window_is_kept():
    model = tiny("mistral", sliding_window=6)
    assert_same(scored(model, Packing()), scored(model, None))
    assert (scored(model, Packing())[0] - scored(tiny("mistral"), Packing())[0]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_chunks_of_the_head_are_those_of_the_row(chunk):
    model = tiny("llama")
    assert_same(scored(model, Packing(), chunk=chunk), scored(model, None))


def test_samples_of_like_length_go_through_one_call():
    segments = Segments((10, 200, 41, 190, 3), torch.device("cpu"))
    assert segments.groups == [[1, 3], [2, 0], [4]]
    assert segments.grids == [(2, 200), (2, 41), (1, 3)]
    token, slot, padding = segments.layout
    assert token[slot].tolist() == list(range(444))
    assert sorted([*slot.tolist(), *padding.tolist()]) == list(range(len(token)))
    assert len(token) == 2 * 200 + 2 * 41 + 3


@pytest.mark.parametrize("architecture", ["falcon", "falcon_h1", "qwen3_next"])
def test_what_mixes_neighbours_is_told_and_padded(architecture, caplog):
    """Recurrent layers carry on along the row, and some attentions ask nobody how to attend."""
    model = tiny(architecture, **({} if architecture == "falcon" else {"num_key_value_heads": 2}))
    with caplog.at_level(logging.WARNING, logger="alpkit.policy"):
        assert packing_of(model, HardwareConfig()) is None
    assert "cannot be packed" in caplog.text


def test_the_models_own_attention_is_back_afterwards():
    model = tiny("llama")
    scored(model, Packing())
    assert model.config._attn_implementation == "sdpa"
