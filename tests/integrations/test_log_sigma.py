"""What a foreign trainer does not do for log sigma: number rows, reduce over ranks, save, load."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from alpkit.config import PerturbationConfig
from alpkit.errors import TrackingError
from alpkit.integrations.log_sigma import (
    add_to_optimizer,
    average_gradient,
    copy_from_first_rank,
    load_log_sigma,
    sample_ids,
    save_log_sigma,
)
from alpkit.policy.perturbation import LayerwisePerturbation
from tests.support.tiny_models import tiny_qwen2


def made(layers=3, **sigma):
    return LayerwisePerturbation(tiny_qwen2(layers=layers), PerturbationConfig(sigma=sigma))


@pytest.mark.parametrize(("rows", "ranks", "micro_batches"), [(4, 1, 1), (3, 2, 4), (1, 5, 2)])
def test_sample_ids_name_every_row_of_an_update_once(rows, ranks, micro_batches):
    ids = [
        i
        for rank in range(ranks)
        for micro in range(micro_batches)
        for i in sample_ids(rows, rank=rank, ranks=ranks, micro_batch=micro)
    ]
    assert sorted(ids) == list(range(rows * ranks * micro_batches))


def test_the_optimizer_gets_sigmas_own_rate_and_decay_once():
    perturbation = made(lr=0.3, weight_decay=0.2)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.9)
    for _ in range(2):
        add_to_optimizer(perturbation, optimizer)
    (_, group) = optimizer.param_groups
    assert group["params"] == [perturbation.log_sigma]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
    before = perturbation.log_sigma.detach().clone()
    perturbation.log_sigma.grad = torch.zeros_like(before)
    optimizer.step()
    # AdamW decays by lr * weight_decay; without a gradient nothing else moves it.
    torch.testing.assert_close(perturbation.log_sigma.detach(), before * (1 - 0.3 * 0.2))


def test_a_fixed_sigma_gets_no_group():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    add_to_optimizer(made(learnable=False), optimizer)
    assert len(optimizer.param_groups) == 1


def test_log_sigma_comes_back_in_place(tmp_path):
    perturbation, other = made(), made()
    with torch.no_grad():
        perturbation.log_sigma.copy_(torch.tensor([-1.0, -2.0, -3.0]))
    save_log_sigma(perturbation, tmp_path / "sigma.safetensors")
    parameter = other.log_sigma
    load_log_sigma(other, tmp_path / "sigma.safetensors")
    assert other.log_sigma is parameter
    assert torch.equal(parameter, perturbation.log_sigma)


def test_a_missing_or_foreign_file_is_one_located_error(tmp_path):
    with pytest.raises(TrackingError, match="holds no log sigma") as missing:
        load_log_sigma(made(), tmp_path / "sigma.safetensors")
    assert "sigma.safetensors" in missing.value.where
    save_log_sigma(made(layers=2), tmp_path / "sigma.safetensors")
    with pytest.raises(TrackingError, match="2 sigmas, this perturbation 3"):
        load_log_sigma(made(), tmp_path / "sigma.safetensors")


def _rank(rank, folder, results):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    perturbation = made()
    with torch.no_grad():
        perturbation.log_sigma.fill_(-1.0 - rank)
    copy_from_first_rank(perturbation)
    if (
        rank == 0
    ):  # a rank whose rows were all masked has no gradient, and must not leave the other waiting
        perturbation.log_sigma.grad = torch.tensor([1.0, 2.0, -4.0])
    average_gradient(perturbation)
    results.put((perturbation.log_sigma.tolist(), perturbation.log_sigma.grad.tolist()))
    dist.destroy_process_group()


def test_ranks_start_from_one_sigma_and_average_its_gradient(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(i, tmp_path, results)) for i in range(2)]
    for process in ranks:
        process.start()
    both = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join(timeout=60)
    assert both == [([-1.0] * 3, [0.5, 1.0, -2.0])] * 2


def test_one_process_keeps_its_gradient():
    perturbation = made()
    perturbation.log_sigma.grad = torch.tensor([0.5, 1.0, -2.0])
    average_gradient(perturbation)
    assert perturbation.log_sigma.grad.tolist() == [0.5, 1.0, -2.0]
