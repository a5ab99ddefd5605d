"""The transformers engine: what it samples, and the log-probs it says it sampled with."""

import numpy as np
import pytest
import torch

from alpkit.config.run import HfRolloutConfig
from alpkit.errors import RolloutError
from alpkit.rollout import Request, collate
from alpkit.rollout.hf import HfSampler, generate, sample_token, score
from alpkit.seeds import derive
from tests.support.tiny_models import tiny_qwen2

STOP = (1,)
PROMPTS = [(5, 6, 7), (8, 9), (3,), (4, 5, 6, 7, 8)]


def requests(copies=1, seed=0):
    return [Request(p, derive(seed, i, c)) for i, p in enumerate(PROMPTS) for c in range(copies)]


def run(model, asked, *, temperature=1.0, max_tokens=12, batch=512):
    return generate(
        model,
        asked,
        max_tokens=max_tokens,
        temperature=temperature,
        stop_ids=STOP,
        pad_id=0,
        batch=batch,
    )


def test_a_request_may_be_shorter_than_the_rest_and_changes_no_other():
    model = tiny_qwen2()
    whole = run(model, requests())
    short = [r._replace(max_tokens=n) for r, n in zip(requests(), (1, 3, None, 12), strict=True)]
    for cut, full, n in zip(run(model, short), whole, (1, 3, 12, 12), strict=True):
        assert cut.token_ids == full.token_ids[:n]
        np.testing.assert_allclose(cut.logp, full.logp[:n], rtol=0, atol=1e-5)
        assert cut.finish == ("length" if len(full.token_ids) > n else full.finish)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logp_is_the_models_own_for_the_sampled_tokens(temperature):
    model = tiny_qwen2()
    responses = run(model, requests(copies=6), temperature=temperature)
    pairs = [
        (r.prompt_ids, s.token_ids) for r, s in zip(requests(copies=6), responses, strict=True)
    ]
    again = score(model, pairs, pad_id=0, temperature=temperature)
    for response, logp in zip(responses, again, strict=True):
        np.testing.assert_allclose(response.logp, logp, atol=2e-5)
    assert len({len(r.token_ids) for r in responses}) > 1  # ragged: compaction was exercised


def test_a_response_ends_with_its_stop_token_or_at_the_limit():
    for response in run(tiny_qwen2(), requests(copies=20)):
        if response.finish == "stop":
            assert response.token_ids[-1] in STOP
            assert not set(response.token_ids[:-1]) & set(STOP)
        else:
            assert len(response.token_ids) == 12
            assert not set(response.token_ids) & set(STOP)


def test_a_draw_does_not_depend_on_its_batch():
    model = tiny_qwen2()
    asked = requests(copies=5)
    together = run(model, asked)
    for batch in (1, 3):
        apart = run(model, asked, batch=batch)
        assert [r.token_ids for r in apart] == [r.token_ids for r in together]
    backwards = run(model, asked[::-1])[::-1]
    assert [r.token_ids for r in backwards] == [r.token_ids for r in together]
    other = run(model, requests(copies=5, seed=1))
    assert [r.token_ids for r in other] != [r.token_ids for r in together]


def test_greedy_takes_the_likeliest_token():
    model = tiny_qwen2()
    (response,) = run(model, [Request((5, 6, 7), 0)], temperature=0.0, max_tokens=4)
    ids = [5, 6, 7]
    for token, logp in zip(response.token_ids, response.logp, strict=True):
        with torch.no_grad():
            row = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert token == int(row.argmax())
        assert logp == pytest.approx(row.max().item(), abs=1e-5)
        ids.append(token)


def test_sampling_frequencies_are_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]).expand(40_000, 4)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(sample_token(logits, uniform), minlength=4) / 40_000
    expected = logits[0].softmax(-1)
    assert counts[2] == 0
    assert (counts - expected).abs().max() < 4 * 0.5 / 200
    edges = sample_token(logits[:2], torch.tensor([0.0, 1.0 - 1e-12], dtype=torch.float64))
    assert edges.tolist() == [0, 3]


def test_the_sampler_is_a_copy_and_sync_replaces_all_of_it():
    model = tiny_qwen2()
    sampler = HfSampler(model, HfRolloutConfig(weights="float32"), stop_ids=STOP, pad_id=0)
    pairs = [(p, (2, 3, 4)) for p in PROMPTS]
    before = sampler.score(pairs)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    assert sampler.score(pairs) == before
    sampler.sync(model.named_parameters())
    assert sampler.score(pairs) == score(model, pairs, pad_id=0, temperature=1.0)
    assert sampler.score(pairs) != before


def test_a_partial_sync_is_an_error():
    model = tiny_qwen2()
    sampler = HfSampler(model, HfRolloutConfig(), stop_ids=STOP, pad_id=0)
    with pytest.raises(RolloutError, match=r"left 1 parameters stale, first lm_head\.weight"):
        sampler.sync((n, p) for n, p in model.named_parameters() if n != "lm_head.weight")
    with pytest.raises(RolloutError, match="no parameter elsewhere"):
        sampler.sync([("elsewhere", torch.zeros(1))])


def test_precision_orders_the_mismatch():
    model = tiny_qwen2(hidden=64)
    pairs = [(p, tuple(range(2, 12))) for p in PROMPTS]
    exact = np.concatenate(score(model, pairs, pad_id=0, temperature=1.0))
    gaps = {}
    for weights in ("float32", "float16", "bfloat16", "int8", "int4"):
        sampler = HfSampler(model, HfRolloutConfig(weights=weights), stop_ids=STOP, pad_id=0)
        gaps[weights] = np.abs(np.concatenate(sampler.score(pairs)) - exact).mean()
    assert gaps["float32"] == 0
    assert 0 < gaps["float16"] < gaps["bfloat16"] < gaps["int4"]
    assert gaps["float16"] < gaps["int8"] < gaps["int4"]


def test_collate_and_rows_keep_every_token_where_it_belongs():
    asked = requests()
    responses = run(tiny_qwen2(), asked)
    rollout = collate(asked, responses, prompt=range(4), pad_id=0, policy_version=3)
    for index, (request, response) in enumerate(zip(asked, responses, strict=True)):
        row, columns = rollout.rows(torch.tensor([index]))
        assert row.tokens[0].tolist() == list(request.prompt_ids + response.token_ids)
        assert row.tokens[row.response].tolist() == list(response.token_ids)
        np.testing.assert_allclose(row.logp_rollout[row.response], response.logp, rtol=1e-6)
        assert row.attention.all()
        assert columns.stop - columns.start == row.tokens.shape[1]
        assert row.policy_version == 3
