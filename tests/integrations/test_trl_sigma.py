"""The TRL mixin's care for log sigma, over a stand-in for TRL's trainer: no TRL, no processes, seconds.

The stand-in does what transformers' Trainer does, and no more: it zeroes, clips and saves the model's own
parameters. In TRL itself, in two processes: `tests/integrations/test_oracle.py`.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from alpkit.config import ObjectiveConfig, PerturbationConfig
from alpkit.errors import ConfigError, TrackingError
from alpkit.integrations.trl import SIGMA_FILE, ObjectiveLoss
from tests.support.tiny_models import tiny_qwen2

SIGMA = {"init": 0.1, "lr": 0.05, "weight_decay": 0.5}


class PlainTrainer:
    """Two micro-batches an optimizer step, SGD, a clip at 0.01."""

    is_fsdp_enabled = is_deepspeed_enabled = False
    current_gradient_accumulation_steps = 2
    optimizer = lr_scheduler = None

    def __init__(self, folder, *, rank=0, ranks=1, **settings):
        self.model = tiny_qwen2()
        self.folder = folder
        self.args = SimpleNamespace(seed=5, should_save=True, steps_per_generation=2, **settings)
        self.state = SimpleNamespace(global_step=0)
        self._metrics = defaultdict(lambda: defaultdict(list))
        self.accelerator = SimpleNamespace(
            unwrap_model=lambda model: model,
            process_index=rank,
            num_processes=ranks,
            sync_gradients=False,
            device=torch.device("cpu"),
        )

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        return self.optimizer

    def training_step(self, model, inputs, count=None):
        loss = self._compute_loss(model, inputs)
        loss.backward()
        return loss.detach()

    def _clip_grad_norm(self, model):
        return torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    def _get_grad_norm(self, model, grad_norm=None):
        return grad_norm

    def _get_per_token_logps_and_entropies(self, model, tokens, attention, keep):
        logits = model(tokens, attention_mask=attention).logits.log_softmax(-1)
        return logits[:, -keep - 1 : -1].gather(2, tokens[:, -keep:, None])[..., 0], None, None

    def _get_output_dir(self, trial=None):
        return self.folder

    def _save_checkpoint(self, model, trial):
        (self.folder / f"checkpoint-{self.state.global_step}").mkdir()

    def _load_optimizer_and_scheduler(self, checkpoint):
        pass

    def step(self, seed=0):
        """One optimizer step as the Trainer takes it; returns the norm before the clip."""
        for micro in range(2):
            self.accelerator.sync_gradients = micro == 1
            self.training_step(self.model, inputs(seed + micro))
        norm = self._get_grad_norm(self.model, self._clip_grad_norm(self.model))
        clipped = [p.grad.clone() for p in [*self.model.parameters(), *self._sigma()]]
        self.optimizer.step()
        self.model.zero_grad()
        self.state.global_step += 1
        return norm, clipped


class Trainer(ObjectiveLoss, PlainTrainer):
    pass


def inputs(seed):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 20, (2, 7), generator=draw)
    return {
        "prompt_ids": ids[:, :3],
        "prompt_mask": torch.ones(2, 3, dtype=torch.long),
        "completion_ids": ids[:, 3:],
        "completion_mask": torch.ones(2, 4, dtype=torch.long),
        "advantages": torch.randn(2, generator=draw),
    }


def trainer(folder, *, settings=None, **changes):
    made = Trainer(
        folder,
        objective=ObjectiveConfig(surrogate={"epsilon_low": 0.9, "epsilon_high": 9.0}),
        perturbation=PerturbationConfig(**{"sigma": SIGMA, **changes}),
        **(settings or {}),
    )
    made.create_optimizer()
    made.model.train()
    return made


def test_sigma_is_clipped_with_the_weights_under_one_norm(tmp_path):
    made = trainer(tmp_path)
    norm, clipped = made.step()
    assert norm > 0.01
    total = torch.stack([grad.norm() for grad in clipped]).norm()
    torch.testing.assert_close(total, torch.tensor(0.01), rtol=1e-3, atol=0)
    assert clipped[-1].abs().sum() > 0  # sigma's own, last of the list


def test_sigmas_gradient_does_not_outlive_its_step(tmp_path):
    """The Trainer zeroes the model only: a leftover would be added to the next step's gradient."""
    first, second = trainer(tmp_path), trainer(tmp_path)
    first.step(seed=0)
    second.model.load_state_dict(first.model.state_dict())
    with torch.no_grad():
        second.perturbation.log_sigma.copy_(first.perturbation.log_sigma)
    second.state.global_step = 1
    assert torch.equal(first.step(seed=10)[1][-1], second.step(seed=10)[1][-1])


def test_every_row_of_an_update_gets_noise_of_its_own(tmp_path):
    """Two ranks of two micro-batches: one row, given eight times, and eight different log-probs."""
    found = []
    for rank in range(2):
        made = trainer(tmp_path, settings={"rank": rank, "ranks": 2})
        for made._micro_batch in range(2):
            same = {
                name: value[:1].expand(2, -1) for name, value in inputs(0).items() if value.ndim > 1
            }
            with made._noise(made.model, same, 0), torch.no_grad():
                found += [tuple(row) for row in made._logps(made.model, same).tolist()]
    assert len(found) == len(set(found)) == 8


def test_noise_follows_the_step_and_not_the_process(tmp_path):
    """What a resumed run draws is what the first one would have drawn: the key holds no counter of calls."""
    whole, resumed = trainer(tmp_path), trainer(tmp_path)
    whole.step()
    resumed.model.load_state_dict(whole.model.state_dict())
    resumed.state.global_step = 1
    with torch.no_grad():
        resumed.perturbation.log_sigma.copy_(whole.perturbation.log_sigma)
    assert torch.equal(
        whole.training_step(whole.model, inputs(3)), resumed.training_step(resumed.model, inputs(3))
    )


def test_sigma_is_in_the_checkpoint_and_comes_back(tmp_path):
    made, fresh = trainer(tmp_path), trainer(tmp_path)
    made.step()
    made._save_checkpoint(made.model, None)
    fresh._load_optimizer_and_scheduler(str(tmp_path / "checkpoint-1"))
    assert torch.equal(fresh.perturbation.log_sigma, made.perturbation.log_sigma)
    (tmp_path / "checkpoint-1" / SIGMA_FILE).unlink()
    with pytest.raises(TrackingError, match="holds no log sigma"):
        fresh._load_optimizer_and_scheduler(str(tmp_path / "checkpoint-1"))


def test_a_schedule_is_followed_and_draws_are_averaged(tmp_path):
    made = trainer(tmp_path, schedule={"warmup": 4}, draws=2)
    made.step()
    assert made._metrics["train"]["sigma/mean"][0] == pytest.approx(0.1 / 4, rel=1e-5)
    batch = inputs(3)
    old = made._logps(made.model, batch).detach()
    each = [made._loss(made.model, batch, old, draw).loss for draw in range(2)]
    assert each[0] != each[1]
    torch.testing.assert_close(made._compute_loss(made.model, batch), (each[0] + each[1]) / 2)


def test_evaluation_has_no_noise(tmp_path):
    made = trainer(tmp_path)
    made.model.eval()
    with torch.no_grad():
        clean = made._logps(made.model, inputs(0))
        with made._noise(made.model, inputs(0), 0):
            assert torch.equal(made._logps(made.model, inputs(0)), clean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"beta": 0.1}}, "beta: 0.1 would never act"),
        ({"site": "logits"}, "logits would never act"),
    ],
)
def test_what_would_never_act_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **changes)


@pytest.mark.parametrize(("name", "value"), [("is_fsdp_enabled", True), ("lr_scheduler", object())])
def test_a_learned_sigma_that_would_be_skipped_is_refused(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(PlainTrainer, name, value)
    with pytest.raises(ConfigError, match=r"learned sigma|log sigma's group"):
        trainer(tmp_path)
    trainer(tmp_path, sigma={"learnable": False})
