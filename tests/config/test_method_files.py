"""The method files of experiments/methods: methods that the axes express already, by the numbers of their sources."""

from pathlib import Path

import pytest
import torch

from alpkit.config.grid.own_methods import load_method
from alpkit.objective import policy_loss

FOLDER = Path(__file__).parents[2] / "experiments" / "methods"
FILES = sorted(FOLDER.glob("*.yaml"))
MU = torch.tensor([[0.50, 0.10, 0.90, 0.02], [0.30, 0.60, 0.05, 1]], dtype=torch.float64).log()
OLD = torch.tensor([[0.52, 0.11, 0.88, 0.03], [0.28, 0.62, 0.04, 1]], dtype=torch.float64).log()
LP = torch.tensor([[0.75, 0.15, 0.55, 0.05], [0.09, 0.85, 0.03, 1]], dtype=torch.float64).log()


def loss(name):
    logp = LP.clone().requires_grad_(True)
    out = policy_loss(
        logp=logp, logp_old=OLD, logp_rollout=MU, mask=torch.tensor([[1] * 4, [1, 1, 1, 0]]),
        advantage=torch.tensor([1.0, -0.5], dtype=torch.float64),
        config=load_method(FOLDER / f"{name}.yaml").run.objective,
    )  # fmt: skip
    out.loss.backward()
    return out, logp.grad


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_its_words_and_its_name(path):
    method = load_method(path)
    assert method.name == path.stem
    assert all((method.preset.formula, method.preset.source, method.preset.avoid))


def test_luspo_sums_over_the_response():
    out, grad = loss("luspo")
    assert out.loss.item() == pytest.approx(-1.792772, abs=1e-6)
    assert grad[0].tolist() == pytest.approx([-0.598193] * 4, abs=1e-6)
    assert (grad[1] == 0).all()


def test_trm_takes_whole_responses():
    assert loss("trm")[0].keep.tolist() == [[False] * 4, [True, True, True, False]]


def test_prime_rls_band_is_of_the_bypass_ratio():
    # rho: 1.5 1.5 0.611 2.5 | 0.3 1.417 0.6, all inside [0.2, 5]: every token carries its rho.
    out, grad = loss("icepop-prime")
    assert out.keep.sum() == 7
    assert (grad[0] * -7).tolist() == pytest.approx([1.5, 1.5, 0.611111, 2.5], abs=1e-6)


def test_the_loose_geometric_band_keeps_its_denominator():
    # Geometric means 1.138 and 0.917: both out, and the loss is 0 over the same seven tokens.
    out, _ = loss("geo-rs-loose")
    assert not out.keep.any()
    assert out.loss.item() == 0
