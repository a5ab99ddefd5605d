"""Write a trained policy as a folder that transformers and vLLM load: what `alpkit export` calls.

    export("latest", Path("my-policy"))

The weights are the newest checkpoint's, float32, without any noise: the perturbation is no part of the
policy. Beside them stand the tokenizer, and in `alpkit.json` where the policy comes from and how its
prompts are put together.
"""

import json
from pathlib import Path
from typing import Final, NamedTuple

from alpkit import __version__
from alpkit.config import RunConfig
from alpkit.errors import ConfigError
from alpkit.policy.loading import load_policy
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.runs.swap import swapped_folder
from alpkit.trainer.trained import trained

ORIGIN: Final = "alpkit.json"


class Exported(NamedTuple):
    """The policy that was written."""

    cell_id: str
    step: int
    model: str
    folder: Path


def export(run_id: str, folder: Path) -> Exported:
    """Write the policy of the one cell that `run_id` names to `folder`, whole or not at all."""
    _refuse_taken(folder)
    found = trained(run_id, asked="one policy is exported")
    config = RunConfig.model_validate(found.config)
    policy = load_policy(config.model, revision=config.revision)
    step = int(load_checkpoint(found.checkpoint, policy.model)["step"])
    origin = {
        "cell_id": found.cell_id,
        "step": step,
        "model": config.model,
        "revision": config.revision,
        "seed": config.seed,
        "prompt": config.prompt.model_dump(mode="json"),
        "temperature": config.rollout.temperature,
        "alpkit": __version__,
    }
    with swapped_folder(folder, last=True) as work:
        policy.model.save_pretrained(work)
        policy.tokenizer.save_pretrained(work)
        (work / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    return Exported(found.cell_id, step, config.model, folder)


def _refuse_taken(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise ConfigError(
        f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}",
        where="DIR",
        why="an export replaces nothing",
        fix="name a folder that does not exist yet",
    )
