"""Show a grid in a notebook: one page of HTML for the frame, and responses coloured token by token.

Behind `GridFrame.summary`, `.sample` and the frame's own display; needs nothing but the run folder.
"""

import html
import json
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.errors import AlpkitError, GridError
from alpkit.runs.folder import RunFolder
from alpkit.runs.records import read, read_sequences
from alpkit.runs.spike_log import scan_spikes

FULL: Final = 2.0
"""Log ratio, nats, at which a token's colour is at its strongest."""


class Sample(NamedTuple):
    """One recorded response: its prompt, its text, and a row per token with its log ratio."""

    prompt: str
    response: str
    tokens: pd.DataFrame
    caption: str

    def _repr_html_(self) -> str:
        """The prompt, then the response's tokens: red above 1, blue below, both by their log ratio."""
        words = "".join(
            f'<span title="log ratio {ratio:+.3f}, log µ {mu:.3f}" style="background:{_shade(ratio)};'
            f'padding:0 1px;white-space:pre-wrap">{html.escape(text)}</span>'
            for text, ratio, mu in zip(
                self.tokens["text"], self.tokens["log_ratio"], self.tokens["logp_rollout"]
            )
        )
        return (
            f"<div><p><small>{html.escape(self.caption)}</small></p>"
            f'<p style="white-space:pre-wrap"><b>Prompt</b> {html.escape(self.prompt)}</p>'
            f"<p><b>Response</b> {words}</p></div>"
        )


def sample(folder: Path, cell: str, step: int, row: int) -> Sample:
    """Read the response `row` of a recorded step; its text where the model's vocabulary can be read.

    Raises `GridError` for a step without such a response.
    """
    run = folder / cell
    tokens = read(run, steps=[step])
    sequences = read_sequences(run, steps=[step])
    if row not in set(sequences["sample"]):
        raise GridError(
            f"step {step} of this cell has no response {row}",
            where=str(run),
            why=f"it recorded the responses {sequences['sample'].min()} to {sequences['sample'].max()}",
            fix="take one of them",
        )
    sequence = sequences[sequences["sample"] == row].iloc[0]
    own = tokens[tokens["sample"] == row].sort_values("position").reset_index(drop=True)
    vocabulary = _vocabulary(run)
    own = own.assign(
        text=[vocabulary.get(int(token), f"⟨{token}⟩") for token in own["token"]],
        log_ratio=own["logp_train"] - own["logp_rollout"],
    )
    prompt = "".join(vocabulary.get(int(t), f"⟨{t}⟩") for t in sequence["prompt_ids"])
    reward = float(own["reward"].iloc[0]) if len(own) else np.nan
    caption = f"{cell}, step {step}, response {row}: reward {reward:g}, {len(own)} tokens"
    return Sample(prompt, "".join(own["text"]), own, caption)


def spike_prompts(folder: Path, cell: str, step: int, metric: str) -> list[str]:
    """Find the prompts of the responses that made a spike, as far as the step's records have them; largest first."""
    spikes, _ = scan_spikes(folder / cell)
    found = next((s for s in spikes if (s["step"], s["metric"]) == (step, metric)), None)
    if found is None:
        return []
    texts: list[str] = []
    for response in found["sequences"]:
        try:
            texts.append(sample(folder, cell, step, response["sample"]).prompt)
        except AlpkitError:  # a step that kept no records has no prompts to show
            return []
    return texts


def _vocabulary(run: Path) -> dict[int, str]:
    """Read token id -> text from the tokenizer's own file of the cell's model; empty where that is not at hand."""
    import yaml

    config = yaml.safe_load(RunFolder(run).config.read_text(encoding="utf-8")) or {}
    name = str(config.get("model", ""))
    if name.startswith("builtin:"):
        import alpkit

        assets = Path(alpkit.__file__).parent / "policy" / "assets" / name.removeprefix("builtin:")
    else:
        assets = Path(name)
    path = assets / "tokenizer.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    words = {int(i): str(word) for word, i in dict(content["model"].get("vocab", {})).items()}
    added = {int(t["id"]): str(t["content"]) for t in content.get("added_tokens", [])}
    # Byte-level vocabularies write a blank as Ġ and a line break as Ċ.
    plain = {
        i: word.replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ") for i, word in words.items()
    }
    return plain | added


def _shade(log_ratio: float) -> str:
    """Choose a token's colour: red where it became likelier than the sampler thought, blue where less."""
    if not np.isfinite(log_ratio):
        return "transparent"
    strength = min(abs(log_ratio) / FULL, 1.0)
    colour = "214,69,65" if log_ratio > 0 else "52,120,196"
    return f"rgba({colour},{0.75 * strength:.2f})"
