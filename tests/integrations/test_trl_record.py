"""A stock TRL run, recorded: `analyze` and `replay` read it; skipped without trl.

vLLM is played by the model itself with rounded weights: TRL then makes its own truncated weights of the
two engines' log-probs, as it does with vLLM.
"""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("trl")

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from typer.testing import CliRunner

from alpkit.analysis import load
from alpkit.cli import app
from alpkit.config import ObjectiveConfig
from alpkit.errors import ConfigError, TrackingError
from alpkit.integrations.record import record
from alpkit.policy.loading import load_policy
from alpkit.replay import replay
from alpkit.runs import records

STEPS, PROMPTS, GROUP = 5, 4, 4


def reward(completions, **_):
    return [float(sum(map(ord, text)) % 5) for text in completions]


class RoundedModel:
    """Generates as TRL's vLLM client does, from the trainer's weights rounded to two digits."""

    def __init__(self, trainer):
        self._trainer = trainer
        self._model = load_policy("builtin:tiny-addition").model

    def sync_weights(self):
        with torch.no_grad():
            weights = self._trainer.model.parameters()
            for mine, theirs in zip(self._model.parameters(), weights, strict=True):
                mine.copy_(theirs.mul(25).round().div(25))

    @torch.no_grad()
    def generate(self, prompts, **_):
        completions, logprobs = [], []
        for prompt in prompts:
            ids, logps = list(prompt), []
            for _ in range(6):
                logp = self._model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                token = int(torch.multinomial(logp.exp(), 1))
                ids.append(token)
                logps.append([float(logp[token])])
                if token in self._trainer.eos_token_ids:
                    break
            completions.append(ids[len(prompt) :])
            logprobs.append(logps)
        return prompts, completions, logprobs, None


def trainer(folder, *, rounded=True, **settings):
    torch.manual_seed(0)
    policy = load_policy("builtin:tiny-addition")
    made = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=GRPOConfig(**{
            "output_dir": str(folder / "trl"), "per_device_train_batch_size": 8, "num_generations": GROUP,
            "gradient_accumulation_steps": 2, "max_steps": STEPS, "max_completion_length": 6,
            "learning_rate": 1e-3, "use_cpu": True, "report_to": [], "bf16": False,
            "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True,
            "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.1,
            **settings,
        }),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+{i + 3}=" for i in range(64)]}),
    )  # fmt: skip
    if rounded:
        made.use_vllm, made._last_loaded_step = True, -1
        made.vllm_generation = RoundedModel(made)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recorded run of five steps, and the weights that TRL itself multiplied its losses by."""
    root = tmp_path_factory.mktemp("recorded")
    made = trainer(root)
    record(made, root / "runs" / "my-trl" / "seed-0")
    weights, compute = [], made._compute_loss

    def listening(model, inputs):
        ratio = inputs["importance_sampling_ratio"]
        weights.extend(
            row[mask.bool()] for row, mask in zip(ratio, inputs["completion_mask"], strict=True)
        )
        return compute(model, inputs)

    made._compute_loss = listening
    made.train()
    return SimpleNamespace(root=root, folder=root / "runs" / "my-trl" / "seed-0", weights=weights)


def test_replay_gives_trls_own_truncated_weights(run):
    found = replay(str(run.folder), [], tokens=True)
    own = found.tokens.sort_values(["step", "sample", "position"])
    trls = torch.cat(run.weights).numpy()
    np.testing.assert_allclose(own["weight"], trls, rtol=0, atol=1e-6)
    assert (trls == np.float32(1.1)).sum() > 5
    assert np.ptp(trls) > 0.05
    # The loss as TRL logged it, not only its weights.
    assert found.equals_logged
    assert {"train/loss"} <= set(found.logged["metric"])


def test_analyze_reports_tails_of_a_stock_trl_run(run, monkeypatch):
    monkeypatch.chdir(run.root)
    done = CliRunner().invoke(app, ["analyze", "runs/my-trl"])
    assert done.exit_code == 0, done.output
    frame = load("runs/my-trl")
    assert frame.cells["state"].tolist() == ["finished"]
    assert frame.steps["step"].tolist() == [1, 2, 3, 4, 5]
    assert frame.steps["ratio/raw/token/p99"].notna().all()
    reports = list((run.root / "reports").glob("my-trl*"))
    assert reports
    assert any("tails" in path.name for path in reports[0].rglob("*.csv"))


def test_records_hold_what_trl_computed(run):
    tokens = records.read(run.folder)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(tokens["step"].unique()) == [1, 2, 3, 4, 5]
    assert (tokens.groupby("step")["sample"].nunique() == PROMPTS * GROUP).all()
    assert (
        tokens[["logp_rollout", "logp_old", "logp_train", "entropy", "reward"]]
        .notna()
        .all(axis=None)
    )
    assert (tokens["logp_old"] != tokens["logp_rollout"]).mean() > 0.5
    groups = tokens.drop_duplicates(["step", "sample"]).groupby(["step", "prompt"])
    assert (groups.size() == GROUP).all()
    # TRL's advantages are centred within a group: rewards and prompts belong to the right rows.
    assert groups["advantage"].sum().abs().max() < 1e-4
    assert groups.apply(lambda g: g["reward"].corr(g["advantage"])).dropna().min() > 0.999
    assert lines[0]["reward/mean"] == pytest.approx(
        tokens[tokens["step"] == 1].drop_duplicates("sample")["reward"].mean()
    )


def test_where_trl_generates_by_itself_mu_is_pi_old_and_the_grid_says_so(tmp_path):
    made = trainer(tmp_path, rounded=False, max_steps=2)
    record(made, tmp_path / "runs" / "own" / "seed-0", every=2)
    made.train()
    tokens = records.read(tmp_path / "runs" / "own" / "seed-0")
    assert tokens["step"].unique().tolist() == [2]
    assert (tokens["logp_old"] == tokens["logp_rollout"]).all()
    manifest = json.loads((tmp_path / "runs" / "own" / "grid.json").read_text())
    assert any("mu is taken to be pi_old" in note for note in manifest["notes"])


def test_several_updates_of_one_generation_are_one_step(tmp_path):
    made = trainer(tmp_path, steps_per_generation=4, max_steps=4)
    record(made, tmp_path / "runs" / "two" / "seed-0")
    made.train()
    tokens = records.read(tmp_path / "runs" / "two" / "seed-0")
    assert tokens["step"].unique().tolist() == [1, 2]
    assert tokens.groupby("step")["update"].unique().map(sorted).tolist() == [[0, 1]] * 2
    found = replay(str(tmp_path / "runs" / "two" / "seed-0"), ["token-tis"])
    assert set(found.methods["method"]) == {"own", "token-tis"}


def test_a_resumed_run_takes_its_steps_back_and_writes_them_again(tmp_path):
    folder = tmp_path / "runs" / "resumed" / "seed-0"
    written = []
    for checkpoint in (None, str(tmp_path / "trl" / "checkpoint-3")):
        made = trainer(tmp_path, save_strategy="steps", save_steps=3)
        record(made, folder)
        made.train(resume_from_checkpoint=checkpoint)
        written.append(((folder / "metrics.jsonl").read_text(), records.read(folder)))
        torch.manual_seed(9)
    (lines, tokens), (lines_again, tokens_again) = written
    assert lines == lines_again
    assert len(lines.splitlines()) == STEPS
    assert tokens.equals(tokens_again)


def test_a_second_run_does_not_write_into_the_first(run, tmp_path):
    made = trainer(tmp_path)
    record(made, run.folder)
    with pytest.raises(TrackingError, match="holds another run"):
        made.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_iterations": 2}, "num_iterations: 2 cannot be recorded"),
        ({"loss_type": "sapo"}, "loss_type: sapo"),
        ({"top_entropy_quantile": 0.5}, "top_entropy_quantile"),
    ],
)
def test_what_has_no_word_of_ours_is_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        record(trainer(tmp_path, **settings), tmp_path / "runs" / "a" / "b")
    assert not (tmp_path / "runs").exists()


def test_an_objective_of_ones_own_is_taken_where_ours_has_no_word(tmp_path):
    made = trainer(tmp_path, loss_type="sapo")
    recorder = record(made, tmp_path / "runs" / "a" / "b", objective=ObjectiveConfig())
    assert recorder.config["objective"] == ObjectiveConfig().model_dump(mode="json")
