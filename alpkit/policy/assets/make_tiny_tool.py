r"""Train and save the built-in model `builtin:tiny-tool`: it can use a tool, and mostly does not.

A 4-layer Qwen2 of 0.7 million parameters learns conversations about products of two three-digit numbers by
supervised next-token prediction: in some of them the assistant writes a ```python block and copies its output
into \boxed{}, in most it guesses. It never learns to multiply, so that calling the tool is worth it, and
reinforcement learning has only to find that out. What is saved is a moving average of the weights.

Usage: python alpkit/policy/assets/make_tiny_tool.py [--out FOLDER]
"""

import argparse
import copy
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from alpkit.config.environment import ToolMathConfig
from alpkit.tasks import split_of

COMMAND = "python alpkit/policy/assets/make_tiny_tool.py"
SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
WORDS = ("user", "assistant", "```", "python", "print", "output", "\\boxed", ")\n", "```\n")
"""What is one token, because it is all that is said besides digits: a conversation is half as long."""


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Give all bytes and the words, with the merges that spell each word from its left."""
    letters = bytes_to_unicode()
    pieces, merges = list(letters.values()), []
    for word in WORDS:
        whole = ""
        for byte in word.encode():
            letter = letters[byte]
            if whole and whole + letter not in pieces:
                pieces.append(whole + letter)
                merges.append((whole, letter))
            whole += letter
    return {text: i for i, text in enumerate((*SPECIAL, *pieces))}, merges


VOCAB, MERGES = _vocabulary()
PAD, END, CALL = VOCAB["<pad>"], VOCAB["<|im_end|>"], VOCAB["```"]
IGNORE = -100
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENVIRONMENT = ToolMathConfig()
SHARES = {"guess": 0.65, "tool": 0.22, "slip": 0.08, "void": 0.05}
"""What the assistant does: guesses; asks the tool; asks it for the sum instead; gives up."""
REACHED = 0.97
"""Share of held-out products whose code, and whose copied answer, is right: then the other ways are learned too."""

Message = tuple[str, str]


class Skill(NamedTuple):
    """What the model does with held-out products, its tokens being forced up to there."""

    code: float
    """Share of greedy code that asks for the product."""
    copy: float
    """Share of greedy answers that are the tool's output."""
    calls: float
    """Probability that the first token begins a block of code."""
    guess: float
    """Share of greedy guesses that are right."""


def make_tokenizer() -> Qwen2Tokenizer:
    """Give a tokenizer of single bytes with the chat template.

    AutoTokenizer rebuilds every tokenizer of a qwen2 folder as this class, from vocabulary and merges alone.
    """
    return Qwen2Tokenizer(
        vocab=VOCAB,
        merges=MERGES,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=TEMPLATE,
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
        eos_token_id=END,
        pad_token_id=PAD,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=END, pad_token_id=PAD, bos_token_id=None
    )
    return model


def code(left: int, right: int, operator: str = "*") -> str:
    return f"```python\nprint({left}{operator}{right})\n```"


def output(value: int) -> str:
    """The environment's message, as its section has it by default."""
    return ENVIRONMENT.output.replace("{output}", str(value))


def boxed(value: int) -> str:
    return f"\\boxed{{{value}}}"


def question(left: int, right: int) -> str:
    return f"{left}*{right}"


def conversation(left: int, right: int, kind: str, draw: Random) -> list[Message]:
    """Make one up. Now and then an output is any number, so that answers are copied and not guessed."""
    product = left * right
    shown = product if draw.random() < 0.7 else draw.randrange(10 ** draw.randint(3, 6))
    asked: list[Message] = [("user", question(left, right))]
    if kind == "guess":
        return [*asked, ("assistant", boxed(product))]
    if kind == "void":
        return [*asked, ("assistant", "I give up.")]
    if kind == "slip":
        total = left + right
        return [
            *asked,
            ("assistant", code(left, right, "+")),
            ("user", output(total)),
            ("assistant", boxed(total)),
        ]
    call = ("assistant", code(left, right))
    return [*asked, call, ("user", output(shown)), ("assistant", boxed(shown))]


def numbers(draw: Random, split: str) -> tuple[int, int]:
    """Two factors whose question belongs to the split of the task that reads experiments/tool_tiny.jsonl."""
    while True:
        left, right = draw.randrange(100, 1000), draw.randrange(100, 1000)
        if split_of("file", question(left, right)) == split:
            return left, right


def encode(messages: list[Message], tokenizer: Qwen2Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them the assistant says (its end token among them)."""
    ids: list[int] = []
    said: list[bool] = []
    for role, text in messages:
        for piece, own in (
            (f"<|im_start|>{role}\n", False),
            (f"{text}<|im_end|>", role == "assistant"),
            ("\n", False),
        ):
            new = tokenizer(piece, add_special_tokens=False)["input_ids"]
            ids += new
            said += [own] * len(new)
    return ids, said


def rows(conversations: list[list[Message]], tokenizer: Qwen2Tokenizer) -> tuple[Tensor, Tensor]:
    """Padded ids [batch, tok] and which of them are trained on."""
    encoded = [encode(messages, tokenizer) for messages in conversations]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.full((len(encoded), longest), PAD)
    said = torch.zeros(len(encoded), longest, dtype=torch.bool)
    for row, (own, mask) in enumerate(encoded):
        ids[row, : len(own)] = torch.tensor(own)
        said[row, : len(own)] = torch.tensor(mask)
    return ids, said


@torch.no_grad()
def measure(model: nn.Module, tokenizer: Qwen2Tokenizer, count: int = 128) -> Skill:
    """Read all four numbers from forwards over right conversations: greedy is exact where every argmax is."""
    draw = Random("measure")
    pairs = [numbers(draw, "eval") for _ in range(count)]
    called = [
        [
            ("user", question(a, b)),
            ("assistant", code(a, b)),
            ("user", output(a * b)),
            ("assistant", boxed(a * b)),
        ]
        for a, b in pairs
    ]
    guessed = [[("user", question(a, b)), ("assistant", boxed(a * b))] for a, b in pairs]
    head, whole = (
        len(tokenizer(text)["input_ids"]) for text in ("```python\nprint(", code(100, 100))
    )
    ids, said = rows(called, tokenizer)
    logits = model(input_ids=ids).logits[:, :-1]
    hit = logits.argmax(-1) == ids[:, 1:]
    said = said[:, 1:]
    order = said.cumsum(1)
    in_code = said & (order > head) & (order <= whole + 1)  # up to its end token
    in_box = said & (order > whole + 1)
    first = logits[said & (order == 1)].softmax(-1)[:, CALL]
    ids, said = rows(guessed, tokenizer)
    right = (model(input_ids=ids).logits[:, :-1].argmax(-1) == ids[:, 1:]) | ~said[:, 1:]
    # The first token of a guess is forced: the model may prefer code there.
    right |= said[:, 1:].cumsum(1) <= 1
    return Skill(
        code=(hit | ~in_code).all(1).float().mean().item(),
        copy=(hit | ~in_box).all(1).float().mean().item(),
        calls=first.mean().item(),
        guess=right.all(1).float().mean().item(),
    )


def train(
    *,
    lr: float,
    batch: int,
    warmup: int,
    average: float,
    every: int,
    settle: int,
    steps: int,
    seed: int,
) -> tuple[Qwen2ForCausalLM, Skill, int]:
    """Train on calls alone until the averaged weights can make them, then on all that an assistant does.

    Gives the averaged weights, what they can do, and the step.
    """
    able = 0
    torch.manual_seed(seed)
    draw = Random(seed)
    tokenizer = make_tokenizer()
    model = make_model()
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        kinds = ["tool"] * batch
        if able:
            kinds = draw.choices(list(SHARES), weights=list(SHARES.values()), k=batch)
        ids, said = rows(
            [conversation(*numbers(draw, "train"), kind, draw) for kind in kinds], tokenizer
        )
        targets = ids[:, 1:].masked_fill(~said[:, 1:], IGNORE)
        logits = model(input_ids=ids[:, :-1]).logits
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
            got = measure(averaged, tokenizer)
            seconds = time.perf_counter() - start
            print(f"step {step:5d}  {seconds:5.0f} s  loss {loss.item():.3f}  {got}", flush=True)
            if not able and min(got.code, got.copy) >= REACHED:
                able = step
            elif able and step >= able + settle:
                return averaged, got, step
    raise SystemExit(f"not there after {steps} steps: raise --lr or --steps")


README = """\
# tiny-tool

A policy that can use a tool and mostly does not, for `experiments/tool_tiny.yaml`: `model: builtin:tiny-tool`.
Asked for a product of two three-digit numbers ("347*862"), it guesses an answer in `\\boxed{{}}`, or writes a
```` ```python ```` block that prints the product and copies the output. It cannot multiply.

| | |
|---|---|
| made by | `{command}` |
| training | {step} steps of {batch} conversations, {seconds:.0f} s on one CPU core |
| parameters | {params} |
| architecture | Qwen2, 4 layers, hidden 128, 4 heads of 32, float32 |
| vocabulary | {vocab} tokens: 256 bytes, nine words and their beginnings, four special tokens |
| its first token begins a call | {calls:.1f} % |
| code right, greedy, once begun | {code:.1f} % |
| output copied right, greedy | {copy:.1f} % |
| greedy guess right | {guess:.1f} % |

Measured on 128 products that it was not trained on. The chat template is the common one of `<|im_start|>` and
`<|im_end|>`. Weights: Apache-2.0, as alpkit.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-tool")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--average", type=float, default=0.99)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--settle", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    out = given.pop("out")

    torch.set_num_threads(1)  # reductions add in another order on more threads
    start = time.perf_counter()
    model, skill, step = train(**given)
    model.save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    text = README.format(
        command=COMMAND,
        step=step,
        batch=given["batch"],
        seconds=time.perf_counter() - start,
        params=f"{sum(p.numel() for p in model.parameters()):,}",
        vocab=len(VOCAB),
        **{name: 100 * share for name, share in skill._asdict().items()},
    )
    (out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
