"""Checkpointing, chunked heads, compiled blocks: the noise is the same, or the run stops."""

import logging
import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from alpkit.config import PerturbationConfig
from alpkit.errors import NumericalError
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.calibration import calibrate_sigma
from alpkit.policy.perturbation.gate import bound
from alpkit.policy.perturbation.noise import NoiseStream, add_noise
from alpkit.policy.perturbation.token_layout import TokenLayout
from tests.support.crossings import Crossings
from tests.support.tiny_models import tiny, tiny_gpt2, tiny_qwen2

TOKENS = torch.randint(1, 20, (3, 9), generator=torch.Generator().manual_seed(3))
KEY = (0, 1, 2)
LAYER_SITES = ("layer_input", "attention_output", "mlp_output")
NO_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
}
SITES = (*LAYER_SITES, "embedding", "final_hidden", "logits")


def noisy(model, **config):
    return LayerwisePerturbation(model, PerturbationConfig(**{"sigma": {"init": 0.1}, **config}))


def gradients(model, perturbation):
    found = [p.grad.clone() for p in (*model.parameters(), perturbation.log_sigma)]
    for p in (*model.parameters(), perturbation.log_sigma):
        p.grad = None
    return found


def loss_of(model):
    return model(input_ids=TOKENS).logits.log_softmax(-1)[..., 3].sum()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    ("architecture", "site"), [("gpt2", s) for s in LAYER_SITES] + [("opt", "mlp_output")]
)
def test_checkpointing_changes_nothing_wherever_backward_runs(
    architecture, site, reentrant, monkeypatch
):
    """Gradients to 1e-6 relative, every draw made again, the same numbers."""
    model = tiny(architecture, **NO_DROPOUT[architecture]).train()
    perturbation = noisy(model, site=site)
    with perturbation.active(KEY):
        loss_of(model).backward()
    plain = gradients(model, perturbation)

    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    prints, draw = [], NoiseStream.draw

    def recorded(stream, like):
        prints.append((stream.layer, stream.key))
        return draw(stream, like)

    monkeypatch.setattr(NoiseStream, "draw", recorded)
    for where in ("inside", "outside", "inside another"):
        prints.clear()
        with perturbation.active(KEY):
            loss = loss_of(model)
            if where == "inside":
                loss.backward()
        if where == "outside":
            loss.backward()
        if where == "inside another":
            with perturbation.active((9, 9, 9)):
                loss.backward()
        for got, expected in zip(gradients(model, perturbation), plain, strict=True):
            assert_close(got, expected, rtol=1e-6, atol=1e-6)
        # In the forward, in the one that is run again, and in backward.
        assert sorted(prints) == sorted(3 * [(layer, (*KEY, 0)) for layer in range(3)])

    # A clean forward that is recomputed inside an open context stays clean.
    loss_of(model).backward()
    clean = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = loss_of(model)
    with perturbation.active(KEY):
        loss.backward()
    for got, expected in zip(model.parameters(), clean, strict=True):
        assert_close(got.grad, expected, rtol=1e-6, atol=1e-6)
    perturbation.remove()
    assert "BoundCheckpointing" not in {
        type(getattr(m, "_gradient_checkpointing_func", None)).__name__ for m in model.modules()
    }


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_that_cannot_know_its_noise_is_refused(reentrant):
    model = tiny_qwen2()
    perturbation = noisy(model)

    def run(embedded):
        return model(inputs_embeds=embedded).logits

    embedded = model.model.embed_tokens(TOKENS)
    with perturbation.active(KEY):
        expected = torch.autograd.grad(run(embedded).sum(), embedded, retain_graph=True)[0]
        loss = checkpoint(run, embedded, use_reentrant=reentrant).sum()
        with pytest.raises(RuntimeError, match="does not say which noise"):
            loss.backward(retain_graph=True)
    with perturbation.active(KEY):
        loss = checkpoint(bound(run), embedded, use_reentrant=reentrant).sum()
    embedded.retain_grad()
    loss.backward()
    assert_close(embedded.grad, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("per", ["scalar", "vocab"])
def test_the_chunked_head_sees_the_noise_of_the_models_own_forward(site, per):
    """Padding on either side, row order, rows split, chunks of 2 recomputed in backward: one noise."""
    if per == "vocab" and site != "logits":
        return
    model = tiny_gpt2()
    perturbation = noisy(model, site=site, sigma={"init": 0.1, "per": per})
    with perturbation.active(KEY, sample=[5, 6, 7]):
        out = model(input_ids=TOKENS).logits.log_softmax(-1)
        logp = out[:, :-1].gather(-1, TOKENS[:, 1:, None])[..., 0][:, 3:]
    logp.sum().backward()
    expected = gradients(model, perturbation)

    padded = torch.zeros(3, 13, dtype=torch.long)
    attention = torch.zeros_like(padded, dtype=torch.bool)
    for row, (source, start) in enumerate([(2, 4), (0, 0), (1, 2)]):
        padded[row, start : start + 9] = TOKENS[source]
        attention[row, start : start + 9] = True
    response = attention & (attention.cumsum(1) > 4)
    got = {}
    for rows, ids in (([0, 1], [7, 5]), ([2], [6])):
        with perturbation.active(KEY, sample=ids, mask=attention[rows]):
            scored = response_logprobs(
                model, padded[rows], attention[rows], response[rows], chunk=2
            ).logp
        scored.sum().backward()
        for row, sample in enumerate(ids):
            got[sample] = scored[row][response[rows][row]].detach()
    for row, sample in enumerate((5, 6, 7)):
        assert_close(got[sample], logp[row].detach(), atol=2e-5, rtol=1e-5)
    for now, before in zip(gradients(model, perturbation), expected, strict=True):
        assert_close(now, before, atol=1e-4, rtol=1e-4)


def test_packed_rows_get_the_noise_of_their_samples():
    """Two samples in one row, the second interleaved with padding, against a row each."""
    like = torch.zeros(2, 6, 16)
    apart = NoiseStream(KEY, "layer_input", 0, TokenLayout((2, 6), [3, 8]), "normal").draw(like)
    ids = torch.tensor([[3] * 6 + [8] * 3 + [-1] + [8] * 3])
    mask = torch.ones(1, 13, dtype=torch.bool)
    mask[0, 9] = False
    packed = TokenLayout((1, 13), ids, mask)
    together = NoiseStream(KEY, "layer_input", 0, packed, "normal").draw(torch.zeros(1, 13, 16))[0]
    assert torch.equal(together[:6], apart[0])
    assert torch.equal(torch.cat([together[6:9], together[10:]]), apart[1])
    assert (together[9] == 0).all()


@pytest.mark.parametrize("site", SITES)
def test_compiled_blocks_run_with_the_same_noise(site):
    """Hooks break the graph on purpose; the backend is the one that needs no C++ compiler."""
    torch._dynamo.reset()
    model = tiny_gpt2()
    perturbation = noisy(model, site=site)
    with perturbation.active(KEY):
        loss = loss_of(model)
    loss.backward()
    plain = [loss.detach(), *gradients(model, perturbation)]
    for layer in model.transformer.h:
        layer.compile(backend="aot_eager")
    for _ in range(2):
        with perturbation.active(KEY):
            loss = loss_of(model)
        loss.backward()
        for got, expected in zip(
            [loss.detach(), *gradients(model, perturbation)], plain, strict=True
        ):
            assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_antithetic_pairs_are_opposite_and_other_draws_are_not():
    model = tiny_qwen2()
    got = {}
    for antithetic in (True, False):
        perturbation = noisy(
            model, site="embedding", sigma={"init": 0.5}, draws=4, antithetic=antithetic
        )
        seen = []
        handle = model.model.embed_tokens.register_forward_hook(
            lambda m, a, o, seen=seen: seen.append(o.detach())
        )
        model(input_ids=TOKENS)
        for draw in range(4):
            with perturbation.active(KEY, draw=draw):
                model(input_ids=TOKENS)
        handle.remove()
        perturbation.remove()
        got[antithetic] = [s - seen[0] for s in seen[1:]]
    for a, b in ((0, 1), (2, 3)):
        assert_close(got[True][a] + got[True][b], torch.zeros(3, 9, 32), atol=1e-6, rtol=0)
        assert (got[False][a] + got[False][b]).abs().max() > 0.5
    assert_close(got[True][2], got[False][1], atol=0, rtol=0)  # pair 1 is stream 1
    corr = torch.corrcoef(torch.stack([d.flatten() for d in got[False]])) - torch.eye(4)
    assert corr.abs().max() < 4 / math.sqrt(got[False][0].numel())
    with pytest.raises(ValueError, match=r"draw 4 is not one of perturbation.draws = 4"):
        with perturbation.active(KEY, draw=4):
            pass


def test_an_antithetic_pair_cancels_the_first_order():
    """Halving sigma quarters the pair's mean shift of log pi and halves a single draw's."""
    model = tiny_gpt2().double()
    single, pair = [], []
    for sigma in (2e-3, 1e-3):
        perturbation = noisy(model, sigma={"init": sigma}, draws=2, antithetic=True)
        with torch.no_grad():
            clean, shifts = loss_of(model), []
            for draw in range(2):
                with perturbation.active(KEY, draw=draw):
                    shifts.append((loss_of(model) - clean).item())
        perturbation.remove()
        single.append(shifts[0])
        pair.append(sum(shifts) / 2)
    assert single[0] / single[1] == pytest.approx(2, rel=0.1)
    assert pair[0] / pair[1] == pytest.approx(4, rel=0.1)


def test_mean_sigma_gradient_is_the_curvature():
    """For L = h'Ah/2 the mean over z of dL/d log sigma is sigma^2 tr A."""
    n, hidden, sigma = 40_000, 16, 0.3
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64)
    a = a @ a.T
    h = torch.randn(hidden, generator=generator, dtype=torch.float64).expand(1, n, hidden)
    log_sigma = torch.tensor(math.log(sigma), dtype=torch.float64, requires_grad=True)
    stream = NoiseStream(KEY, "layer_input", 0, TokenLayout((1, n)), "normal")
    out = add_noise(h, log_sigma, 1.0, None, stream)[0]
    (((out @ a) * out).sum(-1) / 2).mean().backward()
    z = stream.draw(h)[0]
    per_token = sigma * (z * (out.detach() @ a)).sum(-1)
    assert log_sigma.grad.item() == pytest.approx(per_token.mean().item(), rel=1e-9)
    error = per_token.std().item() / math.sqrt(n)
    assert abs(log_sigma.grad.item() - sigma**2 * a.trace().item()) < 4 * error


@pytest.mark.parametrize(
    ("sigma", "x", "expected"), [(0.1, 0, 3.93), (0.5, 0, 0.797), (1.0, 0, 0.399)]
)
def test_smoothing_bounds_the_slope(sigma, x, expected):
    """Slope 100, E p(x + sigma z): max slope 25 without noise."""
    n = 2**20
    z = NoiseStream(KEY, "layer_input", 0, TokenLayout((1, n)), "normal").draw(
        torch.zeros(1, n, 1, dtype=torch.float64)
    )
    score = torch.sigmoid(100 * (x + sigma * z)) * z / sigma
    error = score.std().item() / math.sqrt(n)
    assert abs(score.mean().item() - expected) < 4 * error + 0.005 * expected


@pytest.mark.parametrize(("sigma", "expected"), [(0.5, 12.3), (1.0, 3.28)])
def test_smoothing_bounds_the_slope_of_the_log(sigma, expected):
    """At x = -3, where 100 is the slope without noise; 6 sigma needs quadrature."""
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    p = torch.sigmoid(100 * (-3 + sigma * z)) * torch.exp(-z * z / 2)
    assert ((p * z).sum() / p.sum() / sigma).item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(("s", "chi2", "ess"), [(0.5, 0.284, 0.779), (1.0, 1.718, 0.368)])
def test_lognormal_ratios_have_the_known_chi2_and_ess(s, chi2, ess):
    """Log ratio ~ N(-s^2/2, s^2) from our own stream."""
    n = 2**20
    stream = NoiseStream(KEY, "layer_input", 0, TokenLayout((1, n)), "normal")
    ratio = torch.exp(s * stream.draw(torch.zeros(1, n, 1, dtype=torch.float64)) - s * s / 2)
    assert ratio.pow(2).mean().item() - 1 == pytest.approx(chi2, rel=0.03)
    assert (ratio.sum() ** 2 / (n * ratio.pow(2).sum())).item() == pytest.approx(ess, rel=0.03)


@pytest.mark.parametrize("site", ["layer_input", "attention_output", "mlp_output"])
def test_autocast_keeps_the_noise_in_float32(site):
    """Float32 masters under bfloat16 autocast, sigma 1e-4: 1.00 of it arrives."""
    model = tiny_qwen2()
    perturbation = noisy(model, site=site, sigma={"init": 1e-4})
    with torch.autocast("cpu", torch.bfloat16), perturbation.active(KEY):
        loss = loss_of(model)
    loss.backward()
    assert perturbation.metrics()["noise/realised_ratio"] == pytest.approx(1.0, abs=0.05)
    assert perturbation.log_sigma.grad.abs().min() > 0


def test_all_that_the_noise_did_crosses_to_the_host_once():
    model = tiny_qwen2(layers=4)
    perturbation = noisy(model, scale="rms")
    with perturbation.active(KEY):
        loss_of(model).backward()
    with Crossings() as crossings:
        metrics = perturbation.metrics()
    assert crossings.calls == ["tolist"]
    assert {"sigma/grad_norm/layer_03", "noise/to_rms/layer_00"} <= metrics.keys()


def test_a_dtype_that_swallows_the_noise_is_warned_of_once(caplog):
    model = tiny_qwen2().bfloat16()
    perturbation = noisy(model, sigma={"init": 1e-5}, layers=[1])
    with caplog.at_level(logging.WARNING, "alpkit"):
        for _ in range(2):
            with torch.no_grad(), perturbation.active(KEY):
                loss_of(model)
            perturbation.metrics()
    (record,) = caplog.records
    assert "the dtype swallows the noise at layer 1" in record.getMessage()


def test_resolved_layers_are_logged(caplog):
    with caplog.at_level(logging.INFO, "alpkit"):
        perturbation = noisy(tiny_qwen2(layers=4), layers="middle:2")
    assert "noise at layer_input of layers [1, 2] of 4, sigma 0.1" in caplog.text
    assert {"sigma/layer_01", "sigma/layer_02"} <= set(perturbation.metrics())


def test_gradient_norm_and_signal_to_noise_over_micro_batches():
    model = tiny_qwen2()
    perturbation = noisy(model, layers=[0, 2])
    parts = []
    for update in range(2):
        for sample in ([0], [1], [2]):
            perturbation.log_sigma.grad = None
            with perturbation.active((0, 1, update), sample=sample):
                model(input_ids=TOKENS[sample]).logits.log_softmax(-1)[..., 3].sum().backward()
            parts.append(perturbation.log_sigma.grad.double())
    metrics = perturbation.metrics()
    micros = torch.stack(parts)
    per_update = micros.view(2, 3, 2).sum(1)
    expected = micros.mean(0).abs() / micros.std(0)
    assert metrics["sigma/grad_norm"] == pytest.approx(
        per_update.norm(dim=1).mean().item(), rel=1e-5
    )
    assert metrics["noise/signal_to_noise"] == pytest.approx(expected.mean().item(), rel=1e-5)
    for slot, layer in enumerate((0, 2)):
        key = f"layer_{layer:02d}"
        size = per_update[:, slot].abs().mean().item()
        assert metrics[f"sigma/grad_norm/{key}"] == pytest.approx(size, rel=1e-5)
        ratio = metrics[f"noise/signal_to_noise/{key}"]
        assert ratio == pytest.approx(expected[slot].item(), rel=1e-5)
    assert "sigma/grad_norm" not in perturbation.metrics()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"warmup": 4}, {1: 0.25, 4: 1.0, 9: 1.0}),
        ({"decay_to": 0.2, "steps": 4}, {2: 0.6, 4: 0.2, 9: 0.2}),
        ({"decay_to": 0, "steps": 2}, {2: 0.0}),
    ],
)
def test_a_schedule_scales_sigma(schedule, factors):
    model = tiny_qwen2()
    perturbation = noisy(model, layers=[0], schedule=schedule)
    with pytest.raises(RuntimeError, match="call at_step"), perturbation.active(KEY):
        pass
    clean = model(input_ids=TOKENS).logits
    for step, factor in factors.items():
        perturbation.at_step(step)
        with perturbation.active(KEY):
            assert torch.equal(model(input_ids=TOKENS).logits, clean) == (factor == 0)
        metrics = perturbation.metrics()
        assert metrics["sigma/mean"] == pytest.approx(0.1 * factor, rel=1e-5, abs=1e-12)
        if factor:
            assert metrics["noise/realised_std"] == pytest.approx(0.1 * factor, rel=0.1)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("scale", ["absolute", "rms"])
def test_calibration_reaches_its_target_at_every_site(site, scale):
    model = tiny_qwen2()
    config = {"site": site, "scale": scale, "sigma": {"target_ratio_std": 0.05}}
    perturbation = noisy(model, **config)
    attention = torch.ones_like(TOKENS, dtype=torch.bool)
    response = attention.clone()
    response[:, :4] = False
    with pytest.raises(RuntimeError, match="sigma is not found yet"), perturbation.active(KEY):
        pass
    sigma = calibrate_sigma(perturbation, model, TOKENS, attention, response, target=0.05)
    assert perturbation.parameters() == []
    metrics = perturbation.metrics()
    assert metrics["sigma/mean"] == pytest.approx(sigma, rel=1e-6)
    if scale == "rms":
        assert metrics["noise/to_rms"] == pytest.approx(sigma, rel=0.1)  # of this sigma, not a try

    def logp():
        return response_logprobs(model, TOKENS, attention, response).logp[response]

    with torch.no_grad():
        clean, gaps = logp(), []
        for draw in range(8):
            with perturbation.active((0, 0, draw), mask=attention):
                gaps.append(logp() - clean)
    assert torch.cat(gaps).std(correction=0).item() == pytest.approx(0.05, rel=0.021)


def test_bad_input_is_refused_by_name():
    model = tiny_qwen2()
    perturbation = noisy(model, layers=[1, 2])
    for given, message in (
        ({"sample": [1, 1, 2]}, "sample id 1 names two samples"),
        ({"sample": [1, 2]}, r"sample has shape \(2,\)"),
        ({"mask": torch.ones(3, 4, dtype=torch.bool)}, r"mask has shape \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message), perturbation.active(KEY, **given):
            model(input_ids=TOKENS)
    cache = model(input_ids=TOKENS, use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match="continues a KV cache"), perturbation.active(KEY):
        model(input_ids=TOKENS[:, :1], past_key_values=cache)
    perturbation.remove()
    at_logits = noisy(model, site="logits")
    with pytest.raises(ValueError, match="leave logits_to_keep out"), at_logits.active(KEY):
        model(input_ids=TOKENS, logits_to_keep=1)


@pytest.mark.parametrize("scale", ["absolute", "rms"])
def test_states_that_are_no_numbers_stop_the_run_and_padding_does_not(scale):
    model = tiny_qwen2()
    perturbation = noisy(model, layers=[0, 1, 2], scale=scale)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(NumericalError, match="hidden states are NaN") as caught:
        with perturbation.active(KEY):
            model(input_ids=TOKENS)
    assert caught.value.where == "layer 1"
    assert "perturbation.site layer_input" in caught.value.what
    perturbation.remove()

    model = tiny_qwen2()
    embedding = noisy(model, site="embedding", scale=scale)
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[0, :3] = False
    with torch.no_grad():
        model.get_input_embeddings().weight[TOKENS[0, 0]] = math.inf
    only_padding = torch.where(TOKENS == TOKENS[0, 0], (TOKENS + 1) % 20, TOKENS)
    only_padding[0, 0] = TOKENS[0, 0]
    with embedding.active(KEY, mask=mask):
        model(input_ids=only_padding, attention_mask=mask.long())
    with torch.no_grad():
        embedding.log_sigma.fill_(math.nan)
    with pytest.raises(NumericalError, match=r"perturbation.sigma: log sigma is NaN"):
        with embedding.active(KEY):
            model(input_ids=(TOKENS % 3) + 1)
