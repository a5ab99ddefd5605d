"""The built-in model of the tool experiment is what its README says it is."""

import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alpkit.config.environment import ToolMathConfig
from alpkit.policy.loading import load_policy
from alpkit.tasks import split_of
from alpkit.tasks.environments.tool_math import read_turn

Policy = tuple[PreTrainedModel, PreTrainedTokenizerBase, Path]
COUNT = 64


@pytest.fixture(scope="module")
def policy() -> Policy:
    found = load_policy("builtin:tiny-tool")
    return found.model, found.tokenizer, Path(found.source)


@pytest.fixture(scope="module")
def products() -> list[tuple[int, int]]:
    """Products that the model was not trained on."""
    draws = torch.randint(100, 1000, (40 * COUNT, 2), generator=torch.Generator().manual_seed(7))
    pairs = [(int(left), int(right)) for left, right in draws]
    return [(a, b) for a, b in pairs if split_of("file", f"{a}*{b}") == "eval"][:COUNT]


def readme_number(folder: Path, label: str) -> float:
    row = re.search(rf"\| {re.escape(label)} \| ([\d.,]+)", (folder / "README.md").read_text())
    assert row is not None
    return float(row[1].replace(",", ""))


@torch.no_grad()
def greedy(policy: Policy, conversations: list[list[dict[str, str]]], begun: str = "") -> list[str]:
    """Continue conversations of one length; `begun` is what the assistant has said already."""
    model, tokenizer, _ = policy
    prompts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + begun
        for messages in conversations
    ]
    ids = torch.tensor(tokenizer(prompts, add_special_tokens=False)["input_ids"])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
    )
    texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [begun + text for text in texts]


def test_once_it_begins_a_call_it_asks_for_the_product(
    policy: Policy, products: list[tuple[int, int]]
) -> None:
    asked = [[{"role": "user", "content": f"{a}*{b}"}] for a, b in products]
    wanted = [f"print({a}*{b})\n" for a, b in products]
    codes = [read_turn(text).code for text in greedy(policy, asked, "```python\n")]
    assert codes == wanted
    assert readme_number(policy[2], "code right, greedy, once begun") >= 97


def test_it_copies_the_output_and_cannot_do_without(
    policy: Policy, products: list[tuple[int, int]]
) -> None:
    # Of one length, so that one batch holds them: products of six digits.
    pairs = [(a, b) for a, b in products if a * b >= 100_000]
    output = ToolMathConfig().output
    called = [
        [
            {"role": "user", "content": f"{a}*{b}"},
            {"role": "assistant", "content": f"```python\nprint({a}*{b})\n```"},
            {"role": "user", "content": output.replace("{output}", str(a * b))},
        ]
        for a, b in pairs
    ]
    answers = [f"\\boxed{{{a * b}}}" for a, b in pairs]
    copied = greedy(policy, called)
    assert sum(text == answer for text, answer in zip(copied, answers)) >= 0.97 * len(pairs)
    guessed = greedy(policy, [messages[:1] for messages in called], "\\boxed")
    assert sum(text == answer for text, answer in zip(guessed, answers)) <= 0.03 * len(pairs)


@torch.no_grad()
def test_it_mostly_does_not_call(policy: Policy, products: list[tuple[int, int]]) -> None:
    model, tokenizer, folder = policy
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{a}*{b}"}], add_generation_prompt=True, tokenize=False
        )
        for a, b in products
    ]
    ids = torch.tensor(tokenizer(prompts, add_special_tokens=False)["input_ids"])
    call = tokenizer.convert_tokens_to_ids("```")
    share = model(input_ids=ids).logits[:, -1].softmax(-1)[:, call].mean().item()
    # Two samples of products: the probability hardly depends on them.
    assert 100 * share == pytest.approx(
        readme_number(folder, "its first token begins a call"), abs=3.0
    )
    assert share < 0.5


def test_size_and_every_byte_has_a_token(policy: Policy) -> None:
    model, tokenizer, folder = policy
    assert sum(p.numel() for p in model.parameters()) == readme_number(folder, "parameters")
    assert (folder / "model.safetensors").stat().st_size < 3_000_000
    text = "".join(map(chr, range(32, 127))) + "\n\tüß日本 \U0001f600"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer("```python\nprint(347*862)\n```")["input_ids"]) == 14
