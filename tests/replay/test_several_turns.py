"""Replay of conversations: at its own settings what was logged, with turn levels, credits and void responses."""

import numpy as np
import pytest

from alpkit.errors import ConfigError
from alpkit.replay import replay
from alpkit.runs import records
from tests.support.replay_runs import metrics_of, trained
from tests.support.talk import AskAgain, offer

TALK = {
    "environment": {"name": "ask_again", "turns": 3, "turn_tokens": 6},
    "rollout": {"prompts": 4, "max_tokens": 40},
    "train": {"steps": 1, "updates_per_rollout": 2},
    "hardware": {"micro_batch_tokens": 120},
    "records": {"replay": False},
}
ARMS = {
    "token-tis": {"objective": {"weight": {"level": "turn", "upper": 1.2}}},
    "gspo": {"environment": {"credit": "turn"}},
    "seq-bypass": {"objective": {"ratio": {"level": "cumulative_turn"}}},
}


@pytest.fixture(scope="module", autouse=True)
def _ask_again():
    patch = pytest.MonkeyPatch()
    offer(patch)
    yield
    patch.undo()


@pytest.mark.parametrize("arm", ARMS)
def test_at_its_own_settings_a_replay_is_what_was_logged(tmp_path, arm, monkeypatch):
    reply = AskAgain.reply

    def sometimes_void(self, state, text):
        answer = reply(self, state, text)
        state.void = text.strip().endswith(("7", "8"))
        return None if state.void else answer

    monkeypatch.setattr(AskAgain, "reply", sometimes_void)
    changes = {key: {**TALK.get(key, {}), **value} for key, value in ARMS[arm].items()}
    folder = trained(tmp_path / arm, arm, **{**TALK, **changes})
    assert metrics_of(folder)[1]["turns/void"] > 0
    assert records.read(folder)["turn"].max() == 2
    found = replay(str(folder), [], gradients=False, tokens=True)
    assert found.equals_logged is True
    order = ["step", "sample", "position"]
    told, seen = found.tokens.sort_values(order), records.read(folder).sort_values(order)
    np.testing.assert_allclose(told["weight"], np.where(seen["keep"], seen["weight"], 0), rtol=1e-6)
    if arm != "gspo":
        return
    # Rewards of single turns are in no record: another advantage cannot be formed, and says so.
    method = tmp_path / "rloo.yaml"
    method.write_text("preset: gspo\nobjective: {advantage: {kind: rloo}}\n")
    with pytest.raises(ConfigError) as caught:
        replay(str(folder), [str(method)], gradients=False)
    assert "rewards of single turns" in caught.value.why
