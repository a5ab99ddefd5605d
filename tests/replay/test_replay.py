"""Replay from token records: equal to the run at its own settings, right about every other method."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from alpkit.cli import main
from alpkit.errors import ConfigError, GridError, TrackingError
from alpkit.replay import as_json, pooled, replay, write
from alpkit.rollout.hf import HfSampler
from alpkit.runs import records
from alpkit.runs.records import read_sequences
from tests.support.replay_runs import metrics_of, trained

# Weights that are normalised, rejections that shrink, and a loss that depends on the cut.
EVERYTHING = {
    "objective": {
        "weight": {"action": "truncate", "upper": 1.5, "normalize": "batch"},
        "reject": [
            {"statistic": "k3", "reduce": "mean", "upper": 0.02, "normalizer": "shrink"},
            {"statistic": "k1", "of": "bypass", "upper": 0.3, "when": "negative_advantage"},
        ],
        "aggregate": "token_mean_per_micro_batch",
    }
}
ARMS = {
    "token-tis": {},
    "seq-mis": {},
    "seq-alp": {"perturbation": {"scale": "rms"}},
    "grpo": EVERYTHING,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A grid's folder of four cells, one per arm; do not write into it."""
    root = tmp_path_factory.mktemp("replay")
    grid = root / "runs" / "tiny"
    for arm, changes in ARMS.items():
        trained(grid / arm, arm, **changes)
    cells = [{"cell_id": arm, "arm": arm, "seed": 0} for arm in ARMS]
    (grid / "grid.json").write_text(
        json.dumps({"grid": "tiny", "grid_id": "0123456789ab", "cells": cells})
    )
    return root


@pytest.fixture
def copied(runs, tmp_path):
    """One cell in a grid of its own, to be broken."""
    shutil.copytree(runs / "runs/tiny/seq-mis", tmp_path / "runs/tiny/seq-mis")
    return tmp_path / "runs/tiny/seq-mis"


def by_method(found, step=1):
    return found.methods[found.methods["step"] == step].set_index("method")


def jaccard(found, of, one, other, step=1):
    rows = found.overlap[(found.overlap["step"] == step) & (found.overlap["of"] == of)]
    return rows.set_index(["method", "other"])["jaccard"][one, other]


@pytest.mark.parametrize("arm", ARMS)
def test_at_its_own_settings_a_replay_is_what_was_logged(runs, arm):
    folder = runs / "runs/tiny" / arm
    tokens = records.read(folder)
    assert tokens["update"].nunique() == 4
    assert tokens.groupby(["step", "sample"]).size().nunique() > 1  # ragged

    found = replay(str(folder), [], gradients=False, tokens=True)
    assert found.equals_logged is True
    logged = metrics_of(folder)
    for step in (1, 2):
        own = found.logged[found.logged["step"] == step].set_index("metric")
        receipts = {k for k in logged[step] if k.startswith("receipt/")}
        assert set(own.index) == {"train/loss", "nonfinite/loss_logp", *receipts}
        np.testing.assert_allclose(own["replayed"], own["logged"], rtol=1e-5, atol=1e-7)
        assert by_method(found, step)["loss"].item() == own["replayed"]["train/loss"]
    # Token by token, too: the numbers that the trainer recorded.
    order = ["step", "sample", "position"]
    told, seen = found.tokens.sort_values(order), tokens.sort_values(order)
    kept = seen["keep"].to_numpy()
    assert (told["removed"].to_numpy() == ~kept).all()
    np.testing.assert_allclose(told["weight"], np.where(kept, seen["weight"], 0), rtol=1e-6)
    assert told["removed"].any() == (arm in ("seq-mis", "grpo"))


def test_the_micro_batches_are_the_trainers(runs):
    from alpkit.replay.batches import read_step
    from alpkit.replay.inputs import find_cell

    cell = find_cell("token-tis", runs)
    recorded = read_step(cell.folder, 1, cell.config)
    assert max(len(micros) for micros in recorded.plan) > 1
    assert recorded.batch.valid.sum() == len(recorded.tokens)


def test_another_bound_is_not_what_was_logged(copied):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["objective"]["weight"]["upper"] = 1.1
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    found = replay(str(copied), [], gradients=False)
    assert found.equals_logged is False
    wrong = set(found.logged[~found.logged["equal"]]["metric"])
    assert {"receipt/masked", "receipt/weight_removed", "train/loss"} <= wrong


def test_what_a_mask_removes_and_how_far_two_masks_agree(runs, tmp_path):
    names = {}
    for upper in (1.1, 1.4):
        path = tmp_path / f"{upper}.yaml"
        path.write_text(f"preset: seq-mis\nobjective: {{weight: {{upper: {upper}}}}}\n")
        names[upper] = str(path)
    found = replay("token-tis", list(names.values()), gradients=False, root=runs)
    tokens = records.read(runs / "runs/tiny/token-tis", steps=[1])
    log_w = (tokens["logp_old"] - tokens["logp_rollout"]).groupby(tokens["sample"]).transform("sum")
    gone = {upper: np.exp(log_w) > upper for upper in names}
    assert gone[1.1].sum() > gone[1.4].sum() > 0
    rows = by_method(found)
    for upper, name in names.items():
        assert rows.loc[name, "removed"] == pytest.approx(gone[upper].mean())
        whole = tokens[gone[upper]]["sample"].nunique() / tokens["sample"].nunique()
        assert rows.loc[name, "removed_responses"] == pytest.approx(whole)
        solved = (tokens[gone[upper]]["reward"] >= 1).mean()
        assert rows.loc[name, "removed_solved"] == pytest.approx(solved)
        assert jaccard(found, "removed", name, name) == 1
    assert (tokens["reward"] >= 1).any()
    assert np.isnan(rows.loc["own", "removed_solved"])
    assert jaccard(found, "removed", names[1.1], names[1.4]) == pytest.approx(
        gone[1.4].sum() / gone[1.1].sum()
    )
    # token-tis removes nothing: with itself that is no agreement, with a mask it is none at all.
    assert rows.loc["own", "removed"] == 0
    assert np.isnan(jaccard(found, "removed", "own", "own"))
    assert jaccard(found, "removed", "own", names[1.1]) == 0
    weight = np.where(gone[1.1], 0.0, np.exp(log_w))
    ess = weight.sum() ** 2 / (len(weight) * (weight**2).sum())
    assert rows.loc[names[1.1], "weight_ess"] == pytest.approx(ess, rel=1e-5)
    assert rows.loc[names[1.1], "weight_max"] == pytest.approx(weight.max(), rel=1e-5)


def test_mute_are_the_tokens_that_a_clip_band_silences(runs):
    found = replay("seq-mis", ["grpo", "seq-mis"], gradients=False, root=runs)
    tokens = records.read(runs / "runs/tiny/seq-mis", steps=[2])
    ratio, size = np.exp(tokens["logp_train"] - tokens["logp_old"]), tokens["advantage"]
    clipped = ((size > 0) & (ratio > 1.2)) | ((size < 0) & (ratio < 0.8))
    assert clipped.any()
    rows = by_method(found, 2)
    assert rows.loc["grpo", "mute"] == pytest.approx(clipped.mean())
    both = clipped | (~tokens["keep"] & (size != 0))
    assert rows.loc["seq-mis", "mute"] == pytest.approx(both.mean())
    assert jaccard(found, "mute", "grpo", "seq-mis", 2) == pytest.approx(clipped.sum() / both.sum())
    np.testing.assert_allclose(rows.loc["grpo", "ratio_p98"], np.quantile(ratio, 0.98), rtol=1e-6)


def test_a_methods_own_advantages_come_from_the_recorded_rewards(runs, tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(
        "objective: {ratio: {denominator: current}, surrogate: {kind: reinforce}, "
        "advantage: {kind: dr_grpo}, aggregate: fixed_length_mean}\n"
    )
    found = replay("token-tis", [str(plain)], gradients=False, tokens=True, root=runs)
    told = found.tokens[(found.tokens["step"] == 1) & (found.tokens["method"] == str(plain))]
    rewards = read_sequences(runs / "runs/tiny/token-tis", steps=[1])
    centred = rewards["reward"] - rewards.groupby("prompt")["reward"].transform("mean")
    assert (centred != 0).any()
    # The ratio is 1: the slope is -A / (2 prompts x 4 responses x 8 tokens) of the mini-batch.
    expected = -centred.to_numpy()[told["sample"]] / 64
    np.testing.assert_allclose(told["slope"], expected, atol=1e-7)


def test_the_runs_own_noise_serves_other_objectives_and_no_other_noise_does(runs):
    config = yaml.safe_load((runs / "runs/tiny/seq-alp/config.yaml").read_text())
    same = runs / "same-noise.yaml"
    same.write_text(
        yaml.safe_dump({"preset": "token-bypass", "perturbation": config["perturbation"]})
    )
    found = replay("seq-alp", [str(same), "token-bypass"], steps=[1], root=runs, tokens=True)
    tokens = records.read(runs / "runs/tiny/seq-alp", steps=[1]).sort_values(["sample", "position"])
    for name, logp in ((str(same), "logp_perturbed"), ("token-bypass", "logp_train")):
        told = found.tokens[found.tokens["method"] == name]
        ratio = np.exp(tokens[logp] - tokens["logp_rollout"])
        np.testing.assert_allclose(told["ratio"], ratio, rtol=1e-5)
    with pytest.raises(ConfigError, match="seq-alp cannot be replayed") as error:
        replay("token-tis", ["seq-alp"], gradients=False, root=runs)
    assert "only the model" in error.value.why
    assert "records.replay: true" in error.value.fix


def test_a_step_without_pi_old_refuses_what_needs_it_and_replays_the_rest(copied):
    path = copied / "records/tokens-000002.parquet"
    pd.read_parquet(path).assign(logp_old=np.nan).astype({"logp_old": "float32"}).to_parquet(path)
    found = replay(str(copied), ["grpo", "token-bypass"], gradients=False)
    assert set(found.methods[found.methods["step"] == 2]["method"]) == {"token-bypass"}
    assert set(found.methods[found.methods["step"] == 1]["method"]) == {
        *("own", "grpo", "token-bypass")
    }
    assert "grpo is not replayed from the records of step 2: it uses pi_old" in " ".join(
        found.notes
    )


def test_the_pull_to_the_reference_is_left_out_and_said(tmp_path):
    pulled = trained(tmp_path / "pulled", objective={"reference_kl": {"coef": 0.1}})
    found = replay(str(pulled), ["grpo"], gradients=False)
    assert "reference_kl" in found.notes[0]
    assert found.equals_logged
    assert "train/loss" not in set(found.logged["metric"])
    assert set(found.methods["method"]) == {"grpo"}  # without its pull the run's method is grpo
    assert found.methods["own"].all()


def test_filtered_groups_and_a_bonus_leave_a_replay_what_the_trainer_logged(tmp_path):
    filtered = trained(
        tmp_path / "filtered",
        objective={"entropy_bonus": 0.05},
        rollout={"max_tokens": 4, "filter": {"zero_variance": "drop"}, "overlong": "mask"},
    )
    logged = metrics_of(filtered)
    assert 0 < logged[1]["receipt/dropped_groups"] < 1
    assert 0 < logged[1]["receipt/overlong"] < 1
    found = replay(str(filtered), ["grpo"], gradients=True)
    assert "entropy_bonus" in found.notes[0]
    assert not [note for note in found.notes if note.startswith("warning")]
    assert found.equals_logged
    assert "train/loss" not in set(found.logged["metric"])
    assert found.methods["own"].all()
    assert (found.gradients["norm"] > 0).any()


def test_tokens_that_the_sampler_gave_no_number_stay_out(tmp_path, monkeypatch):
    class Spoiled(HfSampler):
        def generate(self, requests, *, max_tokens, temperature):
            responses = super().generate(requests, max_tokens=max_tokens, temperature=temperature)
            bad = responses[0]._replace(logp=(float("nan"), *responses[0].logp[1:]))
            return [bad, *responses[1:]]

    monkeypatch.setattr("alpkit.rollout.hf.HfSampler", Spoiled)
    spoiled = trained(
        tmp_path / "spoiled", "seq-bypass", train={"steps": 1}, diagnostics={"max_nonfinite": 0.2}
    )
    assert metrics_of(spoiled)[1]["nonfinite/rollout_logp"] == 1
    found = replay(str(spoiled), ["token-tis"], tokens=True)
    assert found.equals_logged
    first = found.tokens[(found.tokens["sample"] == 0) & (found.tokens["method"] == "own")]
    assert first["position"].tolist() == list(range(1, len(first) + 1))
    assert not found.notes


def test_pooled_numbers_are_the_steps_together(runs):
    found = replay("grpo", ["seq-mis"], gradients=False, root=runs)
    both = found.overlap[(found.overlap["of"] == "removed") & (found.overlap["method"] == "own")]
    both = both[both["other"] == "seq-mis"]
    numbers = pooled(found)
    assert numbers["overlap"]["removed"]["own"]["seq-mis"] == pytest.approx(
        both["both"].sum() / both["either"].sum()
    )
    means = {row["method"]: row for row in numbers["methods"]}
    assert means["seq-mis"]["loss"] == pytest.approx(
        by_method(found, 1).loc["seq-mis", "loss"] / 2
        + by_method(found, 2).loc["seq-mis", "loss"] / 2
    )
    assert means["seq-mis"]["steps"] == 2
    json.dumps(as_json(found), allow_nan=False)


def test_a_second_replay_replaces_the_first_whole(runs, tmp_path):
    found = replay("seq-mis", ["grpo"], gradients=False, root=runs)
    first = write(found, tmp_path)
    assert first.folder == tmp_path / "reports/tiny-01234567-seq-mis-replay"
    assert not first.replaced
    (first.folder / "left-over.txt").write_text("old")
    second = write(found, tmp_path)
    assert second.replaced
    assert sorted(path.name for path in second.folder.iterdir()) == [
        *("cosines.csv", "gradients.csv", "logged.csv", "methods.csv", "overlap.csv", "replay.json")
    ]
    assert [path.name for path in second.folder.parent.iterdir()] == [second.folder.name]
    stored = pd.read_csv(second.folder / "methods.csv")
    np.testing.assert_allclose(stored["loss"], found.methods["loss"], rtol=1e-12)


def test_importing_it_imports_no_torch():
    check = "import sys, alpkit.replay; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def broken_step(folder):
    replay(str(folder), ["grpo"], steps=[1, 7])


def broken_no_records(folder):
    shutil.rmtree(folder / "records")
    replay(str(folder), ["grpo"])


def broken_no_policy(folder):
    shutil.rmtree(folder / "replay")
    replay(str(folder), ["grpo"], gradients=True)


def broken_config(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["updates_per_rollout"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    replay(str(folder), ["grpo"])


def broken_group(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["rollout"]["group"] = 8
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    replay(str(folder), ["grpo"])


@pytest.mark.parametrize(
    ("use", "kind", "says"),
    [
        (broken_step, TrackingError, ["step 7 was not recorded", "recorded steps: 1, 2"]),
        (broken_no_records, TrackingError, ["no token records", "records.every"]),
        (broken_no_policy, TrackingError, ["policy from before step 1", "records.replay: true"]),
        (broken_config, TrackingError, ["do not fit", "updates_per_rollout"]),
        (broken_group, TrackingError, ["do not fit", "32 responses, the config has 64"]),
    ],
)
def test_a_run_that_cannot_be_replayed_says_why_and_what_to_do(copied, use, kind, says):
    with pytest.raises(kind) as error:
        use(copied)
    assert all(text in str(error.value) for text in says), str(error.value)
    assert error.value.fix
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("objective: {weight: {actio: mask}}", ["mine.yaml:1:22", "did you mean 'action'"]),
        ("objective: {}\narms: [grpo]", ["mine.yaml:2:1", "arms is not a field of a method"]),
        ("preset: grop", ["mine.yaml:1:9", "did you mean 'grpo'"]),
        (
            "objective: {ratio: {denominator: rollout}, weight: {action: mask}}",
            ["count the mismatch twice"],
        ),
    ],
)
def test_a_method_file_is_explained_where_it_is_wrong(runs, tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        replay("seq-mis", ["mine.yaml"], root=runs)
    assert all(part in str(error.value) for part in says), str(error.value)


def test_a_grid_is_not_a_cell(runs):
    with pytest.raises(GridError, match="grid of 4 cells") as error:
        replay("tiny", ["grpo"], root=runs)
    assert "token-tis" in error.value.why
    assert "alpkit replay token-tis" in error.value.fix


@pytest.fixture
def call(runs, tmp_path, monkeypatch, capsys):
    """One command line in a folder that holds the grid; gives exit code, stdout and stderr."""
    (tmp_path / "runs").symlink_to(runs / "runs")
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["alpkit", "replay", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_the_command_prints_tables_and_writes_the_report(call):
    options = ("--methods", "grpo, seq-mis,icepop", "--no-gradients")
    code, out, err = call("seq-mis", *options)
    assert code == 0
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert {"grpo", "seq-mis (as run)", "icepop"} <= set(rows)
    assert "is what was logged" in err
    assert "(replaced" not in err
    _, out, err = call("seq-mis", *options, "--json", "--step", "2")
    told = json.loads(out)
    assert told["steps"] == [2]
    assert told["equals_logged"] is True
    assert told["replaced"] is True
    assert "(replaced an earlier replay)" in err
    assert told["pooled"]["overlap"]["removed"]["seq-mis"]["seq-mis"] == 1
    assert told["pooled"]["overlap"]["removed"]["grpo"]["grpo"] is None
    assert {row["method"] for row in told["methods"]} == {"grpo", "seq-mis", "icepop"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("seq-mis", "--methods", "grop"), "did you mean 'grpo'?"),
        (("seq-mis", "--methods", " , "), "names no method"),
        (("seq-mis", "--methods", "grpo", "--step", "9"), "recorded steps: 1, 2"),
        (("tiny", "--methods", "grpo"), "grid of 4 cells"),
        (("nowhere", "--methods", "grpo"), "no run 'nowhere'"),
        (("seq-mis",), "--methods"),
    ],
)
def test_misuse_is_one_message_and_exit_code_2(call, tmp_path, args, says):
    code, out, err = call(*args)
    assert code == 2
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "reports").exists()
