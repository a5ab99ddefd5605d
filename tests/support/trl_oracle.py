"""Run TRL's own functions on random batches and write inputs and outputs as JSON.

Runs in a process of its own with `.oracle` on its path. TRL's losses and importance weights are methods of
a trainer that is never built: a stand-in holds what they read. The weights' code sits inside a long method,
so that statement alone is compiled. `python tests/support/trl_oracle.py SEED BATCHES OUT`; no alpkit.
"""

import ast
import importlib.metadata
import inspect
import json
import math
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from oracle_batches import TOK, batch, plain
from trl import GRPOTrainer
from trl.trainer import utils

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
BANDS = {"upper": (None, 3.0), "both": (0.5, 2.0)}
LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "grpo, sequence": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "delta": {"loss_type": "bnpo", "delta": 1.5},
    "opsm": {"loss_type": "bnpo", "off_policy_mask_threshold": 0.05},
    "kl": {"loss_type": "bnpo", "beta": 0.1, "use_bias_correction_kl": False},
    "kl, corrected": {"loss_type": "bnpo", "beta": 0.1, "use_bias_correction_kl": True},
    **{f"weight, {mode}": {"loss_type": "bnpo", "mode": mode, "band": "upper"} for mode in MODES},
}


def inline_weights() -> object:
    """The statement of `_generate_and_score_completions` that makes importance weights, compiled."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    (found,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If)
        and any("per_token_logps_diff =" in ast.unparse(line) for line in node.body)
        and "vllm_importance_sampling_correction" in ast.unparse(node.test)
    )
    return compile(ast.Module([found], []), "trl", "exec")


WEIGHTS = inline_weights()


def stand_in(data: dict[str, torch.Tensor], **settings: object) -> SimpleNamespace:
    """What TRL's methods read of a trainer."""
    settings = {"loss_type": "bnpo", "mode": "token_truncate", "band": "upper"} | settings
    low, high = BANDS[settings["band"]]
    return SimpleNamespace(
        args=SimpleNamespace(
            delta=settings.get("delta"),
            use_bias_correction_kl=settings.get("use_bias_correction_kl", False),
            steps_per_generation=1,
        ),
        loss_type=settings["loss_type"],
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        epsilon_low=0.2,
        epsilon_high=settings.get("epsilon_high", 0.28),
        beta=settings.get("beta", 0.0),
        off_policy_mask_threshold=settings.get("off_policy_mask_threshold"),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        use_vllm="mode" in settings,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=settings["mode"],
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=TOK,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            data["leaf"], torch.zeros_like(data["logp"]), None
        ),
    )  # fmt: skip


def weights(data: dict[str, torch.Tensor], mode: str, band: str) -> torch.Tensor:
    scope = {
        "torch": torch,
        "math": math,
        "self": stand_in(data, mode=mode, band=band),
        "completion_mask": data["mask"].float(),
        "tool_mask": None,
        "old_per_token_logps": data["old"],
        "sampling_per_token_logps": data["rollout"],
    }
    exec(WEIGHTS, scope)
    return scope["vllm_importance_sampling_ratio"]


def loss(data: dict[str, torch.Tensor], settings: dict[str, object]) -> list[object]:
    mask = data["mask"]
    trainer = stand_in(data, **settings)
    trainer.use_vllm = "mode" in settings
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": torch.ones_like(mask).long(),
        "tool_mask": mask.long(),
        "advantages": data["advantage"],
        "old_per_token_logps": data["old"],
        "sampling_per_token_logps": data["rollout"],
        "ref_per_token_logps": data["rollout"],
        "num_items_in_batch": mask.sum(),
    }
    if trainer.use_vllm:
        inputs["importance_sampling_ratio"] = weights(data, settings["mode"], settings["band"])
    data["leaf"] = data["logp"].clone().requires_grad_(True)
    value = GRPOTrainer._compute_loss(trainer, None, inputs)
    value.backward()
    return [value.item(), data["leaf"].grad * mask]


def outputs(data: dict[str, torch.Tensor]) -> dict[str, object]:
    logits, index = data["logits"], data["index"]
    found: dict[str, object] = {
        "selective_log_softmax": utils.selective_log_softmax(logits, index),
        "selective_log_softmax, 0.7": utils.selective_log_softmax(logits, index, 0.7),
        "entropy": utils.entropy_from_logits(logits),
    }
    for threshold in (0.02, 0.5):
        kept = GRPOTrainer.get_off_policy_mask(
            advantages=data["advantage"][:, None],
            per_token_logps=data["logp"],
            sampling_per_token_logps=data["rollout"],
            mask=data["mask"].long(),
            off_policy_threshold=threshold,
        )
        found[f"off_policy_mask/{threshold}"] = kept[:, 0]
    for mode in MODES:
        for band in BANDS:
            found[f"weight/{mode}/{band}"] = weights(data, mode, band)
    for name, settings in LOSSES.items():
        found[f"loss/{name}"] = loss(data, settings)
    return found


def main(seed: int, batches: int, out: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for _ in range(batches):
        data = batch(generator)
        logits = 3 * torch.randn(2, 4, 11, generator=generator)
        index = torch.randint(11, (2, 4), generator=generator)
        inputs = {**data, "logits": logits, "index": index}
        # In float64, so that what nearly cancels can be compared to 1e-5 of itself.
        exact = {k: x.double() if x.is_floating_point() else x for k, x in inputs.items()}
        cases.append({"inputs": plain(inputs), "outputs": plain(outputs(exact))})
    versions = {name: importlib.metadata.version(name) for name in ("trl", "torch", "transformers")}
    text = json.dumps({"versions": versions, "seed": seed, "cases": cases}, separators=(",", ":"))
    Path(out).write_text(text)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
