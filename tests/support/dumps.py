"""Dumps of other trainers, made as their exporters document them, with known numbers."""

import json

import numpy as np

PROMPTS, GROUP, STEPS = 4, 4, 3


def responses(step, *, prompts=PROMPTS, group=GROUP):
    """A step's responses in plain words: ids, log-probs, advantage, reward; a group shares its prompt."""
    rng = np.random.default_rng([7, step])
    rows = []
    for prompt in range(prompts):
        rewards = rng.integers(0, 2, group).astype(float)
        for sample in range(group):
            length = int(rng.integers(3, 9))
            mu = -rng.exponential(1.0, length)
            rows.append(
                {
                    "prompt_ids": [100 + prompt, 200 + step, 3],
                    "ids": rng.integers(0, 50, length).tolist(),
                    "mu": mu.round(6).tolist(),
                    "pi": (mu + rng.normal(0, 0.3, length)).clip(max=0).round(6).tolist(),
                    "entropy": rng.exponential(0.5, length).round(6).tolist(),
                    "advantage": float(rewards[sample] - rewards.mean()),
                    "reward": float(rewards[sample]),
                    "group": prompt,
                    "sample": prompt * group + sample,
                }
            )
    return rows


def prime_rl(folder, *, steps=range(STEPS), stable=True, masked=True, tool=0):
    """`token_exports/step_<n>/rank_<r>.jsonl` of two ranks; `tool`: so many tool tokens inside a response."""
    for step in steps:
        place = folder / "token_exports" / f"step_{step}"
        place.mkdir(parents=True)
        for rank in (0, 1):
            lines = [
                json.dumps(_prime_line(row, step, rank, masked, tool), separators=(",", ":"))
                for row in responses(step)[rank::2]
            ]
            (place / f"rank_{rank}.jsonl").write_text("\n".join(lines) + "\n")
        if stable:
            (place / "STABLE").touch()
    return folder / "token_exports"


def _prime_line(row, step, rank, masked, tool):
    before, ids = len(row["prompt_ids"]), list(row["ids"])
    trained = [True] * len(ids)
    mu, pi, entropy = (list(row[name]) for name in ("mu", "pi", "entropy"))
    if tool:
        for column, filler in ((ids, 9), (trained, False), (mu, 0.0), (pi, -5.0), (entropy, 0.1)):
            column[2:2] = [filler] * tool
    n = before + len(ids)
    mask = [False] * before + trained

    def padded(values):
        return [0.0] * before + values

    log_ratio = [p - m for p, m in zip(padded(pi), padded(mu))]
    return {
        "schema_version": 1, "step": step, "export_step": step, "rank": rank, "micro_step": 0,
        "micro_sequence_idx": 0, "export_sequence_idx": 0, "run_id": None, "env_name": "math",
        "token_ids": row["prompt_ids"] + ids, "position_ids": list(range(n)), "loss_mask": mask,
        "advantages": [row["advantage"]] * n,
        "losses": [{"rl": {"advantage": row["advantage"], "mask": m}} for m in mask],
        "rewards": [row["reward"]] * n,
        "inference_logprobs": padded(mu), "trainer_logprobs": padded(pi), "entropy": padded(entropy),
        "mismatch_kl": [float(np.exp(d) - 1 - d) for d in log_ratio],
        "log_importance_ratio": log_ratio, "importance_ratio": np.exp(log_ratio).tolist(),
        "prob_delta": [0.0] * n,
        "is_masked": [m and abs(d) > 0.4 for m, d in zip(mask, log_ratio)] if masked else [None] * n,
        "is_masked_high": [False] * n, "is_masked_low": [False] * n,
    }  # fmt: skip


def verl(folder, *, steps=range(1, STEPS + 1)):
    """`<step>.jsonl` of texts and scores."""
    folder.mkdir(parents=True)
    for step in steps:
        lines = [
            json.dumps(
                {
                    "input": f"What is {row['group']} + {step}?", "output": "It is 5 …", "gts": "5",
                    "score": row["reward"], "step": step, "acc": row["reward"] > 0, "uid": f"a_{row['sample']}_0",
                },
                ensure_ascii=False,
            )
            for row in responses(step)
        ]  # fmt: skip
        (folder / f"{step}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def named(row, step, **changes):
    """A response under names of somebody's own."""
    return {
        "it": step, "question": f"q{row['group']}-{step}", "ids": row["ids"], "sampler_lp": row["mu"],
        "trainer_lp": row["pi"], "adv": row["advantage"], "score": row["reward"], **changes,
    }  # fmt: skip


MAP = {
    "step": "it", "prompt": "question", "response_ids": "ids", "logp_rollout": "sampler_lp",
    "logp_train": "trainer_lp", "advantage": "adv", "reward": "score",
}  # fmt: skip


def rows(steps=range(1, STEPS + 1)):
    return [named(row, step) for step in steps for row in responses(step)]


def jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
