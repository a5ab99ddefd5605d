"""Offering a near word, by one rule everywhere."""

import pytest

from alpkit.errors import did_you_mean

ARMS = ["seq-alp", "grpo", "token-alp"]


@pytest.mark.parametrize(
    ("word", "label", "told"),
    [
        ("gropo", "", "did you mean 'grpo'?"),
        ("seq-apl", "arms", "did you mean 'seq-alp'?  arms: grpo, seq-alp, token-alp"),
        ("something else", "", ""),
        ("something else", "arms", "arms: grpo, seq-alp, token-alp"),
        (None, "", ""),
        (["grpo"], "", "did you mean 'grpo'?"),
    ],
)
def test_a_near_word_is_offered_and_all_are_listed(word, label, told):
    assert did_you_mean(word, ARMS, label) == told


def test_without_options_there_is_nothing_to_say():
    assert did_you_mean("grpo", [], "arms") == ""
