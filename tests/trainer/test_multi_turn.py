"""Training on several turns: what an environment puts in is context and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch

from alpkit.config import PRESETS, RunConfig
from alpkit.objective import policy_loss
from alpkit.runs import records
from alpkit.runs.records import read_sequences
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.collect import collect
from tests.support.talk import AskAgain, offer
from tests.trainer.test_train_cell import merged, metrics_of, without_times

COLLECT = "alpkit.trainer.collect"
SMALL = {
    "environment": {"name": "ask_again", "turns": 3, "turn_tokens": 6},
    "rollout": {"weights": "int4", "prompts": 8, "group": 4, "max_tokens": 40},
    "train": {"steps": 2, "updates_per_rollout": 4, "lr": 3e-5},
    "eval": {"every": 2, "items": 16, "k": 2},
    "records": {"every": 1},
    "checkpoint": {"every": 2},
}


@pytest.fixture(scope="module", autouse=True)
def ask_again():
    """An environment as a package offers it: the built-in adder is asked again until its sum is right."""
    patch = pytest.MonkeyPatch()
    offer(patch)
    yield
    patch.undo()


def config(preset="grpo", **changes):
    return RunConfig.model_validate(merged(SMALL, PRESETS[preset].settings, changes))


def train(folder, run_config):
    torch.set_num_threads(1)
    train_cell(run_config, folder, CellTracker(folder))
    return metrics_of(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two steps of an arm without and one with noise: {preset: (folder, metrics)}."""
    runs = {}
    for preset in ("grpo", "seq-alp"):
        folder = tmp_path_factory.mktemp(preset)
        runs[preset] = (folder, train(folder, config(preset)))
    return runs


def test_turns_are_sampled_counted_and_recorded(finished):
    for folder, metrics in finished.values():
        frame, sequences = records.read(folder, steps=[1]), read_sequences(folder, steps=[1])
        own, turns, inserted = [], [], []
        for _, row in sequences.iterrows():
            mask = np.asarray(row["response_mask"], dtype=bool)
            tokens = frame[frame["sample"] == row["sample"]].sort_values("position")
            # Token rows are the sampled tokens, in order; what was put in has none.
            assert tokens["position"].tolist() == list(range(mask.sum()))
            assert tokens["token"].tolist() == np.asarray(row["response_ids"])[mask].tolist()
            assert (tokens["turn"].diff().dropna() >= 0).all()
            own.append(mask.sum())
            turns.append(tokens["turn"].max() + 1)
            inserted.append((~mask).sum())
        assert metrics[1]["response/length_mean"] == pytest.approx(np.mean(own))
        assert metrics[1]["turns/mean"] == pytest.approx(np.mean(turns))
        assert metrics[1]["turns/max"] == max(turns) == 3
        assert metrics[1]["turns/inserted"] == pytest.approx(np.mean(inserted))
        assert 1.2 < np.mean(turns) < 3
        assert np.mean(inserted) > 1
        assert metrics[1]["turns/answered"] > 0.5


def test_a_run_of_one_turn_is_untouched_by_an_environment_that_never_answers(tmp_path, monkeypatch):
    """The same draws, tokens and numbers, bit for bit, with and without the loop of turns."""
    monkeypatch.setattr(AskAgain, "reply", lambda self, state, text: _silent(state, text))
    answered = train(tmp_path / "with", config(train={"steps": 1}))
    plain = train(
        tmp_path / "without",
        config(train={"steps": 1}, environment=None, rollout={"max_tokens": 6}),
    )
    for step, metrics in plain.items():
        for key, value in without_times({step: metrics})[step].items():
            assert answered[step][key] == value, key


def _silent(state, text):
    state.answer = text


def with_other_fillers(batch):
    """The batch with other numbers wherever no token was sampled: inserted, prompt and pad positions."""
    rollout = batch.rollout
    empty, draw = ~rollout.response, torch.Generator().manual_seed(0)
    odd = torch.tensor([-1.0, 50.0, torch.nan, torch.inf, -torch.inf])
    filler = odd[torch.randint(0, len(odd), empty.shape, generator=draw)]
    turn = torch.randint(0, 3, empty.shape, generator=draw)
    assert (empty & rollout.attention).any(dim=1).all()
    advantage = batch.advantage
    if advantage.ndim == 2:
        advantage = torch.where(empty, filler, advantage)
    changed = dataclasses.replace(
        rollout,
        logp_rollout=torch.where(empty, filler, rollout.logp_rollout),
        turn=torch.where(empty, turn, rollout.turn),
    )
    return dataclasses.replace(batch, rollout=changed, advantage=advantage)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("grpo", {}),
        ("seq-alp", {}),
        ("seq-bypass", {"objective": {"ratio": {"level": "cumulative_turn"}}}),
        ("token-tis", {"objective": {"weight": {"level": "turn"}}}),
        ("gspo", {"environment": {"credit": "turn"}}),
    ],
)
def test_fillers_where_nothing_was_sampled_change_no_metric_gradient_or_record(
    tmp_path, monkeypatch, preset, changes
):
    """Metrics, records and the weights after a step of two updates, bit for bit."""
    few = {"rollout": {"prompts": 4}, "train": {"steps": 1, "updates_per_rollout": 2}}
    once = merged(few, {"eval": {"items": 4, "k": 1}}, changes)
    plain = train(tmp_path / "plain", config(preset, **once))
    monkeypatch.setattr(COLLECT, lambda state, step: with_other_fillers(collect(state, step)))
    changed = train(tmp_path / "changed", config(preset, **once))
    assert without_times(changed) == without_times(plain)
    assert plain[1]["train/grad_norm"] > 0
    for name in ("tokens-000001", "sequences-000001"):
        files = [tmp_path / run / "records" / f"{name}.parquet" for run in ("plain", "changed")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / run).rglob("*.safetensors")}
        for run in ("plain", "changed")
    )
    assert first
    assert first == second


def test_the_logits_where_nothing_was_sampled_have_no_gradient(finished):
    """The head sees sampled tokens only: perturbing its output elsewhere is not even possible."""
    from alpkit.policy.loading import load_policy
    from alpkit.policy.logprobs import response_logprobs

    model = load_policy("builtin:tiny-addition").model
    tokens = torch.tensor([[3, 4, 5, 6, 7, 8, 9]])
    response = torch.tensor([[False, False, True, True, False, False, True]])
    seen = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: seen.append(args[-1].shape))
    scored = response_logprobs(model, tokens, torch.ones_like(response), response)
    handle.remove()
    assert seen == [(3, head.weight.shape[0])]
    assert scored.logp[~response].abs().max() == 0


def test_void_responses_train_nothing_and_count_in_their_group(tmp_path, monkeypatch):
    found = {}
    for policy in ("mask", "keep"):
        monkeypatch.setattr(
            COLLECT,
            lambda state, step, policy=policy: found.setdefault(policy, collect(state, step)),
        )
        monkeypatch.setattr(AskAgain, "reply", _void_when_even)
        train(tmp_path / policy, config(environment={"void": policy}, train={"steps": 1}))
    masked, kept = found["mask"], found["keep"]
    void = torch.tensor([r.token_ids[0] % 2 == 0 for r in masked.responses])
    assert 0 < void.sum() < len(void)
    assert (
        masked.turns["turns/void"]
        == kept.turns["turns/void"]
        == pytest.approx(void.double().mean())
    )
    assert not masked.valid[void].any()
    assert torch.equal(masked.valid[~void], masked.rollout.response[~void])
    assert torch.equal(kept.valid, kept.rollout.response)
    # The group's statistics are the same, void responses' rewards among them.
    assert torch.equal(masked.reward, kept.reward)
    assert torch.equal(masked.advantage, kept.advantage)
    # What is left out is not broken: nothing is counted as non-finite.
    assert metrics_of(tmp_path / "mask")[1]["nonfinite/rollout_logp"] == 0
    frame = records.read(tmp_path / "mask", steps=[1])
    assert set(frame["sample"]) == set(np.flatnonzero(~void.numpy()))
    assert metrics_of(tmp_path / "mask")[1]["progress/tokens"] == len(frame)


def _void_when_even(self, state, text):
    state.answer = text.strip()
    # The first character's token is even for 1, 3, 5, ...: about half of the answers.
    state.void = bool(text.strip()) and int(text.strip()[0], 36) % 2 == 1
    return None


def test_a_step_of_void_responses_alone_moves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(AskAgain, "reply", _always_void)
    metrics = train(tmp_path, config(train={"steps": 1}))
    assert metrics[1]["turns/void"] == 1
    assert metrics[1]["train/skipped_updates"] == 4
    assert metrics[1]["progress/tokens"] == 0


def _always_void(self, state, text):
    state.void = True


def test_rewards_of_turns_reach_the_response_or_each_its_turn(tmp_path, monkeypatch):
    found = {}
    for credit in ("response", "turn"):
        monkeypatch.setattr(
            COLLECT,
            lambda state, step, credit=credit: found.setdefault(credit, collect(state, step)),
        )
        train(
            tmp_path / credit,
            config(environment={"credit": credit}, train={"steps": 1}, eval={"items": 4, "k": 1}),
        )
    whole, each = found["response"], found["turn"]
    # A right answer earns 1 from the task and 0.25 of its turn.
    assert set(whole.reward.tolist()) == {0.0, 1.25}
    assert torch.equal(whole.reward, each.reward)
    assert whole.advantage.ndim == 1
    assert each.advantage.shape == each.rollout.tokens.shape
    differing = 0
    for row, response in enumerate(each.responses):
        own = each.advantage[row][each.rollout.response[row].cpu()]
        turns = torch.tensor(
            [t for t, mine in zip(response.turn, response.sampled, strict=True) if mine]
        )
        for turn in turns.unique():
            assert len(own[turns == turn].unique()) == 1
        differing += len(own.unique()) > 1
    assert differing > 3
    frame = records.read(tmp_path / "turn", steps=[1])
    row = frame[frame["sample"] == int(frame["sample"][0])]
    np.testing.assert_array_equal(
        row["advantage"],
        each.advantage[row["sample"].iloc[0]][each.rollout.response[row["sample"].iloc[0]].cpu()],
    )


def test_turn_levels_act(finished):
    """On recorded turns, turn ratios are neither the tokens' nor the product: against sums by hand, 1e-5."""
    folder, _ = finished["grpo"]
    frame = records.read(folder, steps=[2]).sort_values(["sample", "position"])
    several = frame.groupby("sample")["turn"].transform("max") > 0
    one = frame[frame["sample"] == frame[several]["sample"].iloc[-1]]  # of the last update
    run = config(objective={"ratio": {"level": "turn"}})
    pick = {
        name: torch.tensor(one[name].to_numpy())[None]
        for name in ("logp_train", "logp_old", "logp_rollout")
    }
    out = policy_loss(
        logp=pick["logp_train"].requires_grad_(),
        logp_old=pick["logp_old"],
        logp_rollout=pick["logp_rollout"],
        mask=torch.ones_like(pick["logp_old"], dtype=torch.bool),
        advantage=torch.tensor([1.0]),
        turn=torch.tensor(one["turn"].to_numpy(np.int64))[None],
        config=run.objective,
    )
    log_ratio = one["logp_train"] - one["logp_old"]
    wanted = np.exp(log_ratio.groupby(one["turn"]).transform("sum"))
    np.testing.assert_allclose(out.ratio[0].detach(), wanted, rtol=1e-5)
    assert len(wanted.unique()) > 1
