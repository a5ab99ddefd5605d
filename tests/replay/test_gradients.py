"""Replay with the policy: gradients against the trainer's own norm and against plain autograd."""

import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from alpkit.cli import main
from alpkit.config import PRESETS
from alpkit.errors import ConfigError
from alpkit.policy.loading import load_policy
from alpkit.policy.logprobs import response_logprobs
from alpkit.replay import replay
from alpkit.replay.batches import read_step
from alpkit.replay.inputs import find_cell
from alpkit.runs.checkpoint import load_checkpoint
from tests.support.replay_runs import metrics_of, trained

ONE_UPDATE = {"updates_per_rollout": 1, "steps": 1}
PAIRS = {"sigma": {"learnable": False}, "scale": "rms", "draws": 2, "antithetic": True}

STRONG = {"sigma": {"init": 0.3, "learnable": False}, "draws": 2, "scale": "rms"}
REJECTS_ITS_OWN = {
    "ratio": {"level": "token"},
    "reject": [{"statistic": "k2", "of": "bypass", "upper": 0.05, "normalizer": "shrink"}],
}


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    """token-tis on int4 samples, two updates per rollout: four prompts of four responses in each."""
    folder = tmp_path_factory.mktemp("stale") / "token-tis"
    return trained(folder, "token-tis", train={"updates_per_rollout": 2})


@pytest.fixture(scope="module")
def on_policy(tmp_path_factory):
    """A float32 sampler and one update: all three policies are one, to rounding."""
    folder = tmp_path_factory.mktemp("on-policy") / "grpo"
    return trained(folder, rollout={"weights": "float32"}, train=ONE_UPDATE)


def by_method(found, step=1):
    return found.gradients[found.gradients["step"] == step].set_index("method")


def cosines(found, step=1):
    rows = found.cosines[found.cosines["step"] == step]
    return rows.set_index(["method", "other"])["cosine"]


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("token-tis", {}),
        ("seq-mis", {}),
        ("gspo", {}),
        ("token-tis", {"dtype": "bfloat16"}),
        ("token-tis", {"dtype": "float16", "head": "float32"}),
        ("token-tis", {"rollout": {"lag": 1}, "train": {"updates_per_rollout": 1, "steps": 3}}),
        ("seq-alp", {"perturbation": PAIRS}),
        ("seq-alp", {"perturbation": PAIRS | {"gradient": "clean"}}),
        ("seq-alp", {"perturbation": STRONG, "objective": REJECTS_ITS_OWN}),
    ],
    ids=[
        "token-tis",
        "seq-mis",
        "gspo",
        "bfloat16",
        "float16",
        "lag",
        "seq-alp of two draws",
        "clean gradient",
        "draws that reject their own",
    ],
)
def test_with_one_update_the_gradients_norm_is_the_trainers(tmp_path, preset, changes):
    folder = trained(tmp_path / "cell", preset, **{"train": ONE_UPDATE, **changes})
    step, logged = max(metrics_of(folder).items())
    found = replay(str(folder), [], steps=[step])
    row = by_method(found, step).loc["own"]
    assert row["norm"] > 0
    assert row["norm"] == pytest.approx(logged["train/grad_norm"], rel=2e-4)
    assert row["loss"] == pytest.approx(logged["train/loss"], rel=1e-4, abs=1e-7)
    assert row["own"]
    assert not [note for note in found.notes if note.startswith("warning")]
    assert ("draws of noise" in " ".join(found.notes)) == (preset == "seq-alp")


def test_norm_variance_and_cosine_are_what_plain_autograd_gives(stale):
    """In the first update pi_theta = pi_old, so that grpo's gradient is that of -mean(A log pi)."""
    told = replay(str(stale), ["grpo", "token-tis"], steps=[1])
    rows = by_method(told)
    cell = find_cell(str(stale), stale)
    recorded = read_step(stale, 1, cell.config)
    model = load_policy(cell.config.model).model
    load_checkpoint(stale / "replay/step-000001", model)
    first, columns = recorded.batch.rollout.rows(torch.arange(16))
    valid = recorded.batch.valid[:16, columns]
    logp = response_logprobs(model, first.tokens, first.attention, first.response).logp
    capped = (recorded.logps["logp_old"][:16, columns] - first.logp_rollout).exp().clamp(max=2)
    whole = {}
    for name, weight in (("grpo", torch.ones_like(capped)), ("token-tis", capped.nan_to_num())):
        loss = -weight * recorded.batch.advantage[:16, None] * logp * valid / valid.sum()
        prompts = [loss[i : i + 4].sum() for i in range(0, 16, 4)]
        parts = torch.stack([_gradient(one, model) for one in prompts])
        whole[name] = parts.sum(dim=0)
        # K times the trace of the sample covariance of the K parts.
        variance = 4 * parts.var(dim=0).sum().item()
        assert variance > 0
        assert rows.loc[name, "norm"] == pytest.approx(whole[name].norm().item(), rel=1e-4)
        assert rows.loc[name, "variance"] == pytest.approx(variance, rel=1e-3)
        share = variance / whole[name].norm().item() ** 2
        assert rows.loc[name, "relative_variance"] == pytest.approx(share, rel=1e-3)
        assert rows.loc[name, "micro_batches"] == 4
    expected = torch.cosine_similarity(whole["grpo"], whole["token-tis"], dim=0).item()
    assert expected < 0.9999
    assert cosines(told)["grpo", "token-tis"] == pytest.approx(expected, abs=1e-5)
    assert cosines(told)["grpo", "grpo"] == pytest.approx(1, abs=1e-6)
    assert rows.loc["token-tis", "cosine_on_policy"] == pytest.approx(expected, abs=1e-5)
    assert rows.loc["grpo", "cosine_on_policy"] == pytest.approx(1, abs=1e-5)


def _gradient(loss, model):
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads]).double()


def test_on_policy_every_method_that_rejects_nothing_has_the_on_policy_gradient(on_policy):
    noisy = {name for name, preset in PRESETS.items() if "perturbation" in preset.settings}
    # Score centering needs the model's log-probs of more than the sampled token.
    plain = [n for n in PRESETS if n not in noisy and not n.startswith("score-centering")]
    found = replay(str(on_policy), plain)
    told = by_method(found)
    assert set(told.index) == set(plain)
    assert (told["norm"] > 0).all()
    np.testing.assert_allclose(told["cosine_on_policy"], 1, atol=1e-5)
    np.testing.assert_allclose(told["norm"], told["on_policy_norm"], rtol=1e-3)
    # Its advantages and its aggregate are the method's own: dr-grpo's counterpart is not grpo's.
    assert told.loc["dr-grpo", "on_policy_norm"] < 0.9 * told.loc["grpo", "on_policy_norm"]
    assert cosines(found)["grpo", "gspo"] < 1 - 1e-4


def test_noise_that_the_run_had_not_needs_the_model_and_starts_at_its_sigma(stale):
    found = replay(str(stale), ["seq-alp", "seq-bypass"], steps=[1])
    assert "seq-alp" not in set(found.methods["method"])
    told = by_method(found)
    assert told.loc["seq-alp", "norm"] > 0
    assert cosines(found)["seq-alp", "seq-bypass"] < 0.999
    assert "seq-alp: gradients at sigma 0.02" in " ".join(found.notes)


def test_a_sigma_that_only_a_run_finds_is_refused(stale, tmp_path):
    path = tmp_path / "matched.yaml"
    noise = {"sigma": {"target_ratio_std": 0.05}}
    path.write_text(yaml.safe_dump({"preset": "seq-alp", "perturbation": noise}))
    with pytest.raises(ConfigError, match="cannot be replayed"):
        replay(str(stale), [str(path)])


def test_the_runs_own_noise_has_the_sigma_that_it_had_learned(tmp_path):
    learned = trained(
        tmp_path / "seq-alp", "seq-alp", perturbation={"scale": "rms", "sigma": {"lr": 0.5}}
    )
    found = replay(str(learned), ["seq-bypass"])
    assert set(found.gradients["step"]) == {1, 2}
    assert not [note for note in found.notes if note.startswith("warning")]
    # With the sigma it started from, the second step's log-probs are not those that were recorded.
    state = torch.load(learned / "replay/step-000002/state.pt")
    moved = (state["log_sigma"] - np.log(0.02)).abs().min().item()
    assert moved > 0.05
    (
        learned / "replay/step-000002/digests.json"
    ).unlink()  # a version without digests wrote this one
    torch.save(
        {**state, "log_sigma": torch.full_like(state["log_sigma"], np.log(0.02))},
        learned / "replay/step-000002/state.pt",
    )
    warned = replay(str(learned), ["seq-bypass"], steps=[2])
    assert "at step 2 the model gives logp_perturbed up to" in warned.notes[0]


def test_another_policy_than_the_runs_is_a_warning_with_its_distance(stale, tmp_path):
    folder = tmp_path / "cell"
    shutil.copytree(stale, folder)
    path = folder / "replay/step-000001/model.safetensors"
    weights = {name: 1.05 * value for name, value in load_file(path).items()}
    save_file(weights, path)
    (path.parent / "digests.json").unlink()  # a version without digests wrote this one
    (note,) = [n for n in replay(str(folder), ["grpo"]).notes if n.startswith("warning")]
    assert "logp_train" in note
    assert float(note.split("up to ")[1].split()[0]) > 0.01


def test_steps_without_a_kept_policy_have_no_gradients(stale, tmp_path):
    folder = tmp_path / "cell"
    shutil.copytree(stale, folder)
    shutil.rmtree(folder / "replay/step-000001")
    found = replay(str(folder), ["grpo"])
    assert set(found.gradients["step"]) == {2}
    assert set(found.methods["step"]) == {1, 2}
    assert replay(str(folder), ["grpo"], gradients=False).gradients.empty


def test_the_command_shows_gradients_where_the_policy_was_kept(
    stale, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["alpkit", "replay", str(stale), "--methods", "grpo,token-alp", "--step", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    records, _, rest = out.partition("gradients of the first update")
    gradients, _, cosines = rest.partition("cosines")
    assert "token-alp" not in records  # its noise is not the run's
    assert "token-alp" in gradients
    rows = [line.split()[-3:] for line in cosines.splitlines()[2:5]]
    assert [row[i] for i, row in enumerate(rows)] == ["1", "1", "1"]
