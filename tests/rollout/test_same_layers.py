"""Scores without the layers below a change are the scores with them, to the bit."""

import numpy as np
import pytest
import torch

from alpkit.policy.perturbation.sites import decoder_layers
from alpkit.rollout.hf import score
from alpkit.rollout.same_layers import SameLayers
from tests.support.tiny_models import ARCHITECTURES, tiny

SEQUENCES = [((5, 6, 7), (2, 3, 4, 9)), ((8, 9), (10, 11)), ((3,), (4, 5, 6))]


def scorer(model, batch=None):
    return lambda: np.concatenate(score(model, SEQUENCES, pad_id=0, temperature=1.0, batch=batch))


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_tensor_gives_the_same_scores_with_and_without_the_layers_below(architecture, batch):
    model = tiny(architecture)
    scores = scorer(model, batch)
    known = SameLayers(model, scores)
    assert known.usable
    assert np.array_equal(known.scores, scores())
    skipped = set()
    for value in model.parameters():
        kept = value.data.clone()
        with torch.no_grad():
            value.mul_(1.5).add_(0.1)
        count = known.before([value], head_only=False)
        skipped.add(count)
        with known.skipping(count):
            short = scores()
        assert np.array_equal(short, scores(), equal_nan=True)
        value.data.copy_(kept)
    assert skipped == set(range(len(decoder_layers(model))))
    assert np.array_equal(known.scores, scores())  # nothing is left on the layers


def test_layers_below_are_not_run_again():
    model = tiny("llama")
    scores = scorer(model)
    known = SameLayers(model, scores)
    runs = [0] * 3
    for number, layer in enumerate(decoder_layers(model)):

        def count(module, args, number=number):
            runs[number] += 1

        layer.mlp.register_forward_pre_hook(count)
    last = next(decoder_layers(model)[2].parameters())
    with known.skipping(known.before([last], head_only=False)):
        scores()
    assert runs == [0, 0, 1]
    with known.skipping(known.before([last], head_only=True)):
        scores()
    assert runs == [0, 0, 1]


def test_a_model_whose_layers_share_more_than_their_output_is_scored_whole():
    model = tiny("llama")
    first, second = decoder_layers(model)[:2]
    shared = {}
    first.mlp.register_forward_pre_hook(lambda module, args: shared.update(x=args[0].mean()))
    second.mlp.register_forward_hook(lambda module, args, output: output + shared.pop("x", 0))
    known = SameLayers(model, scorer(model))
    assert not known.usable
    assert known.before(list(second.parameters()), head_only=False) == 0
