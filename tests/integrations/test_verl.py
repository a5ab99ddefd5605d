"""The verl plug-in by value, without verl: its functions take what verl would hand them."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.errors import ConfigError
from alpkit.integrations.verl import correct_batch, policy_loss_fn
from alpkit.objective import policy_loss

GENERATOR = torch.Generator().manual_seed(0)
OLD, MU = (-torch.rand(4, 6, generator=GENERATOR) for _ in range(2))
LOGP = OLD + 0.1 * torch.randn(4, 6, generator=GENERATOR)
MASK = (torch.arange(6) < torch.tensor([[6], [4], [2], [5]])).long()
ADVANTAGE = torch.randn(4, generator=GENERATOR)[:, None].expand(4, 6)


def preset(name, **changes):
    return ObjectiveConfig.model_validate({**PRESETS[name].settings["objective"], **changes})


@pytest.mark.parametrize(
    ("name", "bypass"), [("grpo", False), ("seq-bypass", True), ("cispo", False)]
)
def test_the_loss_is_the_objectives(name, bypass):
    objective = preset(name)
    loss, metrics = policy_loss_fn(objective)(OLD, LOGP, ADVANTAGE, MASK, "token-mean", None)
    mine = policy_loss(
        logp=LOGP, logp_old=OLD, logp_rollout=OLD, mask=MASK, advantage=ADVANTAGE, config=objective
    )
    assert_close(loss, mine.loss)
    assert 0 <= metrics["actor/alpkit/surviving"] <= 1
    if bypass:
        with pytest.raises(ConfigError, match="count the mismatch twice"):
            policy_loss_fn(objective)(
                OLD, LOGP, ADVANTAGE, MASK, "token-mean", None, torch.ones(4, 6)
            )


def test_micro_batches_and_ranks_share_verls_denominator():
    config = SimpleNamespace(global_batch_info={"dp_size": 2, "batch_num_tokens": 40})
    function = policy_loss_fn(preset("grpo"))
    whole, _ = function(OLD, LOGP, ADVANTAGE, MASK, "token-mean", None)
    shared, _ = function(OLD, LOGP, ADVANTAGE, MASK, "token-mean", config)
    assert_close(shared, whole * MASK.sum() / 20)


def test_tis_through_verls_hook_is_tis():
    objective = preset("token-tis")
    batch = {"old_log_probs": OLD, "rollout_log_probs": MU, "response_mask": MASK}
    correct_batch(batch, objective)
    loss, _ = policy_loss_fn(preset("grpo"))(
        OLD,
        LOGP,
        ADVANTAGE,
        batch["response_mask"],
        "token-mean",
        None,
        batch["rollout_is_weights"],
    )
    mine = policy_loss(
        logp=LOGP, logp_old=OLD, logp_rollout=MU, mask=MASK, advantage=ADVANTAGE, config=objective
    )
    assert_close(loss, mine.loss)


def test_rejections_edit_the_mask():
    objective = ObjectiveConfig(
        reject=[{"statistic": "ratio", "lower": 0.8, "upper": 1.25, "normalizer": "shrink"}]
    )
    batch = {"old_log_probs": OLD, "rollout_log_probs": MU, "response_mask": MASK}
    receipt = correct_batch(batch, objective)
    ratio = (OLD - MU).exp()
    assert torch.equal(batch["response_mask"], MASK * ((ratio >= 0.8) & (ratio <= 1.25)).long())
    assert receipt["rollout_corr/alpkit_rejected"] == (MASK - batch["response_mask"]).sum()
    assert "rollout_is_weights" not in batch


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (preset("token-tis"), "call correct_batch"),
        (preset("opsm"), "only in bypass mode"),
        (preset("seq-bypass", reference_kl={"coef": 0.1}), "verl adds its own KL"),
        (preset("seq-bypass", entropy_bonus=0.1), "actor.entropy_coeff"),
    ],
)
def test_what_verl_cannot_feed_is_refused(objective, message):
    with pytest.raises(ConfigError, match=message):
        policy_loss_fn(objective)


def test_importing_the_plug_ins_imports_neither_peer():
    code = (
        "import sys, alpkit.integrations.verl; peers = {'verl', 'ray', 'trl'}; "
        "found = {'transformers', *peers} & set(sys.modules); "
        "import alpkit.integrations.trl, alpkit.integrations.verl_noise; "
        "sys.exit(str(found | peers & set(sys.modules) or '') or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
