"""Train and save the built-in model `builtin:tiny-addition`: a half-taught adder, to start RL from.

A 4-layer Qwen2 of 0.66 million parameters over single characters learns three-digit sums, written
in natural order, by supervised next-token prediction on the train split of `alpkit.tasks.addition`.
Training stops on purpose when greedy accuracy on 512 held-out sums is between 48 and 58 %, so that
RL can move it in both directions. What is saved is a moving average of the weights: its accuracy
climbs smoothly while the raw weights jump over the band, and RL from it improves, which it did not
from weights caught in the band by a lower learning rate. No chat template, no bos token.

Usage: python alpkit/policy/assets/make_tiny_addition.py [--out FOLDER]
"""

import argparse
import copy
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from alpkit.tasks import Item, eval_items, split_of
from alpkit.tasks.addition import Addition

COMMAND = "python alpkit/policy/assets/make_tiny_addition.py"
SPECIAL = ("<pad>", "<eos>", "<unk>")
VOCAB = {text: i for i, text in enumerate((*SPECIAL, *"0123456789+="))}
PAD, EOS = VOCAB["<pad>"], VOCAB["<eos>"]
PROMPT = len("123+456=")
LENGTH = PROMPT + len("1998") + 1
BAND = (0.48, 0.58)
IGNORE = -100


class Accuracy(NamedTuple):
    """Shares of the held-out sums answered exactly."""

    greedy: float
    sampled: float
    """The exact expectation at temperature 1, not a draw."""


def make_tokenizer() -> Qwen2Tokenizer:
    """Give a character tokenizer; characters outside the vocabulary vanish.

    AutoTokenizer rebuilds every tokenizer of a qwen2 folder as this class, from vocabulary and
    merges alone. Another class would be saved in full and loaded as something else.
    """
    return Qwen2Tokenizer(
        vocab=VOCAB,
        merges=[],
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def make_model() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(VOCAB),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None
    )
    return model


def encode(question: str, answer: str) -> list[int]:
    ids = [*(VOCAB[c] for c in question + answer), EOS]
    return ids + [PAD] * (LENGTH - len(ids))


def train_rows() -> Tensor:
    """Every sum of the train split, encoded: 729 thousand rows."""
    rows = [
        encode(question, str(left + right))
        for left in range(100, 1000)
        for right in range(100, 1000)
        if split_of("addition", question := f"{left}+{right}=") == "train"
    ]
    return torch.tensor(rows, dtype=torch.uint8)


def answer_logits(model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets where the answer and its eos are predicted; padding is IGNORE."""
    logits: Tensor = model(input_ids=rows[:, :-1]).logits[:, PROMPT - 1 :]
    targets = rows[:, PROMPT:]
    return logits, targets.masked_fill(targets == PAD, IGNORE)


@torch.no_grad()
def measure(model: nn.Module, items: list[Item]) -> Accuracy:
    """Both accuracies from one forward over the right answers.

    Greedy decoding gives the answer exactly when every token of it is the argmax after the ones
    before it, and sampling gives it with the product of their probabilities.
    """
    rows = torch.tensor([encode(item.prompt, item.answer) for item in items])
    logits, targets = answer_logits(model, rows)
    real = targets != IGNORE
    hit = ((logits.argmax(-1) == targets) | ~real).all(-1)
    logp = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return Accuracy(hit.float().mean().item(), (logp * real).sum(-1).exp().mean().item())


def train(
    *, lr: float, batch: int, warmup: int, average: float, every: int, steps: int, seed: int
) -> tuple[Qwen2ForCausalLM, Accuracy, int]:
    """Train until the averaged weights are in the band; give them, their accuracy and the step."""
    torch.manual_seed(seed)
    items = eval_items(Addition(digits=3), 512)
    rows, draws = train_rows(), torch.Generator().manual_seed(seed)
    model = make_model()
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        picked = rows[torch.randint(len(rows), (batch,), generator=draws)].long()
        logits, targets = answer_logits(model, picked)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = lr * min(1.0, step / warmup)
        optimizer.step()
        for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - average)
        if step % every == 0:
            got = measure(averaged, items)
            print(
                f"step {step:5d}  {time.perf_counter() - start:5.0f} s  loss {loss.item():.3f}  "
                f"greedy {got.greedy:.3f}  sampled {got.sampled:.3f}",
                flush=True,
            )
            if BAND[0] <= got.greedy <= BAND[1]:
                return averaged, got, step
            if got.greedy > BAND[1]:
                raise SystemExit("jumped over the band: lower --lr or --every")
    raise SystemExit(f"not in the band after {steps} steps: raise --lr or --steps")


README = """\
# tiny-addition

A half-taught adder of three-digit numbers ("123+456=" gives "579"), the policy that alpkit's
CPU experiments start from: `model: builtin:tiny-addition`. Supervised training stopped on purpose
in the middle, so that reinforcement learning can move it in both directions.

| | |
|---|---|
| made by | `{command}` |
| training | {step} steps of {batch} sums, {seconds:.0f} s on one CPU core |
| parameters | {params} |
| architecture | Qwen2, 4 layers, hidden 128, 4 heads of 32, float32 |
| vocabulary | {vocab} tokens: `<pad>` `<eos>` `<unk>`, digits, `+`, `=` |
| greedy accuracy | {greedy:.2f} % |
| sampled accuracy, temperature 1 | {sampled:.2f} % |

Accuracy is the share of the 512 held-out sums of `eval_items(Addition(digits=3), 512)` that are
answered exactly; none of them was trained on. The sampled one is the exact expectation over draws.
No chat template; the tokenizer adds no special tokens. Weights: Apache-2.0, as alpkit.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-addition")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--average", type=float, default=0.99)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    out = given.pop("out")

    torch.set_num_threads(1)  # reductions add in another order on more threads
    start = time.perf_counter()
    model, accuracy, step = train(**given)
    params = sum(p.numel() for p in model.parameters())
    model.save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    text = README.format(
        command=COMMAND,
        step=step,
        batch=given["batch"],
        seconds=time.perf_counter() - start,
        params=f"{params:,}",
        vocab=len(VOCAB),
        greedy=100 * accuracy.greedy,
        sampled=100 * accuracy.sampled,
    )
    (out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
