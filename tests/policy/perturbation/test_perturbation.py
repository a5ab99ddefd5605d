"""The noise: where it arrives and how much, its gradient and its gates, against worked-out numbers."""

import math

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PerturbationConfig, resolve_layers
from alpkit.errors import ConfigError
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.noise import NoiseStream
from alpkit.policy.perturbation.sites import decoder_layers
from alpkit.policy.perturbation.token_layout import TokenLayout
from tests.support.tiny_models import tiny_gpt2, tiny_qwen2

TOKENS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(3))
KEY = (0, 1, 2)


def logits(model):
    return model(input_ids=TOKENS).logits


def draw(like, *, key=KEY, layer=0, sample=None, mask=None, distribution="normal"):
    layout = TokenLayout(tuple(like.shape[:2]), sample, mask)
    return NoiseStream((*key, 0), "layer_input", layer, layout, distribution).draw(like)


@pytest.mark.parametrize("fixed", [{"sigma": {"init": 0.0, "learnable": False}}, {"layers": []}])
def test_zero_sigma_or_no_layers_is_the_unpatched_model(fixed):
    model = tiny_qwen2()
    before = logits(model)
    perturbation = LayerwisePerturbation(model, PerturbationConfig(**fixed))
    assert perturbation.parameters() == []
    assert perturbation.metrics() == {}
    with perturbation.active(KEY):
        assert torch.equal(logits(model), before)


def test_the_context_is_the_only_gate():
    """Outside: 0 ulp, in train and eval mode, with and without gradients. Inside: always noisy."""
    model = tiny_qwen2()
    before = logits(model).detach()
    perturbation = LayerwisePerturbation(model, PerturbationConfig(sigma={"init": 0.1}))
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            assert torch.equal(logits(model), before)
            with perturbation.active(KEY):
                assert not torch.equal(logits(model), before)
        assert torch.equal(logits(model), before)
        with perturbation.active(KEY):
            assert not torch.equal(logits(model), before)
    perturbation.remove()
    with perturbation.active(KEY):
        assert torch.equal(logits(model), before)


def test_nothing_of_it_is_in_the_state_dict():
    model = tiny_qwen2()
    names = set(model.state_dict())
    LayerwisePerturbation(model, PerturbationConfig())
    assert set(model.state_dict()) == names
    assert {name for name, _ in model.named_parameters()} <= names


def test_same_key_same_noise_and_any_other_key_other_noise():
    model = tiny_qwen2()
    perturbation = LayerwisePerturbation(model, PerturbationConfig(sigma={"init": 0.1}))

    def noisy(key):
        with perturbation.active(key):
            return logits(model).detach()

    assert torch.equal(noisy(KEY), noisy(KEY))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)):
        assert not torch.equal(noisy(KEY), noisy(other))


def test_streams_are_independent_where_adding_integers_would_collide():
    """Layers, steps, updates, samples: |corr| < 4/sqrt(N), also for (rank r, layer l) swapped."""
    like = torch.zeros(1, 200, 50)
    draws = torch.stack(
        [
            draw(like, key=(0, s, u), layer=layer, sample=(i,)).flatten()
            for s, u, layer, i in (
                (1, 2, 0, 0),
                (2, 1, 0, 0),
                (1, 0, 2, 0),
                (1, 1, 1, 0),
                (1, 2, 0, 1),
            )
        ]
    )
    corr = torch.corrcoef(draws) - torch.eye(len(draws))
    assert corr.abs().max() < 4 / math.sqrt(draws.shape[1])


@pytest.mark.parametrize("distribution", ["normal", "uniform", "rademacher"])
def test_unit_variance(distribution):
    z = draw(torch.zeros(1, 500, 200), distribution=distribution, sample=(5,))
    n = z.numel()
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert z.std().item() == pytest.approx(1.0, abs=0.01)
    limit = {"normal": 6.0, "uniform": math.sqrt(3), "rademacher": 1.0}[distribution]
    assert z.abs().max() <= limit + 1e-6


def test_noise_does_not_depend_on_padding_row_order_or_split():
    hidden = 6
    whole = draw(torch.zeros(2, 4, hidden), sample=(7, 9))
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    padded = draw(torch.zeros(2, 6, hidden), sample=(9, 7), mask=mask)
    assert torch.equal(padded[1, :4], whole[0])
    assert torch.equal(padded[0, 1:5], whole[1])
    assert (padded[~mask] == 0).all()
    assert torch.equal(draw(torch.zeros(1, 4, hidden), sample=(9,))[0], whole[1])


@pytest.mark.parametrize("scale", ["absolute", "rms"])
def test_what_arrives_at_the_layer(scale):
    """Mean 0 +- 4/sqrt(N), std sigma within 1 % (relative to the rms where asked); lower layers untouched."""
    model = tiny_qwen2(hidden=128)
    seen = {}
    for index, layer in enumerate(decoder_layers(model)):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: seen.__setitem__(
                index, (args[0] if args else kwargs["hidden_states"]).detach()
            ),
            with_kwargs=True,
        )
    tokens = torch.randint(1, 20, (8, 40), generator=torch.Generator().manual_seed(0))
    model(input_ids=tokens)
    clean = dict(seen)
    config = PerturbationConfig(layers=[1], sigma={"init": 0.05}, scale=scale)
    perturbation = LayerwisePerturbation(model, config)
    # Hooks run in order of registration: ours comes after the observer's, so look behind it.
    decoder_layers(model)[1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.__setitem__(
            "noisy", (args[0] if args else kwargs["hidden_states"]).detach()
        ),
        with_kwargs=True,
    )
    with perturbation.active(KEY):
        model(input_ids=tokens)
    assert torch.equal(seen[0], clean[0])
    assert torch.equal(seen[1], clean[1])
    assert not torch.equal(seen[2], clean[2])
    noise = seen["noisy"] - clean[1]
    if scale == "rms":
        noise = noise / clean[1].pow(2).mean(-1, keepdim=True).sqrt()
    assert abs(noise.mean()) < 4 * 0.05 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(0.05, rel=0.01)
    metrics = perturbation.metrics()
    rms = clean[1].pow(2).mean().sqrt().item()
    wanted = 0.05 * (rms if scale == "rms" else 1.0)
    assert metrics["noise/realised_std"] == pytest.approx(wanted, rel=0.01)
    assert metrics["noise/realised_std/layer_01"] == metrics["noise/realised_std"]
    assert metrics["noise/to_rms"] == pytest.approx(wanted / rms, rel=0.01)
    assert metrics["noise/realised_ratio"] == pytest.approx(1.0, rel=0.01)
    assert metrics["sigma/layer_01"] == pytest.approx(0.05, rel=1e-6)
    assert "sigma/layer_00" not in metrics


def test_noise_stays_in_the_residual_stream():
    model = tiny_qwen2()
    with torch.no_grad():
        for layer in decoder_layers(model):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    embedded = model.model.embed_tokens(TOKENS)
    perturbation = LayerwisePerturbation(
        model, PerturbationConfig(layers=[0, 2], sigma={"init": 0.1})
    )
    seen = {}
    model.model.norm.register_forward_pre_hook(lambda m, args: seen.update(out=args[0].detach()))
    with perturbation.active(KEY):
        logits(model)
    expected = sum(draw(embedded, layer=layer) for layer in (0, 2)) * 0.1
    assert_close(seen["out"] - embedded.detach(), expected, atol=1e-6, rtol=1e-5)


# The rms is detached, so the difference quotient sees it change only where an earlier layer is noisy too.
@pytest.mark.parametrize(("scale", "layers"), [("absolute", [0, 2]), ("rms", [1])])
def test_sigma_gradient_is_the_central_difference(scale, layers):
    model = tiny_gpt2().double()
    config = PerturbationConfig(layers=layers, sigma={"init": 0.1}, scale=scale)
    perturbation = LayerwisePerturbation(model, config)
    perturbation.log_sigma.data = perturbation.log_sigma.data.double()
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[1, :2] = False

    def loss():
        with perturbation.active(KEY, sample=[4, 2], mask=mask):
            out = model(input_ids=TOKENS, attention_mask=mask).logits
            return (out.log_softmax(-1)[..., 3] * mask).sum()

    value = loss()
    value.backward()
    grad = perturbation.log_sigma.grad.clone()
    step = 1e-5
    for slot in range(len(layers)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                perturbation.log_sigma[slot] += sign * step
            values.append(loss().item())
            with torch.no_grad():
                perturbation.log_sigma[slot] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert grad[slot].item() == pytest.approx(numeric, rel=1e-3)


def test_gradient_flows_through_the_hidden_state_as_if_the_noise_were_a_constant():
    model = tiny_qwen2()
    perturbation = LayerwisePerturbation(
        model, PerturbationConfig(sigma={"init": 0.1, "learnable": False})
    )
    with perturbation.active(KEY):
        logits(model).pow(2).mean().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    perturbation.remove()
    model.zero_grad()

    def constant(layer):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            return (hidden + 0.1 * draw(hidden, layer=layer), *args[1:]), kwargs

        return hook

    for index, layer in enumerate(decoder_layers(model)):
        layer.register_forward_pre_hook(constant(index), with_kwargs=True)
    logits(model).pow(2).mean().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, grads[name], atol=1e-5, rtol=1e-4)


def test_no_tensor_of_the_activations_size_is_kept_for_the_noise():
    model = tiny_qwen2(hidden=64)
    perturbation = LayerwisePerturbation(model, PerturbationConfig(layers=[1], scale="rms"))
    saved = []

    def count(noisy):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(t.numel()) or t, lambda t: t
        ):
            if noisy:
                with perturbation.active(KEY):
                    logits(model)
            else:
                logits(model)
        return sum(saved)

    extra = count(noisy=True) - count(noisy=False)
    assert extra == TOKENS.numel() + 1  # one rms per token, and log sigma


def test_bfloat16_swallows_small_noise_and_the_metric_says_so():
    """Realised std / sigma at h ~ N(0, 1) is .28 at 1e-4, 1.0 at 1e-2."""
    for sigma, expected, tolerance in ((1e-4, 0.28, 0.02), (1e-2, 1.015, 0.02)):
        model = tiny_qwen2(hidden=64).bfloat16()
        torch.manual_seed(0)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.randn(20, 64))
        config = PerturbationConfig(layers=[0], sigma={"init": sigma})
        perturbation = LayerwisePerturbation(model, config)
        tokens = torch.randint(0, 20, (64, 32))
        with torch.no_grad(), perturbation.active(KEY):
            model(input_ids=tokens)
        assert perturbation.metrics()["noise/realised_ratio"] == pytest.approx(
            expected, abs=tolerance
        )
        assert perturbation.log_sigma.dtype == torch.float32


def test_not_reentrant():
    perturbation = LayerwisePerturbation(tiny_qwen2(), PerturbationConfig())
    with perturbation.active(KEY), pytest.raises(RuntimeError, match="already active"):
        with perturbation.active(KEY):
            pass


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ("all", 4, [0, 1, 2, 3]),
        ("early", 28, list(range(0, 6))),
        ("middle", 28, list(range(12, 18))),
        ("late", 28, list(range(23, 28))),
        ("early", 4, [0]),
        ("first:2", 5, [0, 1]),
        ("last:2", 5, [3, 4]),
        ("middle:2", 5, [1, 2]),
        ("every:2", 5, [0, 2, 4]),
        ("1-3", 5, [1, 2, 3]),
        ((0, 4), 5, [0, 4]),
        ((), 5, []),
    ],
)
def test_layer_windows(spec, count, expected):
    assert resolve_layers(spec, count) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("2-4", "selects layer 4, but the model has layers 0-3"),
        ("last:5", "selects layer -1, but the model has layers 0-3"),
        ((9,), "selects layer 9"),
        ("3-1", "runs backwards"),
    ],
)
def test_a_window_outside_the_model_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        LayerwisePerturbation(tiny_qwen2(layers=4), PerturbationConfig(layers=spec))
