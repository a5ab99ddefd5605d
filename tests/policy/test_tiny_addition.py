"""The built-in model is what its README says it is."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import alpkit.policy
from alpkit.tasks import eval_items
from alpkit.tasks.addition import Addition

FOLDER = Path(alpkit.policy.__file__).parent / "assets" / "tiny-addition"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


def readme_number(label: str) -> float:
    row = re.search(rf"\| {label} \| ([\d.,]+)", (FOLDER / "README.md").read_text())
    assert row is not None
    return float(row[1].replace(",", ""))


@torch.no_grad()
def generate(model, ids: torch.Tensor, pick) -> torch.Tensor:
    """Responses of 5 tokens without a cache; what follows eos is cut by the caller."""
    start = ids.shape[1]
    for _ in range(5):
        ids = torch.cat([ids, pick(model(input_ids=ids).logits[:, -1])], dim=1)
    return ids[:, start:]


def accuracy(model, tokenizer, pick) -> float:
    task, items = Addition(digits=3), eval_items(Addition(digits=3), 512)
    ids = torch.tensor(tokenizer([item.prompt for item in items])["input_ids"])
    eos = tokenizer.eos_token_id
    rewards = [
        task.score(item, tokenizer.decode(row[: row.index(eos)] if eos in row else row))
        for item, row in zip(items, generate(model, ids, pick).tolist(), strict=True)
    ]
    return 100 * sum(rewards) / len(rewards)


def test_greedy_accuracy_is_the_readme_s_and_leaves_room(model, tokenizer):
    measured = accuracy(model, tokenizer, lambda logits: logits.argmax(-1, keepdim=True))
    assert measured == pytest.approx(readme_number("greedy accuracy"), abs=1.0)
    assert 40 <= measured <= 65


def test_sampled_accuracy_is_the_readme_s(model, tokenizer):
    draws = torch.Generator().manual_seed(0)
    measured = accuracy(
        model,
        tokenizer,
        lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=draws),
    )
    # One draw a sum: a standard error of 2.1 points.
    assert measured == pytest.approx(readme_number("sampled accuracy, temperature 1"), abs=6.5)


def test_size(model):
    params = sum(p.numel() for p in model.parameters())
    assert params == readme_number("parameters")
    assert params < 1_500_000
    assert (FOLDER / "model.safetensors").stat().st_size < 2_900_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_tokenizer_is_one_token_a_character(tokenizer, model):
    ids = tokenizer("123+456=")["input_ids"]
    assert ids == [4, 5, 6, 13, 7, 8, 9, 14]
    assert tokenizer.decode(ids) == "123+456="
    assert tokenizer.decode([8, 10, 12, tokenizer.eos_token_id], skip_special_tokens=True) == "579"
    assert len(tokenizer) == model.config.vocab_size == 15
    assert tokenizer.chat_template is None


def test_special_ids_agree_everywhere(tokenizer, model):
    assert tokenizer.pad_token_id == model.config.pad_token_id == 0
    assert tokenizer.eos_token_id == model.config.eos_token_id == 1
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.pad_token_id == 0
