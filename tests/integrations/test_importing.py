"""`alpkit import`: other trainers' dumps become runs that our commands read; a bad dump leaves nothing."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from alpkit.analysis import load
from alpkit.cli import app
from alpkit.errors import ConfigError, TrackingError
from alpkit.integrations.importing import Known, import_run
from alpkit.replay import replay
from alpkit.runs import records
from alpkit.runs.imported import ABSENCES, read_imported
from tests.support import dumps


def flat(steps, name):
    """A column of all responses' tokens, steps and responses in order."""
    return np.concatenate([row[name] for step in steps for row in dumps.responses(step)])


@pytest.fixture(scope="module")
def primes(tmp_path_factory):
    root = tmp_path_factory.mktemp("prime")
    source = dumps.prime_rl(root / "out", steps=range(1, 4))
    return root, import_run(source, root / "runs" / "theirs" / "seed-0")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    root = tmp_path_factory.mktemp("mapped")
    path = dumps.jsonl(root / "dump.jsonl", dumps.rows())
    known = Known(columns=dumps.MAP, objective="token-tis", arm="tis", model="theirs/1b")
    return root, import_run(path, root / "runs" / "mine" / "seed-0", known)


def test_prime_rl_numbers_arrive_unchanged(primes):
    _, done = primes
    tokens = records.read(done.folder).sort_values(["step", "sample", "position"])
    assert done.imported.trainer == "prime-rl"
    assert (done.steps, done.responses) == ([1, 2, 3], 3 * 16)
    assert done.tokens == len(tokens) == len(flat((1, 2, 3), "ids"))
    # Two ranks: the even responses are rank 0's, then come the odd ones.
    for step in (1, 2, 3):
        rows = dumps.responses(step)
        order = rows[0::2] + rows[1::2]
        of_step = tokens[tokens["step"] == step]
        for ours, theirs in (("logp_rollout", "mu"), ("logp_train", "pi"), ("token", "ids")):
            expected = np.concatenate([row[theirs] for row in order])
            np.testing.assert_allclose(of_step[ours], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            of_step.drop_duplicates("sample")["reward"], [row["reward"] for row in order]
        )
        assert of_step.groupby("prompt")["sample"].nunique().tolist() == [dumps.GROUP] * 4
    assert tokens["logp_old"].isna().all()
    removed = (tokens["logp_train"] - tokens["logp_rollout"]).abs() > 0.4
    assert (tokens["keep"].astype(bool) == ~removed).all()
    sequences = records.read_sequences(done.folder, steps=[1])
    assert sequences["prompt_ids"].map(len).unique().tolist() == [3]


def test_what_prime_rl_does_not_say_is_said_and_left_out(primes):
    _, done = primes
    assert done.imported.absent == ("logp_old", "objective", "max_tokens")
    assert read_imported(done.folder) == done.imported
    logged = json.loads((done.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["kl/k3"] > 0
    assert logged["kl/k3_removed"] > logged["kl/k3"] > logged["kl/k3_kept"] > 0
    assert logged["kl/k3_over_entropy"] == pytest.approx(logged["kl/k3"] / logged["train/entropy"])
    assert "ratio/raw/token/khat_right" in logged
    left_out = ("ratio/mismatch", "ratio/staleness", "mismatch/", "ratio/loss", "train/loss")
    assert not [key for key in logged if key.startswith(left_out)]


def test_tool_tokens_inside_a_response_are_no_tokens_of_the_model(tmp_path):
    # prime-rl counts from 0.
    source = dumps.prime_rl(tmp_path / "out", steps=[0, 1], tool=2)
    done = import_run(source, tmp_path / "runs" / "a" / "b")
    tokens = records.read(done.folder)
    assert done.steps == [0, 1]
    assert len(tokens) == len(flat([0, 1], "ids"))
    assert set(tokens["turn"]) == {0, 1}
    assert (tokens.groupby(["step", "sample"])["turn"].sum() > 0).all()
    assert load(str(done.folder)).steps["step"].tolist() == [0, 1]
    sequences = records.read_sequences(done.folder)
    assert [int(np.sum(mask)) for mask in sequences["response_mask"]] == [
        len(ids) - 2 for ids in sequences["response_ids"]
    ]
    # A replay puts every number back at its token.
    found = replay(str(done.folder), ["token-bypass"], tokens=True).tokens
    expected = np.exp(tokens["logp_train"] - tokens["logp_rollout"])
    np.testing.assert_allclose(found["ratio"], expected, rtol=1e-5)


def test_analyze_reports_tails_and_says_what_the_dump_lacks(primes, monkeypatch):
    root, _ = primes
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["analyze", "runs/theirs"])
    assert done.exit_code == 0, done.output
    frame = load("runs/theirs")
    assert frame.cells["state"].tolist() == ["finished"]
    assert len(frame.table("tails")) > 0
    (page,) = (root / "reports").glob("theirs*/report.html")
    assert "its dump lacks log pi_old" in page.read_text()


def test_replay_gives_weights_masks_ess_and_overlap(primes):
    _, done = primes
    found = replay(str(done.folder), ["token-bypass", "seq-bypass"], tokens=True)
    assert set(found.methods["method"]) == {"token-bypass", "seq-bypass"}
    tokens = records.read(done.folder).sort_values(["step", "sample", "position"])
    ratio = np.exp(tokens["logp_train"].astype(float) - tokens["logp_rollout"].astype(float))
    own = found.tokens[found.tokens["method"] == "token-bypass"]
    np.testing.assert_allclose(own["ratio"], ratio, rtol=1e-5)
    ess = found.methods.query("method == 'token-bypass' and step == 1")["ratio_ess"].item()
    first = ratio[tokens["step"].to_numpy() == 1]
    assert ess == pytest.approx(first.sum() ** 2 / (first**2).sum() / len(first), rel=1e-5)
    assert found.equals_logged is None
    with pytest.raises(ConfigError, match="token-tis cannot be replayed") as refused:
        replay(str(done.folder), ["token-tis"])
    assert "pi_old: the dump lacks it" in refused.value.why


def test_a_known_objective_is_the_runs_own_method(mapped):
    _, done = mapped
    found = replay(str(done.folder), ["token-bypass"])
    assert any("own is not replayed" in note and "pi_old" in note for note in found.notes)
    assert found.methods["own"].tolist() == [False] * 3


def test_compare_reads_two_imported_runs(mapped, tmp_path, monkeypatch):
    root, _ = mapped
    path = dumps.jsonl(tmp_path / "dump.jsonl", dumps.rows())
    known = Known(columns=dumps.MAP, arm="other", seed=0, model="theirs/1b")
    import_run(path, root / "runs" / "others" / "seed-0", known)
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["compare", "mine:tis", "others:other"])
    assert done.exit_code == 0, done.output
    assert "others:other" in done.output


def padded(line, width=10):
    """A row as a padded batch has it: lists of one length, a mask, the reward at the last real token."""
    real = len(line["ids"])
    fill = {"ids": 0, "sampler_lp": -9.0, "trainer_lp": -9.0}
    lists = {name: [*line[name], *[value] * (width - real)] for name, value in fill.items()}
    score = [0.0] * width
    score[real - 1] = line["score"]
    return {**line, **lists, "score": score, "mask": [1] * real + [0] * (width - real)}


@pytest.mark.parametrize("kind", ["parquet", "tokens", "folder", "padded"])
def test_every_layout_of_named_columns_makes_the_same_records(mapped, tmp_path, kind):
    _, expected = mapped
    lines = dumps.rows()
    source = tmp_path / "dump.parquet"
    mapping = dumps.MAP
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(lines), source, row_group_size=7)
    elif kind == "padded":
        mapping = {**mapping, "response_mask": "mask"}
        pq.write_table(pa.Table.from_pylist([padded(line) for line in lines]), source)
    elif kind == "folder":
        source = tmp_path / "parts"
        source.mkdir()
        dumps.jsonl(source / "0.a.jsonl", lines[:20])
        pq.write_table(pa.Table.from_pylist(lines[20:]), source / "1.b.parquet")
    else:
        mapping = {**mapping, "sample": "row"}
        lists = ("ids", "sampler_lp", "trainer_lp")
        by_token = [
            {**line, "row": number, **{name: line[name][i] for name in lists}}
            for number, line in enumerate(lines)
            for i in range(len(line["ids"]))
        ]
        source = dumps.jsonl(tmp_path / "dump.jsonl", by_token)
    known = Known(columns=mapping, trainer="columns")
    done = import_run(source, tmp_path / "runs" / "a" / "b", known)
    pd.testing.assert_frame_equal(records.read(done.folder), records.read(expected.folder))
    assert done.imported.absent[:3] == ("logp_old", "entropy", "prompt_ids")


def test_verls_dumps_have_rewards_and_no_tokens(tmp_path, monkeypatch):
    source = dumps.verl(tmp_path / "rollouts")
    done = import_run(source, tmp_path / "runs" / "verl" / "seed-0")
    assert done.imported.trainer == "verl"
    assert done.imported.absent[0] == "tokens"
    frame = load(str(tmp_path / "runs" / "verl"), strict=False)
    expected = [np.mean([row["reward"] for row in dumps.responses(s)]) for s in (1, 2, 3)]
    assert frame.steps["reward/mean"].tolist() == pytest.approx(expected)
    assert not [key for key in frame.steps if key.startswith(("ratio/", "kl/", "response/"))]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["analyze", "runs/verl"]).exit_code == 0
    with pytest.raises(TrackingError, match="no token records"):
        replay(str(done.folder), ["token-bypass"])


def test_token_lists_that_ones_own_code_adds_to_verls_lines_are_read(tmp_path):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    lines = [
        {"input": "q", "output": "a", "score": row["reward"], "step": 1, "ids": row["ids"], "lp": row["mu"]}
        for row in dumps.responses(1)
    ]  # fmt: skip
    dumps.jsonl(folder / "1.jsonl", lines)
    known = Known(columns={"response_ids": "ids", "logp_rollout": "lp"})
    done = import_run(folder, tmp_path / "runs" / "a" / "b", known)
    assert done.tokens == len(flat([1], "ids"))
    assert "logp_train" in done.imported.absent
    assert not [key for key in load(str(done.folder)).steps if key.startswith("kl/")]


def test_without_advantages_replay_gives_weights_and_nothing_signed(tmp_path):
    lines = [{k: v for k, v in line.items() if k != "adv"} for line in dumps.rows()]
    source = dumps.jsonl(tmp_path / "dump.jsonl", lines)
    mapping = {k: v for k, v in dumps.MAP.items() if k != "advantage"}
    done = import_run(source, tmp_path / "runs" / "a" / "b", Known(columns=mapping))
    found = replay(str(done.folder), ["token-bypass"])
    assert found.methods["loss"].isna().all()
    assert found.methods["mute"].isna().all()
    assert found.methods["ratio_ess"].notna().all()
    signed = [name for name in found.methods if "negative" in name or name.endswith("surviving")]
    assert signed == []
    assert set(found.overlap["of"]) == {"removed"}
    # A response can be asked for its sign by nobody.
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "preset: token-bypass\nobjective: {reject: [{statistic: ratio, of: bypass, level: token, upper: 2.0, "
        "when: negative_advantage}]}\n"
    )
    with pytest.raises(ConfigError, match="cannot be replayed") as refused:
        replay(str(done.folder), [str(mine)])
    assert "sign of their advantage" in refused.value.why


def test_gradients_of_a_given_policy_on_recorded_tokens(tmp_path):
    """The run's own policy, handed over as a model folder, gives the gradients that its records give."""
    from alpkit.policy.loading import load_policy
    from tests.support.replay_runs import trained

    own = trained(tmp_path / "runs" / "tiny" / "cell", "token-bypass")
    tokens, sequences = records.read(own, steps=[1]), records.read_sequences(own, steps=[1])
    lines = []
    for sample, part in tokens.sort_values(["sample", "position"]).groupby("sample"):
        sequence = sequences.loc[sequences["sample"] == sample].iloc[0]
        lines.append(
            {
                "step": 1, "update": int(part["update"].iloc[0]),
                "prompt_ids": sequence["prompt_ids"].tolist(), "response_ids": sequence["response_ids"].tolist(),
                "logp_rollout": part["logp_rollout"].tolist(), "logp_train": part["logp_train"].tolist(),
                "advantage": float(sequence["advantage"]), "reward": float(sequence["reward"]),
            }
        )  # fmt: skip
    source = dumps.jsonl(tmp_path / "dump.jsonl", lines)
    known = Known(objective="token-bypass", max_tokens=8)
    done = import_run(source, tmp_path / "runs" / "theirs" / "cell", known)
    policy = load_policy("builtin:tiny-addition")
    policy.model.save_pretrained(tmp_path / "before")
    policy.tokenizer.save_pretrained(tmp_path / "before")
    ours = replay(str(own), ["token-bypass"], steps=[1]).gradients.iloc[0]
    theirs = replay(str(done.folder), ["token-bypass"], steps=[1], policy=tmp_path / "before")
    assert not [note for note in theirs.notes if "nats away" in note]
    for column in ("loss", "norm", "on_policy_norm", "variance", "micro_batches"):
        assert theirs.gradients.iloc[0][column] == pytest.approx(ours[column], rel=1e-4), column
    with pytest.raises(ConfigError, match="--policy is the weights from before one step"):
        replay(str(own), ["token-bypass"], policy=tmp_path / "before")


# A broken, a cut and a foreign file of each format: one error with its place, and nothing created.


def _prime(tmp_path, change):
    source = dumps.prime_rl(tmp_path / "out", steps=[1, 2])
    path = source / "step_2" / "rank_1.jsonl"
    change(path)
    return source, path


def _edit(path, line, **changes):
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **changes})
    path.write_text("\n".join(lines) + "\n")


def _cut(path):
    path.write_text(path.read_text()[:-40])


PRIME = {
    "loss_mask has 3 values": (lambda p: _edit(p, 2, loss_mask=[True] * 3), ":2"),
    "not a whole line of JSON": (_cut, ":8"),
    "no line of prime-rl's token export": (lambda p: dumps.jsonl(p, [{"a": 1}]), ":1"),
    "schema_version 2": (lambda p: _edit(p, 1, schema_version=2), ":1"),
    "the line is of step 7": (lambda p: _edit(p, 3, export_step=7), ":3"),
    "logp_rollout is 0.9": (lambda p: _edit(p, 1, inference_logprobs=[0.9] * 20), ":1"),
    "inference_logprobs has 2 values": (lambda p: _edit(p, 1, inference_logprobs=[-1, -2]), ":1"),
}


@pytest.mark.parametrize("what", PRIME)
def test_a_bad_token_export_is_one_located_error(tmp_path, what):
    change, line = PRIME[what]
    source, path = _prime(tmp_path, change)
    with pytest.raises(TrackingError, match=what) as refused:
        import_run(source, tmp_path / "runs" / "a" / "b")
    assert refused.value.where == f"{path}{line}"
    assert refused.value.fix
    assert not (tmp_path / "runs").exists()


def test_a_step_that_is_still_being_written_is_refused(tmp_path):
    source = dumps.prime_rl(tmp_path / "out", steps=[1, 2])
    (source / "step_2" / "STABLE").unlink()
    with pytest.raises(TrackingError, match="had not finished") as refused:
        import_run(source, tmp_path / "runs" / "a" / "b")
    assert refused.value.where.endswith("step_2")


VERL = {
    "reward is 'high', not a number": (lambda p: _edit(p, 4, score="high"), ":4"),
    "not a whole line of JSON": (_cut, ":16"),
    "has no 'score', which is to be reward": (lambda p: dumps.jsonl(p, [{"text": "x"}]), ":1"),
}


@pytest.mark.parametrize("what", VERL)
def test_a_bad_rollout_dump_is_one_located_error(tmp_path, what):
    change, line = VERL[what]
    source = dumps.verl(tmp_path / "rollouts")
    change(source / "3.jsonl")
    with pytest.raises(TrackingError, match=what) as refused:
        import_run(source, tmp_path / "runs" / "a" / "b")
    assert refused.value.where == f"{source / '3.jsonl'}{line}"
    assert not (tmp_path / "runs").exists()


COLUMNS = {
    "has 1 values": {"sampler_lp": [-1.0]},
    "'four', not a number": {"trainer_lp": ["four"]},
    "a log-prob is at most 0": {"sampler_lp": [0.5, 0.25, 0.25]},
    "step is 1.5, not an integer": {"it": 1.5},
    "response_ids is 'abc', not a list": {"ids": "abc"},
    "an integer of at most 2147483647": {"ids": [1, 2, 2**31]},
}


@pytest.mark.parametrize("what", COLUMNS)
def test_a_bad_row_is_one_located_error(tmp_path, what):
    lines = dumps.rows()
    lines[4] |= {"ids": [1, 2, 3], "sampler_lp": [-1, -1, -1], "trainer_lp": [-1, -1, -1]}
    lines[4] |= COLUMNS[what]
    source = dumps.jsonl(tmp_path / "dump.jsonl", lines)
    with pytest.raises(TrackingError, match=what.replace(".", r"\.")) as refused:
        import_run(source, tmp_path / "runs" / "a" / "b", Known(columns=dumps.MAP))
    assert refused.value.where == f"{source}:5"
    assert not (tmp_path / "runs").exists()


def test_a_cut_parquet_file_and_a_file_of_another_kind_are_named(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist(dumps.rows()), whole)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for source, what in ((cut, "not readable as Parquet"), (text, "nothing here can be imported")):
        with pytest.raises(TrackingError, match=what) as refused:
            import_run(source, tmp_path / "runs" / "a" / "b", Known(columns=dumps.MAP))
        assert refused.value.where == str(source)
    with pytest.raises(TrackingError, match="has no 'id', which is to be response_ids") as refused:
        import_run(whole, tmp_path / "runs" / "a" / "b", Known(columns={"response_ids": "id"}))
    assert "did you mean 'ids'?" in refused.value.fix
    assert not (tmp_path / "runs").exists()


def test_an_import_does_not_write_over_anything(mapped, tmp_path):
    _, done = mapped
    source = dumps.jsonl(tmp_path / "dump.jsonl", dumps.rows())
    with pytest.raises(TrackingError, match="holds another run"):
        import_run(source, done.folder, Known(columns=dumps.MAP))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(TrackingError, match="is not empty"):
        import_run(source, tmp_path / "notes", Known(columns=dumps.MAP))


def test_the_command_says_what_was_read_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = dumps.jsonl(tmp_path / "dump.jsonl", dumps.rows())
    pairs = [word for ours, theirs in dumps.MAP.items() for word in ("--map", f"{ours}={theirs}")]
    done = CliRunner().invoke(app, ["import", str(source), "runs/mine/seed-0", *pairs])
    assert done.exit_code == 0, done.output
    assert f"3 steps (1-3), 48 responses, {len(flat((1, 2, 3), 'ids'))} tokens" in done.output
    assert f"the dump lacks {ABSENCES['logp_old']}" in done.output
    for words, what in (
        (["--map", "nonsense"], "is no pair"),
        (["--map", "setp=it"], "is no column"),
        (["--objective", "seq-alp", *pairs], "trains with noise"),
        (["--objective", "grpoo", *pairs], "grpoo"),
    ):
        bad = CliRunner().invoke(app, ["import", str(source), "runs/mine/seed-1", *words])
        assert bad.exit_code == 2
        assert what in bad.output
    assert not (tmp_path / "runs" / "mine" / "seed-1").exists()
