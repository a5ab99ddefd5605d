"""Log-probs of given tokens: the chunked, response-only head against transformers' own forward."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from alpkit.errors import ConfigError
from alpkit.policy import head
from alpkit.policy.head import recomputed_logprobs
from alpkit.policy.logprobs import (
    TokenLogprobs,
    logit_transform,
    response_logprobs,
    verify_head,
)
from alpkit.policy.memory import head_chunk
from tests.support.tiny_models import tiny, tiny_qwen2


def batch():
    """Three rows: left-padded prompts, right-padded responses."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 20, (3, 9), generator=generator)
    attention = torch.tensor(
        [[1] * 9, [0, 0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool
    )
    response = attention.clone()
    response[:, :4] = False
    return tokens, attention, response


def reference(model, tokens, attention, response, temperature):
    """Row by row, without padding, from the model's own logits."""
    logp, entropy = torch.zeros(tokens.shape), torch.zeros(tokens.shape)
    for row in range(len(tokens)):
        real = attention[row].nonzero()[:, 0]
        logits = model(input_ids=tokens[row, real][None]).logits[0].float() / temperature
        log_softmax = logits.log_softmax(-1)
        for i, position in enumerate(real):
            if response[row, position]:
                logp[row, position] = log_softmax[i - 1, tokens[row, position]]
                entropy[row, position] = -(log_softmax[i - 1].exp() * log_softmax[i - 1]).sum()
    return logp, entropy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [2, 4096])
@pytest.mark.parametrize("tied", [False, True])
def test_agrees_with_the_models_own_forward(temperature, chunk, tied):
    model = tiny_qwen2(tied=tied)
    tokens, attention, response = batch()
    got = response_logprobs(
        model, tokens, attention, response, temperature=temperature, chunk=chunk
    )
    with torch.no_grad():
        logp, entropy = reference(model, tokens, attention, response, temperature)
    assert_close(got.logp.detach(), logp, atol=2e-5, rtol=0)
    assert_close(got.entropy, entropy, atol=2e-5, rtol=0)
    assert (got.logp[~response] == 0).all()
    assert not got.entropy.requires_grad


# model, its own field, what the logits are multiplied by, the cap
TRANSFORMS = [
    ("cohere", {"logit_scale": 0.25}, 0.25, None),
    ("cohere2", {"logit_scale": 3.0}, 3.0, None),
    ("granite", {"logits_scaling": 8.0}, 1 / 8, None),
    ("granitemoe", {"logits_scaling": 4.0, "num_local_experts": 2}, 1 / 4, None),
    ("minicpm3", {"dim_model_base": 8}, 1 / 4, None),
    ("hyperclovax", {"logits_scaling": 4.0}, 4.0, None),
    ("gemma2", {"final_logit_softcapping": 3.0}, 1.0, 3.0),
    ("gemma3_text", {"final_logit_softcapping": 2.0}, 1.0, 2.0),
    ("nanochat", {"final_logit_softcapping": 2.0}, 1.0, 2.0),
]


@pytest.mark.parametrize(("architecture", "fields", "scale", "cap"), TRANSFORMS)
def test_logit_transforms_are_those_of_the_models_own_forward(architecture, fields, scale, cap):
    shape = {"num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 1}
    model = tiny(architecture, **(shape | fields))
    assert logit_transform(model) == (scale, cap)
    verify_head(model)
    tokens, attention, response = batch()
    got = response_logprobs(model, tokens, attention, response, temperature=0.7)
    with torch.no_grad():
        logp, entropy = reference(model, tokens, attention, response, 0.7)
    assert_close(got.logp.detach(), logp, atol=5e-5, rtol=0)
    assert_close(got.entropy, entropy, atol=5e-5, rtol=0)


def test_chunks_and_padding_do_not_change_the_gradient():
    tokens, attention, response = batch()
    grads = []
    for chunk, pad in ((4096, 0), (2, 0), (4096, 3)):
        model = tiny_qwen2()
        padded = [torch.nn.functional.pad(x, (pad, pad)) for x in (tokens, attention, response)]
        response_logprobs(model, *padded, chunk=chunk).logp.sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("architecture", "fields"), [("llama", {}), ("cohere", {"logit_scale": 0.25}), ("gemma2", {})]
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_recomputed_head_is_the_head(architecture, fields, tied, temperature):
    """Chunks of 2 form their logits again, one chunk of all keeps them, and autograd knows neither.

    gemma2 caps its logits.
    """
    tokens, attention, response = batch()
    seen = []
    for chunk in (None, 2, 4096):
        model = tiny(architecture, tie_word_embeddings=tied, **fields)
        if chunk is None:
            logp, entropy = reference(model, tokens, attention, response, temperature)
            got = TokenLogprobs(logp, entropy.detach())
        else:
            got = response_logprobs(
                model, tokens, attention, response, temperature=temperature, chunk=chunk
            )
        assert not got.entropy.requires_grad
        (got.logp * torch.linspace(-1, 2, got.logp.numel()).view_as(got.logp)).sum().backward()
        seen.append([got.logp.detach(), got.entropy, *(p.grad for p in model.parameters())])
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            assert_close(a, b, atol=1e-4, rtol=1e-5)  # gradients go up to 10


@pytest.mark.parametrize("chunk", [2, 4096])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_gradient_of_the_entropy_is_autograds(architecture, tied, chunk):
    """gemma2 caps its logits, so that its chunks go through checkpoints; llama's through our own backward."""
    model = tiny(architecture, tie_word_embeddings=tied)
    weights = torch.linspace(-1, 2, batch()[0].numel()).view(batch()[0].shape)
    seen = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            given = {"temperature": 0.7, "chunk": chunk, "entropy_gradient": True}
            logp, entropy = response_logprobs(model, *batch(), **given)[:2]
        else:
            logp, entropy = reference(model, *batch(), 0.7)
        (weights * (logp - 3 * entropy)).sum().backward()
        seen.append([logp.detach(), entropy.detach(), *(p.grad for p in model.parameters())])
    for a, b in zip(*seen, strict=True):
        assert_close(a, b, atol=2e-4, rtol=1e-5)  # gradients go up to 50


@pytest.mark.parametrize("chunk", [2, 5])
def test_a_recomputed_head_passes_gradcheck(chunk):
    """Also where the logits of one chunk were kept and a first backward pass has used them up."""
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(
        lambda h, w: recomputed_logprobs(h, w, target, scale=0.7, chunk=chunk).logp,
        (hidden, weight),
    )
    assert torch.autograd.gradcheck(
        lambda h, w: recomputed_logprobs(
            h, w, target, scale=0.7, chunk=chunk, entropy_gradient=True
        ),
        (hidden, weight),
    )


def test_rows_that_share_a_cache_make_no_difference(monkeypatch):
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(9, 4), torch.randn(7, 4), torch.arange(9) % 7
    found = []
    for cached in (2**20, 14, 1):  # all rows at once, two, one
        monkeypatch.setattr(head, "_CACHED", cached)
        leaves = [part.clone().requires_grad_() for part in (hidden, weight)]
        got = recomputed_logprobs(*leaves, target, scale=1.0, chunk=5)
        got.logp.sum().backward()
        found.append([got.logp, got.entropy, *(leaf.grad for leaf in leaves)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_a_recomputed_head_keeps_no_logits(entropy_gradient):
    model, kept = tiny("llama", vocab_size=500), []

    def count(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        response_logprobs(model, *batch(), chunk=4, entropy_gradient=entropy_gradient)
    assert not [shape for shape in kept if shape[-1:] == (500,)]


def test_chunks_follow_from_the_vocabulary():
    assert head_chunk(tiny("llama"), torch.device("cpu")) == 2**26 // (4 * 20)
    assert head_chunk(tiny("llama", vocab_size=49152), torch.device("cpu")) == 341


def test_a_logit_transform_that_we_do_not_know_is_refused():
    model = tiny_qwen2()
    verify_head(model)
    inner = model.forward

    def scaled(*args, **kwargs):
        out = inner(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    model.forward = scaled
    with pytest.raises(ConfigError, match=r"Qwen2ForCausalLM does not end in backbone \+ LM head"):
        verify_head(model)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_freed_memory_is_used_again_without_new_pages():
    """A tensor of 256 MiB, made again and again: in the end its pages are there already."""
    code = (
        "import resource, torch\n"
        "from alpkit.policy.memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "for _ in range(12):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.zeros(2**26)\n"
        "print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = map(int, run.stdout.split())
    assert not kept or faults < 2**26 * 4 // 4096 // 10
