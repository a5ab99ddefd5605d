"""A planted spike is found where it was planted, with the response that made it; a resume forgets none twice."""

import json
import math
import shutil

import numpy as np
import pytest

from alpkit.config import RunConfig
from alpkit.rollout.hf import HfSampler
from alpkit.runs.records import recorded_steps
from alpkit.runs.spike_log import read_spikes, rewind_spikes, spike_table, spike_tags
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.spike_watch import Found, SpikeWatch, explain

SMALL = {
    "rollout": {"weights": "int4", "prompts": 6, "group": 4},
    "train": {"steps": 19, "updates_per_rollout": 2, "lr": 1e-6},
    "eval": {"every": 50, "items": 4, "k": 1},
    "records": {"every": 50},
    "checkpoint": {"every": 18},
}
AT, GUILTY = 17, 13


class Shifted(HfSampler):
    """A sampler that misreports the log-probs of one response of one step by 3 nats."""

    calls = 0

    def generate(self, requests, *, max_tokens, temperature):
        responses = super().generate(requests, max_tokens=max_tokens, temperature=temperature)
        if len(requests) != 24 or temperature == 0:
            return responses
        type(self).calls += 1
        if type(self).calls != AT:
            return responses
        guilty = responses[GUILTY]
        shifted = guilty._replace(logp=tuple(value - 3 for value in guilty.logp))
        return [*responses[:GUILTY], shifted, *responses[GUILTY + 1 :]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alpkit.rollout.hf.HfSampler", Shifted)
        train_cell(RunConfig.model_validate(SMALL), folder, CellTracker(folder))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return folder, {line["step"]: line for line in map(json.loads, lines)}


def test_a_planted_spike_is_found_at_its_step_with_its_sequence(planted):
    folder, metrics = planted
    flagged = [step for step, values in metrics.items() if values.get("kl/spike") == 1.0]
    assert flagged == [AT]
    assert metrics[AT]["kl/spike_z"] > 5
    found = {(line["step"], line["metric"]): line for line in read_spikes(folder)}
    assert {(AT, "kl/k3"), (AT, "kl/k3_max")} <= set(found)
    for metric in ("kl/k3", "kl/k3_max"):
        line = found[AT, metric]
        assert line["status"] == "ok"
        assert line["value"] == pytest.approx(metrics[AT][metric], rel=1e-6)
        first = line["sequences"][0]
        assert (first["sample"], first["prompt"]) == (GUILTY, GUILTY // 4)
        assert first["share"] > 0.9
        assert line["share_sequences"]["1"] == pytest.approx(first["share"])
        assert {token["sample"] for token in line["tokens"][: first["tokens"]]} == {GUILTY}
        assert line["tokens"][0]["log_ratio"] > 2
        # Built-in tokens are characters: the tokens' text is the response's.
        by_place = sorted(line["tokens"][: first["tokens"]], key=lambda t: t["position"])
        assert "".join(token["text"] for token in by_place) == first["text"]


def test_a_spike_step_is_recorded_though_no_schedule_asked_for_it(planted):
    folder, _ = planted
    extra = {line["step"] for line in read_spikes(folder)}
    assert recorded_steps(folder) == sorted({1, 19} | extra)
    assert AT in extra


def table_of(n=40):
    rng = np.random.default_rng(0)
    return {
        "sample": np.repeat(np.arange(8), n // 8),
        "prompt": np.repeat(np.arange(8), n // 8) // 2,
        "update": np.repeat(np.arange(2), n // 2),
        "position": np.tile(np.arange(n // 8), 8),
        "token": rng.integers(0, 9, n),
        "logp_rollout": -rng.exponential(1, n),
        "logp_train": -rng.exponential(1, n),
        "advantage": np.repeat(rng.normal(size=8), n // 8),
        "slope": rng.exponential(0.1, n),
        "weight": np.ones(n),
    }


RESPONSES = {sample: [sample, 1] for sample in range(8)}


def test_a_gradients_spike_names_the_largest_coefficient():
    tokens = table_of()
    tokens["slope"][7] = 2000.0
    line = explain(9, Found("train/grad_norm", 3.0, 8.0), tokens, RESPONSES, str)
    first = line["tokens"][0]
    assert (first["sample"], first["position"], first["contribution"]) == (1, 2, 2000.0)
    assert line["sequences"][0]["sample"] == 1
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_k3_max_looks_at_the_worst_update_alone():
    tokens = table_of()
    tokens["logp_train"][tokens["update"] == 1] += 2
    line = explain(9, Found("kl/k3_max", 3.0, 8.0), tokens, RESPONSES, str)
    assert {own["sample"] for own in line["tokens"]} <= {4, 5, 6, 7}
    whole = explain(9, Found("kl/k3", 3.0, 8.0), tokens, RESPONSES, str)
    assert whole["share_tokens"]["10"] < line["share_tokens"]["10"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_token_does_not_hide_who_made_the_spike(bad):
    """K3 leaves non-finite log ratios out, so its explanation does; a gradient with one has no shares."""
    tokens = table_of()
    tokens["logp_train"][3] = bad
    tokens["logp_train"][tokens["sample"] == 5] += 3
    for metric in ("kl/k3", "kl/k3_max"):
        line = explain(9, Found(metric, 3.0, 8.0), tokens, RESPONSES, str)
        assert (line["status"], line["sequences"][0]["sample"]) == ("ok", 5)
        assert all(share is not None for share in line["share_tokens"].values())
    tokens["slope"][3] = bad
    line = explain(9, Found("train/grad_norm", 3.0, 8.0), tokens, RESPONSES, str)
    assert line["status"] == "nonfinite"
    assert set(line["share_tokens"].values()) == {None}
    assert line["tokens"][0]["position"] == 3
    json.dumps(line, allow_nan=False)


def test_a_watch_goes_on_where_its_state_was_kept():
    rng = np.random.default_rng(3)
    values = [{"kl/k3": v, "kl/k3_max": 2 * v} for v in np.exp(rng.normal(0, 0.2, 40))]
    values[35] = {"kl/k3": 50.0, "kl/k3_max": 90.0}
    through, first = SpikeWatch(), SpikeWatch()
    expected = [through.judge(value) for value in values]
    found = [first.judge(value) for value in values[:20]]
    second = SpikeWatch(first.state)
    found += [second.judge(value) for value in values[20:]]
    assert found == expected
    assert [step for step, (_, stood) in enumerate(found) if stood] == [35]
    assert found[3] == ({}, [])
    assert "train/spike" not in found[35][0]


def test_a_resumed_run_has_every_spike_once(planted, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(planted[0], folder, ignore=shutil.ignore_patterns("records", "checkpoint"))
    before = read_spikes(folder)
    for last in (18, AT - 1):
        rewind_spikes(folder, last)
        assert read_spikes(folder) == [line for line in before if line["step"] <= last]
    rewind_spikes(folder, None)
    assert read_spikes(folder) == []


def test_the_table_and_the_tags_count_every_spike(planted):
    folder, _ = planted
    lines = read_spikes(folder)
    tags = spike_tags(lines)
    assert int(tags["alpkit.spikes"]) == len(lines)
    assert int(tags["alpkit.spikes.kl.k3"]) == sum(line["metric"] == "kl/k3" for line in lines)
    columns, rows = spike_table(lines)
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["step"] for row in table] == [line["step"] for line in lines]
    assert table[0]["largest sequence's sample"] == lines[0]["sequences"][0]["sample"]
    assert table[0]["share of top 1 sequences"] == lines[0]["share_sequences"]["1"]
    assert spike_table([]) == (columns, [])
    assert set(spike_tags([]).values()) == {"0"}
