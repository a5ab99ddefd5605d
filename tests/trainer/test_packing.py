"""Rows by forward: every row once, never more tokens than the budget, and as many forwards as it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.errors import ConfigError
from alpkit.trainer.packing import pack, pack_padded

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(100, 400))
def test_every_row_once_and_no_forward_above_the_budget(rows, budget):
    prompts, responses = zip(*rows, strict=True)
    bins = pack(prompts, responses, budget)
    assert sorted(row for chosen in bins for row in chosen) == list(range(len(rows)))
    sizes = [sum(prompts[i] + responses[i] for i in chosen) for chosen in bins]
    assert max(sizes) <= budget
    # First fit: no two forwards that one could hold, so all but one are more than half full.
    assert sum(size <= budget / 2 for size in sizes) <= 1
    assert all(chosen == sorted(chosen) for chosen in bins)
    assert bins == sorted(bins)


@given(LENGTHS, st.integers(100, 400))
def test_padding_counts_where_forwards_are_padded(rows, budget):
    prompts, responses = zip(*rows, strict=True)
    bins = pack_padded(prompts, responses, budget)
    assert sorted(row for chosen in bins for row in chosen) == list(range(len(rows)))
    for chosen in bins:
        width = max(prompts[i] for i in chosen) + max(responses[i] for i in chosen)
        assert width * len(chosen) <= budget


@pytest.mark.parametrize("choose", [pack, pack_padded])
def test_a_sequence_longer_than_the_budget_is_an_error_that_says_what_to_raise(choose):
    assert choose([3, 4], [5, 6], 10) == [[0], [1]]
    with pytest.raises(ConfigError, match="a sequence of 11 tokens is longer") as caught:
        choose([3, 5], [5, 6], 10)
    assert "raise it to 11" in caught.value.fix


@pytest.mark.parametrize("choose", [pack, pack_padded])
@given(rows=LENGTHS, aim=st.integers(1, 200))
def test_an_aim_lowers_the_budget_to_no_less_than_the_longest_row(choose, rows, aim):
    prompts, responses = zip(*rows, strict=True)
    longest = max(prompt + response for prompt, response in rows)
    assert choose(prompts, responses, 400, aim) == choose(
        prompts, responses, min(400, max(aim, longest))
    )
