"""The LM head's memory and time: ours in chunks, beside logits and autograd, on SmolLM2's sizes.

    python benchmarks/head.py [--tokens 2048] [--pairs 5]

Hidden states and a weight as the model has them, random; forward and backward of log-prob and entropy. Memory is
what torch's allocator handed out at once, both gradients included. A step's time is the model's whole
forward and backward, from the operations that the head is of it.
"""

import argparse

import torch
from measuring import alternate, table
from perturbation import peak_bytes
from torch import Tensor

from alpkit.policy.head import recomputed_logprobs
from alpkit.policy.needs import head_chunk
from alpkit.policy.shapes import read_shape


def naive(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Log-probs and entropies as most trainers write them."""
    logp = (hidden @ weight.T).log_softmax(-1)
    with torch.no_grad():
        _ = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, target[:, None])[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = read_shape("builtin:smollm2-135m", None)
    assert shape is not None
    hidden = torch.randn(options.tokens, shape.hidden, requires_grad=True)
    weight = (torch.randn(shape.vocab, shape.hidden) / shape.hidden**0.5).requires_grad_()
    target = torch.randint(shape.vocab, (options.tokens,))
    chunk = head_chunk(shape.vocab, None)

    def ours() -> None:
        recomputed_logprobs(hidden, weight, target, scale=1.0, chunk=chunk).logp.sum().backward()
        hidden.grad = weight.grad = None

    def theirs() -> None:
        naive(hidden, weight, target).sum().backward()
        hidden.grad = weight.grad = None

    took = alternate({"ours": ours, "naive": theirs}, options.pairs)
    peak = {"ours": peak_bytes(ours), "naive": peak_bytes(theirs)}
    # Three passes over all matrices for an update, of which the head is one matrix among them.
    share = shape.head / (shape.head + shape.layers * shape.matrices)
    step = took["naive"] / share
    added = (took["ours"] - took["naive"] + step) / step
    rows = [[name, took[name], f"{peak[name] / 2**20:,.0f}"] for name in ("ours", "naive")]
    print(table(["head", "seconds", "peak MiB"], rows))
    print(
        f"\n{options.tokens} tokens x {shape.vocab} words, chunks of {chunk}: memory "
        f"**{peak['ours'] / peak['naive']:.3f}** of naive (asked <= 0.167), head time "
        f"{took['ours'] / took['naive']:.2f}, a step's time **{added:.2f}** (asked <= 1.10; the head is "
        f"{share:.0%} of the matrices)."
    )


if __name__ == "__main__":
    main()
