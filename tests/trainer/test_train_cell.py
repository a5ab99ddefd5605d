"""The trainer core on the built-in model: invariants that hold for every arm, by value."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alpkit.config import PRESETS, RunConfig
from alpkit.errors import NumericalError, RolloutError, TrackingError
from alpkit.policy.loading import load_policy
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.rollout.hf import HfSampler
from alpkit.runs import records
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.runs.records import RecordWriter, read_sequences
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell

SMALL = {
    "rollout": {"weights": "int4", "prompts": 8, "group": 4},
    "train": {"steps": 2, "updates_per_rollout": 4, "lr": 3e-5},
    "eval": {"every": 2, "items": 24, "k": 2},
    "records": {"every": 1},
    "checkpoint": {"every": 1},
}


def merged(*layers):
    out = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def config(preset="grpo", **changes):
    return RunConfig.model_validate(merged(SMALL, PRESETS[preset].settings, changes))


def train(folder, run_config):
    torch.set_num_threads(1)
    train_cell(run_config, folder, CellTracker(folder))
    return metrics_of(folder)


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines}


def without_times(metrics):
    return {
        s: {k: v for k, v in m.items() if not k.startswith(("time/", "memory/", "perf/"))}
        for s, m in metrics.items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two steps of every kind of arm, once per module: {preset: (folder, metrics)}."""
    runs = {}
    for preset in ("grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp"):
        folder = tmp_path_factory.mktemp(preset)
        runs[preset] = (folder, train(folder, config(preset)))
    return runs


def test_every_step_has_one_line_and_step_0_is_the_evaluation(finished):
    for preset, (_, metrics) in finished.items():
        assert list(metrics) == [0, 1, 2], preset
        assert {"eval/greedy", "eval/avg_at_k", "eval/pass_at_k", "probe/gap_mean"} <= set(
            metrics[0]
        )
        assert "reward/mean" not in metrics[0]
        assert metrics[2]["progress/samples"] == 64
        assert metrics[2]["eval/pass_at_k"] >= metrics[2]["eval/avg_at_k"]
        # An optimizer step on every mini-batch, and a gradient behind it.
        assert metrics[1]["train/skipped_updates"] == 0
        assert metrics[1]["train/grad_norm"] > 0


def test_arms_of_a_seed_share_prompts_and_draws(finished):
    """At step 1 every arm has the same weights: the same prompts, tokens and log-probs, bit for bit."""
    columns = ["sample", "token", "logp_rollout", "logp_old", "reward"]
    reference = records.read(finished["grpo"][0], columns=columns, steps=[1])
    for preset, (folder, metrics) in finished.items():
        assert records.read(folder, columns=columns, steps=[1]).equals(reference), preset
        assert metrics[0]["eval/greedy"] == finished["grpo"][1][0]["eval/greedy"]
        assert metrics[0]["eval/avg_at_k"] == finished["grpo"][1][0]["eval/avg_at_k"]


def test_noise_reaches_the_numerator_and_nothing_else(finished):
    """Rollout, evaluation and logp_old are equal to the control's (above); only logp_perturbed is noisy."""
    noisy = records.read(finished["seq-alp"][0], steps=[1])
    control = records.read(finished["seq-bypass"][0], steps=[1])
    first = (noisy["update"] == 0).to_numpy()
    # Before the first update the weights are the control's: logp_train must be its logp_train.
    assert np.array_equal(noisy["logp_train"][first], control["logp_train"][first])
    assert (noisy["logp_perturbed"] != noisy["logp_train"]).mean() > 0.9
    assert control["logp_perturbed"].isna().all()
    metrics = finished["seq-alp"][1][1]
    assert metrics["ratio/perturbation/token/std"] > 1e-4
    assert metrics["noise/realised_ratio"] == pytest.approx(1.0, abs=0.1)
    assert metrics["sigma/mean"] != pytest.approx(0.02, abs=1e-6)  # it learned


def test_raw_ratio_is_the_product_of_its_factors(finished):
    frame = records.read(finished["seq-alp"][0], steps=[2])
    raw = frame["logp_train"] - frame["logp_rollout"]
    metrics = finished["seq-alp"][1][2]
    assert metrics["ratio/raw/token/std"] == pytest.approx(raw.std(ddof=0), rel=1e-5)
    assert metrics["kl/k1"] == pytest.approx(-raw.mean(), rel=1e-4)
    assert metrics["kl/k3"] == pytest.approx((np.exp(raw) - 1 - raw).mean(), rel=1e-4)
    per_update = (np.exp(raw) - 1 - raw).groupby(frame["update"]).mean()
    assert metrics["kl/k3_max"] == pytest.approx(per_update.max(), rel=1e-4)
    loss_ratio = frame["logp_perturbed"] - frame["logp_rollout"]
    product = loss_ratio.groupby(frame["sample"]).sum()
    assert metrics["ratio/loss/product/max"] == pytest.approx(product.max(), rel=1e-4)


def test_the_engines_gap_is_that_of_the_recorded_log_probs(finished):
    folder, metrics = finished["grpo"]
    frame, found = records.read(folder, steps=[1]).astype({"logp_old": float}), metrics[1]
    d = frame["logp_old"] - frame["logp_rollout"]
    gap = (np.exp(frame["logp_old"]) - np.exp(frame["logp_rollout"].astype(float))).abs()
    per_response = (-d).groupby(frame["sample"]).mean()
    expected = {
        "prob_gap": gap.mean(),
        "prob_gap_max": gap.max(),
        "log_correlation": np.corrcoef(frame["logp_old"], frame["logp_rollout"])[0, 1],
        "mult_prob_error": np.exp(d.abs()).mean(),
        "log_ppl_diff": per_response.mean(),
        "ppl_ratio": np.exp(per_response).mean(),
    }
    for name, value in expected.items():
        assert found[f"mismatch/{name}"] == pytest.approx(value, rel=1e-4), name


def test_receipts_say_what_each_correction_touched(finished):
    for preset, key in (("seq-mis", "masked"), ("token-tis", "truncated")):
        metrics = finished[preset][1][1]
        frame = records.read(finished[preset][0], steps=[1])
        log_w = (frame["logp_old"] - frame["logp_rollout"]).astype(float)
        if preset == "seq-mis":
            log_w = log_w.groupby(frame["sample"]).transform("sum")
        assert metrics[f"receipt/{key}"] == pytest.approx((np.exp(log_w) > 2).mean(), abs=1e-9)
        removed = (
            np.exp(log_w[np.exp(log_w) > 2]).sum()
            - (key == "truncated") * 2 * (np.exp(log_w) > 2).sum()
        )
        assert metrics["receipt/weight_removed"] == pytest.approx(
            removed / np.exp(log_w).sum(), rel=1e-4, abs=1e-9
        )
    assert "receipt/weight_removed" not in finished["grpo"][1][1]
    assert finished["grpo"][1][2]["receipt/clipped_low"] > 0


def test_records_hold_what_was_sampled(finished):
    folder, metrics = finished["grpo"]
    tokens, sequences = records.read(folder, steps=[1]), read_sequences(folder, steps=[1])
    assert len(sequences) == 32
    assert len(tokens) == metrics[1]["progress/tokens"] == sum(map(len, sequences["response_ids"]))
    for _, row in sequences.head(8).iterrows():
        own = tokens[tokens["sample"] == row["sample"]].sort_values("position")
        assert own["token"].tolist() == list(row["response_ids"])
        assert own["position"].tolist() == list(range(len(own)))
        assert set(own["prompt"]) == {row["prompt"]} == {row["sample"] // 4}
        assert set(own["update"]) == {row["prompt"] // 2}  # mini-batches are whole groups, in order
    assert metrics[1]["reward/mean"] == pytest.approx(sequences["reward"].mean(), abs=1e-7)


@pytest.mark.parametrize("sigma", [{"init": 0.0, "learnable": False}, {"init": 1e-30}])
def test_zero_sigma_is_the_control_bit_for_bit(sigma, tmp_path, finished):
    """0 attaches nothing; 1e-30 goes through every line of the noise code and adds nothing."""
    alp = train(tmp_path, config("seq-alp", perturbation={"sigma": sigma}))
    control = without_times(finished["seq-bypass"][1])
    for step, metrics in control.items():
        shared = {key: alp[step][key] for key in metrics}
        assert shared == metrics, step
    saved = [
        load_file(f / "checkpoint/step-000002/model.safetensors")
        for f in (tmp_path, finished["seq-bypass"][0])
    ]
    assert all(torch.equal(saved[0][name], value) for name, value in saved[1].items())


@pytest.mark.parametrize("antithetic", [False, True])
def test_draws_are_averaged_in_the_loss(antithetic, tmp_path, finished, monkeypatch):
    """Four draws of vanishing noise are the control bit for bit; each draw is opened once per micro-batch."""
    opened, active = [], LayerwisePerturbation.active

    def counted(self, key, *args, draw=0, **kwargs):
        opened.append((*key, draw))
        return active(self, key, *args, draw=draw, **kwargs)

    monkeypatch.setattr(LayerwisePerturbation, "active", counted)
    noise = {"sigma": {"init": 1e-30}, "draws": 4, "antithetic": antithetic}
    alp = train(tmp_path, config("seq-alp", perturbation=noise))
    assert opened == [(0, s, u, d) for s in (1, 2) for u in range(4) for d in range(4)]
    for step, metrics in without_times(finished["seq-bypass"][1]).items():
        shared = {key: alp[step][key] for key in metrics}
        assert shared == pytest.approx(metrics, rel=1e-6, abs=1e-9, nan_ok=True), step


@pytest.mark.parametrize(
    "site", ["attention_output", "mlp_output", "embedding", "final_hidden", "logits"]
)
def test_every_site_trains_in_either_dtype(site, tmp_path):
    noise = {"site": site, "scale": "rms", "sigma": {"init": 0.02}}
    metrics = train(
        tmp_path,
        config(
            "seq-alp",
            perturbation=noise,
            dtype="bfloat16",
            hardware={"micro_batch_tokens": 40, "head_chunk": 8},
        ),
    )[2]
    assert metrics["train/skipped_updates"] == 0
    assert metrics["noise/realised_ratio"] == pytest.approx(1.0, abs=0.1)
    assert metrics["noise/signal_to_noise"] > 0
    assert metrics["sigma/grad_norm"] > 0
    assert metrics["ratio/perturbation/token/std"] > 1e-4


def test_a_matched_sigma_moves_the_ratio_as_asked(tmp_path):
    matched = {"scale": "rms", "sigma": {"target_ratio_std": 0.05}}
    metrics = train(tmp_path, config("seq-alp", perturbation=matched, train={"lr": 1e-9}))
    assert metrics[1]["ratio/perturbation/token/std"] == pytest.approx(0.05, rel=0.5)
    assert metrics[1]["sigma/mean"] == metrics[2]["sigma/mean"] > 0  # fixed
    resumed = train(
        tmp_path, config("seq-alp", perturbation=matched, train={"lr": 1e-9, "steps": 3})
    )
    assert resumed[3]["sigma/mean"] == metrics[1]["sigma/mean"]


def test_a_schedule_follows_the_step(tmp_path):
    noise = {"sigma": {"init": 0.02, "learnable": False}, "schedule": {"warmup": 2}}
    metrics = train(tmp_path, config("seq-alp", perturbation=noise))
    assert [metrics[s]["sigma/mean"] for s in (1, 2)] == pytest.approx([0.01, 0.02], rel=1e-5)


def test_no_layers_leave_loss_and_gradients_untouched():
    policy = load_policy("builtin:tiny-addition")
    tokens = torch.randint(3, 15, (4, 12), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    response = attention.clone()
    response[:, :8] = False

    def gradients():
        policy.model.zero_grad()
        response_logprobs(policy.model, tokens, attention, response).logp.exp().sum().backward()
        return [p.grad.clone() for p in policy.model.parameters()]

    plain = gradients()
    perturbation = LayerwisePerturbation(
        policy.model, config("seq-alp").perturbation.model_copy(update={"layers": ()})
    )
    with perturbation.active((0, 1, 2)):
        assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_float32_and_one_update_are_on_policy_and_int4_is_not(tmp_path):
    worst = {}
    for weights in ("float32", "int4"):
        one = config(rollout={"weights": weights}, train={"updates_per_rollout": 1, "steps": 3})
        metrics = train(tmp_path / weights, one)
        frame = records.read(tmp_path / weights)
        worst[weights] = (frame["logp_train"] - frame["logp_rollout"]).abs().max()
        assert metrics[3]["ratio/staleness/token/max"] == 0  # one update: theta is still theta_old
    assert worst["float32"] < 1e-4
    assert worst["int4"] > 0.05


def test_resumed_is_uninterrupted(tmp_path):
    """Stop after step 2 of 4, with lag, noise and a spike history in the state; go on; nothing differs."""
    long = config("seq-alp", train={"steps": 4}, rollout={"lag": 1}, eval={"every": 1, "items": 8})
    whole = train(tmp_path / "whole", long)

    class Killed(RuntimeError):
        pass

    class Interrupted(CellTracker):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 3:
                raise Killed

    # Step 3 is logged and recorded but has no checkpoint: the resumed run must redo it.
    folder = tmp_path / "stopped"
    with pytest.raises(Killed):
        train_cell(long, folder, Interrupted(folder))
    assert list(metrics_of(folder)) == [0, 1, 2, 3]
    resumed = train(folder, long)
    assert without_times(resumed) == without_times(whole)
    weights = [
        load_file(tmp_path / f / "checkpoint/step-000004/model.safetensors")
        for f in ("whole", "stopped")
    ]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    # Too short for a verdict: what the detectors and the receipts remember must be compared itself.
    policy = load_policy(long.model)
    states = [
        load_checkpoint(tmp_path / f / "checkpoint/step-000004", policy.model)
        for f in ("whole", "stopped")
    ]
    for kept in ("spikes", "receipts", "tokens"):
        assert states[0][kept] == states[1][kept], kept
    assert len(states[0]["spikes"]["kl/k3"]) == 4


def test_a_checkpoint_is_fit_for_inference_and_only_the_newest_are_kept(finished):
    folder = finished["seq-alp"][0] / "checkpoint"
    assert sorted(path.name for path in folder.iterdir()) == ["step-000001", "step-000002"]
    weights = load_file(folder / "step-000002/model.safetensors")
    assert set(weights) == {
        n for n, _ in load_policy("builtin:tiny-addition").model.named_parameters()
    }


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    metrics = [
        train(
            tmp_path / str(budget),
            config("seq-alp", train={"steps": 1}, hardware={"micro_batch_tokens": budget}),
        )[1]
        for budget in (4096, 40)
    ]
    for key in ("train/loss", "train/grad_norm", "ratio/loss/product/std", "kl/k3", "sigma/mean"):
        assert metrics[1][key] == pytest.approx(metrics[0][key], rel=2e-3, abs=1e-6), key
    assert metrics[1]["receipt/surviving"] == metrics[0]["receipt/surviving"]


def test_a_lagging_sampler_is_stale_and_not_mismatched(tmp_path):
    lagged = config(rollout={"weights": "float32", "lag": 2}, train={"steps": 4})
    metrics = train(tmp_path, lagged)
    assert [metrics[step]["policy/lag"] for step in (1, 2, 3, 4)] == [0, 1, 2, 2]
    frame = records.read(tmp_path, steps=[4])
    assert set(frame["policy_version"]) == {1}
    assert (frame["logp_old"] - frame["logp_rollout"]).abs().max() < 1e-4
    first = frame[frame["update"] == 0]
    assert (first["logp_train"] - first["logp_old"]).abs().max() > 1e-2


def test_bfloat16_means_float32_masters_and_a_float32_residual(tmp_path):
    metrics = train(
        tmp_path, config("seq-alp", dtype="bfloat16", perturbation={"sigma": {"init": 1e-4}})
    )
    assert metrics[1]["noise/realised_ratio"] == pytest.approx(1.0, abs=0.1)
    weights = load_file(tmp_path / "checkpoint/step-000002/model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_learning_rates_of_0_move_nothing_and_measure_all_the_same(tmp_path):
    """The noise-floor control: weights and sigma stay to the bit, with a gradient and a mismatch to look at."""
    metrics = train(
        tmp_path,
        config("seq-alp", train={"lr": 0}, perturbation={"sigma": {"lr": 0, "weight_decay": 0.1}}),
    )
    before = load_policy("builtin:tiny-addition").model.state_dict()
    after = load_file(next(tmp_path.glob("checkpoint/*2/model.safetensors")))
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    for step in (1, 2):
        assert metrics[step]["train/grad_norm"] > 0
        assert metrics[step]["sigma/min"] == metrics[step]["sigma/max"] == pytest.approx(0.02)
        assert metrics[step]["ratio/staleness/token/std"] == pytest.approx(0, abs=1e-5)
        assert metrics[step]["ratio/mismatch/token/std"] > 1e-3


def test_log_sigma_has_its_own_learning_rate_and_decay(tmp_path):
    """AdamW's first step is the learning rate itself, up or down, after the decay; the weights have theirs."""
    noisy = config(
        "seq-alp",
        perturbation={"sigma": {"lr": 0.01, "weight_decay": 0.5}},
        train={"steps": 1, "updates_per_rollout": 1},
    )
    train(tmp_path, noisy)
    model = load_policy(noisy.model).model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    kept = load_checkpoint(tmp_path / "checkpoint" / "step-000001", model)
    decayed = math.log(0.02) * (1 - 0.01 * 0.5)
    np.testing.assert_allclose(np.abs(kept["log_sigma"].numpy() - decayed), 0.01, rtol=1e-3)
    moved = max(float((v.detach() - before[n]).abs().max()) for n, v in model.named_parameters())
    assert moved == pytest.approx(3e-5, rel=1e-2)  # float32 weights near 1 round to 6e-8
    assert not any("sigma" in name for name in before)


class Spoiled(HfSampler):
    """A sampler whose first responses come back with log-probs that are no numbers."""

    spoil = 1

    def generate(self, requests, *, max_tokens, temperature):
        responses = super().generate(requests, max_tokens=max_tokens, temperature=temperature)
        bad = [math.nan, -math.inf, math.inf]
        return [
            r._replace(logp=(bad[i % 3], *r.logp[1:])) if i < self.spoil else r
            for i, r in enumerate(responses)
        ]


def test_nonfinite_log_probs_are_masked_and_counted_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("alpkit.rollout.hf.HfSampler", Spoiled)
    monkeypatch.setattr(Spoiled, "spoil", 2)
    lenient = config("seq-bypass", diagnostics={"max_nonfinite": 0.05})
    metrics = train(tmp_path / "lenient", lenient)
    assert metrics[1]["nonfinite/rollout_logp"] == 2
    assert math.isfinite(metrics[1]["train/grad_norm"])
    assert metrics[1]["train/skipped_updates"] == 0
    frame = records.read(tmp_path / "lenient", steps=[1])
    assert np.isfinite(frame["logp_rollout"]).all()
    monkeypatch.setattr(Spoiled, "spoil", 20)
    with pytest.raises(NumericalError, match=r"20 sampler log-probs \(.*\) are NaN or infinite"):
        train(tmp_path / "strict", lenient)


def test_a_sampler_that_never_gets_the_weights_stops_the_run_before_step_1(tmp_path, monkeypatch):
    monkeypatch.setattr(HfSampler, "sync", lambda self, parameters: None)
    with pytest.raises(RolloutError, match="did not all arrive"):
        train(tmp_path, config())
    assert not (tmp_path / "metrics.jsonl").exists() or metrics_of(tmp_path) == {}


def test_shrinking_rejections_and_normalised_weights_do_not_see_the_micro_batches(tmp_path):
    objective = {
        "weight": {"action": "truncate", "upper": 1.5, "normalize": "batch"},
        "reject": [
            {"statistic": "k3", "reduce": "mean", "upper": 0.02, "normalizer": "shrink"},
            {"statistic": "k1", "of": "bypass", "upper": 0.5, "normalizer": "shrink"},
        ],
        "reference_kl": {"coef": 0.05},
    }
    metrics = [
        train(
            tmp_path / str(budget),
            config(
                objective=objective,
                train={"steps": 1},
                hardware={"micro_batch_tokens": budget},
            ),
        )[1]
        for budget in (4096, 40)
    ]
    assert 0 < metrics[0]["receipt/rejected"] < 1
    assert metrics[0]["receipt/rejected_sequences"] > 0
    assert metrics[0]["receipt/advantage_removed"] > 0
    assert metrics[0]["train/reference_kl"] > 0
    for key in ("train/loss", "train/grad_norm", "kl/k3", "train/reference_kl"):
        assert metrics[1][key] == pytest.approx(metrics[0][key], rel=2e-3, abs=1e-6), key
    assert metrics[1]["receipt/surviving"] == pytest.approx(
        metrics[0]["receipt/surviving"], abs=0.01
    )


def test_an_update_in_which_nothing_survives_moves_nothing(tmp_path):
    nothing = config(objective={"reject": [{"statistic": "ratio", "lower": 1e6}]})
    metrics = train(tmp_path, nothing)
    assert metrics[2]["train/skipped_updates"] == 4
    assert metrics[2]["nonfinite/grad_norm"] == 0
    assert metrics[2]["receipt/rejected"] == metrics[2]["receipt/rejected_sequences"] == 1
    assert metrics[2]["ratio/staleness/token/std"] == 0


def test_a_bound_that_touches_nothing_is_said_once(tmp_path, caplog):
    """Float32 rollouts leave the mismatch weight at 1, so its cap at 2 never acts; the clip does."""
    idle = config(
        "token-tis",
        rollout={"weights": "float32"},
        train={"steps": 22},
        eval={"every": 99, "items": 4},
    )
    train(tmp_path, idle)
    said = [r.getMessage() for r in caplog.records if r.name == "alpkit.trainer"]
    assert said == [
        "step 20: the weight truncate (upper 2) has touched no token so far: it does nothing"
    ]


def test_replay_checkpoints_hold_what_a_recorded_steps_first_update_started_from(tmp_path):
    noisy = config(
        "seq-alp", records={"every": 3, "replay": True, "weight": True}, train={"steps": 3}
    )
    train(tmp_path, noisy)
    assert sorted(p.name for p in (tmp_path / "replay").iterdir()) == ["step-000001", "step-000003"]
    policy = load_policy(noisy.model)
    initial = {name: value.clone() for name, value in policy.model.named_parameters()}
    state = load_checkpoint(tmp_path / "replay" / "step-000001", policy.model)
    assert all(torch.equal(v, initial[name]) for name, v in policy.model.named_parameters())
    assert state["log_sigma"].exp().numpy() == pytest.approx(0.02, rel=1e-6)
    # Step 3 starts from what step 2 left: the checkpoint of step 2.
    state = load_checkpoint(tmp_path / "replay" / "step-000003", policy.model)
    before = load_file(tmp_path / "checkpoint" / "step-000002" / "model.safetensors")
    assert all(torch.equal(v, before[name]) for name, v in policy.model.named_parameters())
    assert records.read(tmp_path, columns=["weight"])["weight"].eq(1).all()


def test_weights_are_recorded_as_they_were_applied(tmp_path):
    train(tmp_path, config("token-tis", records={"weight": True}))
    frame = records.read(tmp_path)
    raw = np.exp(frame["logp_old"].astype(float) - frame["logp_rollout"])
    np.testing.assert_allclose(frame["weight"], np.minimum(raw, 2), rtol=1e-5)
    assert "replay" not in {path.name for path in tmp_path.iterdir()}


def test_recorded_steps_have_all_four_log_probs_whatever_diagnostics_skip(tmp_path):
    sparse = config("seq-alp", diagnostics={"every": 4}, records={"every": 3}, train={"steps": 3})
    metrics = train(tmp_path, sparse)
    assert "ratio/raw/token/std" not in metrics[2]
    assert "kl/k3" not in metrics[2]
    frame = records.read(tmp_path, steps=[3])
    factors = ["logp_rollout", "logp_old", "logp_train", "logp_perturbed"]
    assert frame[factors].notna().all().all()
    assert {"ratio/mismatch/token/std", "ratio/perturbation/token/std"} <= metrics[3].keys()


def test_shares_do_not_depend_on_the_number_of_draws(tmp_path):
    rejecting = {"reject": [{"statistic": "k3", "of": "bypass", "reduce": "mean", "upper": 0.02}]}
    found = [
        train(
            tmp_path / str(draws),
            config(
                "seq-alp",
                objective=rejecting,
                perturbation={"sigma": {"init": 1e-30}, "draws": draws},
                train={"steps": 1},
            ),
        )[1]
        for draws in (1, 3)
    ]
    keys = [key for key in found[0] if key.startswith(("receipt/", "nonfinite/"))]
    assert found[0]["receipt/rejected"] > 0
    for key in keys:
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-6), key


def test_ctrl_c_goes_up_though_the_disk_is_full(tmp_path, monkeypatch, caplog):
    """A failed write must not take the interrupt's place, nor keep the sampler open."""
    closed = []
    monkeypatch.setattr(HfSampler, "close", lambda self: closed.append(True))

    def full(self, step, tokens, sequences, likeliest):
        raise TrackingError("records cannot be written", why="no space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)

    class Interrupted(CellTracker):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(config(), tmp_path, Interrupted(tmp_path))
    assert closed == [True]
    assert "no space left" in caplog.text
