"""Named bases: everything of a published experiment but its arms, as data with its source.

Usage: `base: {from: paper/single-turn-1.5b, rollout: {prompts: 64}}`; what stands beside `from` wins. Compare
with `experiments/paper/`, which spells the same settings out and says what they cost.
"""

from typing import Any, NamedTuple


class NamedBase(NamedTuple):
    """Settings of a run that arms share, and where they were published."""

    settings: dict[str, Any]
    source: str


_SCRIPTS = "released single-turn scripts of arXiv:2603.19470"
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_EVAL_SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."
_MULTI = "released multi-turn scripts of arXiv:2603.19470"
_TOOL = (
    "Solve the problem step by step. You may write Python code in a block that starts with ```python and ends with "
    "```; end your turn behind it, and its printed output comes back to you. Put your final answer within \\boxed{}."
)
_SETS = ("math-500", "minerva", "olympiadbench", "aime24", "aime25")


def _turn_evals() -> list[dict[str, Any]]:
    """List the sets of the multi-turn evaluation that have a name here; 50 problems of each during training."""
    return [
        {
            "name": name,
            "task": {"name": "math", "set": name, "deadline": 20.0},
            "items": items,
            "k": 32,
            "temperature": 1.0,
            "top_p": 0.7,
        }
        for name, items in zip(_SETS, (50, 50, 50, 30, 30), strict=True)
    ]


def _evals(max_tokens: int) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "task": {"name": "math", "set": name, "deadline": 20.0},
            "k": 32,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_tokens": max_tokens,
            "suffix": _EVAL_SUFFIX,
        }
        for name in _SETS
    ]


def _rollout(prompts: int, max_tokens: int, longest: int) -> dict[str, Any]:
    return {
        "engine": "vllm",
        "dtype": "bfloat16",
        "prompts": prompts,
        "group": 8,
        "max_tokens": max_tokens,
        "temperature": 1.0,
        "max_model_len": longest,
    }


def _train(updates: int) -> dict[str, Any]:
    return {
        "steps": 500,
        "updates_per_rollout": updates,
        "lr": 1e-6,
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "grad_clip": 1.0,
    }


BASES: dict[str, NamedBase] = {
    "paper/single-turn-1.5b": NamedBase(
        {
            "model": "Qwen/Qwen2.5-Math-1.5B",
            "dtype": "bfloat16",
            "task": {
                "name": "file",
                "path": "data/openr1_guru_math.parquet",
                "prompt": "prompt",
                "answer": "reward_model.ground_truth",
                "deadline": 20.0,
                "held_out": "none",
            },
            "prompt": {"system": _BOXED},
            "rollout": _rollout(512, 2048, 4096),
            "train": _train(16),
            "hardware": {"micro_batch_tokens": 32768},
            "eval": {"every": 20, "k": 32, "engine": "sampler"},
            "evals": _evals(2048),
            "records": {"every": 20},
            "checkpoint": {"every": 20},
        },
        f"{_SCRIPTS}, Qwen2.5-Math-1.5B",
    ),
    "paper/single-turn-4b": NamedBase(
        {
            "model": "Qwen/Qwen3-4B",
            "dtype": "bfloat16",
            "task": {
                "name": "file",
                "path": "BytedTsinghua-SIA/DAPO-Math-17k",
                "prompt": "prompt",
                "answer": "reward_model.ground_truth",
                "deadline": 20.0,
                "held_out": "none",
            },
            "prompt": {"system": _BOXED, "template_args": {"enable_thinking": False}},
            "rollout": _rollout(128, 16384, 17408),
            "train": _train(4),
            "hardware": {"micro_batch_tokens": 32768},
            "eval": {"every": 20, "k": 32, "engine": "sampler"},
            "evals": _evals(16384),
            "records": {"every": 20},
            "checkpoint": {"every": 20},
        },
        f"{_SCRIPTS}, Qwen3-4B",
    ),
    "paper/multi-turn-7b": NamedBase(
        {
            "model": "Qwen/Qwen2.5-7B",
            "dtype": "bfloat16",
            "task": {
                "name": "file",
                "path": "data/simplerl_deepscaler_math.parquet",
                "prompt": "prompt",
                "answer": "reward_model.ground_truth",
                "deadline": 20.0,
                "held_out": "none",
            },
            "prompt": {"system": _TOOL, "stop": ["<|im_end|>"]},
            "environment": {
                "name": "tool_math",
                "turns": 5,
                "turn_tokens": 8000,
                "reply_tokens": 256,
                "void": "mask",
            },
            "rollout": _rollout(128, 11904, 16000) | {"group": 16},
            "train": _train(4),
            "hardware": {"micro_batch_tokens": 24000},
            "eval": {"every": 20, "k": 32, "engine": "sampler"},
            "evals": _turn_evals(),
            "records": {"every": 20},
            "checkpoint": {"every": 20},
        },
        f"{_MULTI}, Qwen2.5-7B base",
    ),
}
