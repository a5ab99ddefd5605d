"""The sampler's likeliest tokens: what the engine returns, how the trainer scores them, and what they train."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PRESETS, RunConfig, expand, load_ablation
from alpkit.config.run import HfRolloutConfig
from alpkit.policy.logprobs import response_logprobs
from alpkit.rollout import Likeliest, Request, Response, collate
from alpkit.rollout.hf import HfSampler
from alpkit.rollout.vllm import _likeliest
from alpkit.runs.records import read, read_likeliest, rewind
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from tests.support.tiny_models import tiny_qwen2

REQUESTS = [Request((3 + i, 5, 7), 100 + i) for i in range(6)]
SMALL = {
    "rollout": {"weights": "int4", "prompts": 4, "group": 4},
    "train": {"steps": 2, "updates_per_rollout": 2, "lr": 3e-5},
    "eval": {"every": 2, "items": 8, "k": 1},
    "records": {"every": 1},
}


def sampled(top, *, temperature=0.7):
    model = tiny_qwen2()
    config = HfRolloutConfig(top_logprobs=top, temperature=temperature)
    sampler = HfSampler(model, config, stop_ids=(1, 2, 4, 6), pad_id=0)
    return model, sampler.generate(REQUESTS, max_tokens=9, temperature=temperature)


@pytest.mark.parametrize("top", [3, 50])
def test_they_are_the_distribution_that_was_sampled_from(top):
    model, responses = sampled(top)
    assert len({len(r.token_ids) for r in responses}) > 1  # ragged: rows were compacted on the way
    for request, response in zip(REQUESTS, responses, strict=True):
        ids = torch.tensor([request.prompt_ids + response.token_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1] / 0.7
        best = logits.log_softmax(-1).topk(min(top, 20))
        assert response.top.ids.tolist() == best.indices.tolist()
        assert response.top.ids.dtype == np.int32
        np.testing.assert_allclose(response.top.logp, best.values, atol=2e-5)


def test_asking_for_them_changes_no_draw_and_evaluation_asks_for_none():
    _, plain = sampled(0)
    _, asked = sampled(4)
    assert [r[:3] for r in plain] == [r[:3] for r in asked]
    assert all(r.top is None for r in plain)
    sampler = HfSampler(tiny_qwen2(), HfRolloutConfig(top_logprobs=4), stop_ids=(1,), pad_id=0)
    assert all(r.top is None for r in sampler.generate(REQUESTS, max_tokens=3, temperature=0))


def test_a_rollout_keeps_them_beside_its_tokens():
    _, responses = sampled(3)
    rollout = collate(REQUESTS, responses, prompt=range(6), pad_id=0, policy_version=0)
    for row, response in enumerate(responses):
        assert (
            rollout.top_ids[row, 3 : 3 + len(response.token_ids)].tolist()
            == response.top.ids.tolist()
        )
        assert (rollout.top_logp[row, 3 + len(response.token_ids) :] == 0).all()
    cut, columns = rollout.rows(torch.tensor([4, 1]))
    assert torch.equal(cut.top_ids, rollout.top_ids[[4, 1]][:, columns])
    assert torch.equal(cut.top_logp, rollout.top_logp[[4, 1]][:, columns])
    assert torch.equal(rollout.to(torch.device("cpu")).top_ids, rollout.top_ids)
    bare = [response._replace(top=None) for response in responses]
    assert collate(REQUESTS, bare, prompt=range(6), pad_id=0, policy_version=0).top_ids is None


@pytest.mark.parametrize("chunk", [4, 4096])
def test_the_trainer_scores_them_and_the_rest_whatever_the_chunk(chunk):
    model, responses = sampled(3)
    rollout = collate(REQUESTS, responses, prompt=range(6), pad_id=0, policy_version=0)
    given = (model, rollout.tokens, rollout.attention, rollout.response)
    scored = response_logprobs(*given, temperature=0.7, chunk=chunk, candidates=rollout.top_ids)
    plain = response_logprobs(*given, temperature=0.7)
    assert_close(scored.logp, plain.logp, atol=1e-6, rtol=0)
    assert_close(scored.entropy, plain.entropy, atol=1e-5, rtol=0)
    real = rollout.response
    assert_close(scored.top[real], rollout.top_logp[real], atol=2e-5, rtol=0)
    assert_close(scored.rest[real].exp(), 1 - scored.top[real].exp().sum(-1), atol=1e-5, rtol=0)
    assert (scored.top[~real] == 0).all()
    assert (scored.rest[~real] == 0).all()
    # The gradient of all that is scored is that of the model's own log-softmax.
    weight = model.get_output_embeddings().weight
    (found,) = torch.autograd.grad(
        (scored.top.sum(-1) + 2 * scored.rest + scored.logp).sum(), weight, retain_graph=True
    )
    wide = response_logprobs(
        *given, temperature=0.7, candidates=torch.arange(20).expand(*rollout.tokens.shape, 20)
    )
    own = wide.top.gather(-1, rollout.top_ids.long()).sum(-1)
    others = wide.top.exp().sum(-1) - wide.top.gather(-1, rollout.top_ids.long()).exp().sum(-1)
    total = own[real] + 2 * others[real].log() + wide.logp[real]
    (expected,) = torch.autograd.grad(total.sum(), weight)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (wide.rest[real] == -80).all()  # a vocabulary that is all candidates has no rest


def test_vllms_positions_lose_the_sampled_token_where_it_is_one_more():
    class Entry:
        def __init__(self, rank, logprob):
            self.rank, self.logprob = rank, logprob

    positions = [
        {9: Entry(4, -3.0), 2: Entry(1, -0.5), 5: Entry(2, -1.5)},  # sampled: 9
        {5: Entry(2, -1.25), 7: Entry(1, -0.25)},  # sampled: 5, among them
    ]
    found = _likeliest(positions, 2)
    assert found.ids.tolist() == [[2, 5], [7, 5]]
    assert found.logp.tolist() == [[-0.5, -1.5], [-0.25, -1.25]]
    assert (found.ids.dtype, found.logp.dtype) == (np.int32, np.float32)
    assert _likeliest(positions, 0) is None


def test_a_response_that_a_stop_string_ends_loses_the_tail_of_them():
    top = Likeliest(np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32))
    assert top.until(2).ids.shape == top.until(2).logp.shape == (2, 2)
    assert Response((1,), (0.0,), "stop").top is None


def run(folder, preset, **changes):
    settings = PRESETS[preset].settings
    merged = {**SMALL, **settings, **changes}
    merged["rollout"] = SMALL["rollout"] | settings.get("rollout", {}) | changes.get("rollout", {})
    config = RunConfig.model_validate(merged)
    torch.set_num_threads(1)
    train_cell(config, folder, CellTracker(folder))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_centred_arm_trains_and_its_receipt_says_what_was_centred(tmp_path):
    lines = run(tmp_path / "centred", "score-centering-tis", rollout={"top_logprobs": 4})
    plain = run(tmp_path / "plain", "reinforce-tis")
    for line, control in zip(lines[1:], plain[1:], strict=True):
        # mu's four likeliest of so few tokens hold nearly all of its mass.
        assert 0.9 < line["receipt/head_mass_rollout"] < 1
        assert 0.9 < line["receipt/head_mass"] < 1
        assert line["receipt/centering"] > 0
        assert 0 <= line["receipt/outside_head"] < 0.1
        assert "receipt/head_mass" not in control
    # The first rollout is the same: the arms of a seed share prompts and draws. What is learned differs.
    assert lines[1]["reward/mean"] == plain[1]["reward/mean"]
    assert lines[1]["train/loss"] != plain[1]["train/loss"]
    assert lines[1]["receipt/truncated"] == plain[1]["receipt/truncated"]


def test_the_records_keep_them_on_request_and_lose_them_with_their_step(tmp_path):
    kept = {"records": {"every": 1, "top_logprobs": True}, "rollout": {"top_logprobs": 3}}
    run(tmp_path, "grpo", **kept)
    tokens, heads = read(tmp_path, steps=[1]), read_likeliest(tmp_path, steps=[1])
    assert heads[["sample", "position"]].equals(tokens[["sample", "position"]])
    assert all(len(ids) == len(set(ids)) == 3 for ids in heads["ids"])
    for token, own, ids, logp in zip(
        tokens["token"], tokens["logp_rollout"], heads["ids"], heads["logp_rollout"], strict=True
    ):
        assert list(logp) == sorted(logp, reverse=True)
        if token in ids:
            assert own == pytest.approx(logp[list(ids).index(token)], abs=1e-6)
    rewind(tmp_path, 1)
    assert len(read_likeliest(tmp_path, steps=[1])) == len(tokens)
    assert not (tmp_path / "records" / "likeliest-000002.parquet").exists()


def test_they_are_asked_for_only_where_something_uses_them():
    bare = RunConfig()
    unused = RunConfig.model_validate({"rollout": {"engine": "hf", "top_logprobs": 16}})
    assert unused.rollout.top_logprobs == 0
    assert unused.cell_id() == bare.cell_id()
    for needs in (
        {"objective": PRESETS["score-centering"].settings["objective"]},
        {"records": {"top_logprobs": True}},
    ):
        with pytest.raises(ValueError, match=r"set rollout\.top_logprobs"):
            RunConfig.model_validate(needs)
    settings = PRESETS["score-centering"].settings
    assert RunConfig.model_validate(settings).rollout.top_logprobs == 128


def test_a_centred_arm_without_its_control_is_warned_of(tmp_path):
    path = tmp_path / "grid.yaml"
    for arms, warned in (
        ("[grpo, score-centering]", True),
        ("[reinforce, score-centering]", False),
    ):
        path.write_text(f"name: g\narms: {arms}\nseeds: [0, 1, 2]\n")
        warnings = expand(load_ablation(path)).warnings
        assert any("'score-centering' has no control" in text for text in warnings) is warned
