"""A run judges its own masks."""

import pytest
import torch

from train.verdict import Verdict

HALF = torch.cat([torch.ones(2, 4, 4), torch.zeros(2, 4, 4)], dim=2)


def fault(masks, *, loss=0.5):
    return Verdict.of(masks, loss=loss, empty_cost=1.0, full_cost=1.25).fault()


@pytest.mark.parametrize(
    ("masks", "word", "number"),
    [
        (torch.full((2, 4, 4), 0.01), "empty", "0.010"),
        (torch.full((2, 4, 4), 0.95), "full", "0.950"),
        (torch.full((2, 4, 4), 0.5), "grey", "100%"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_number_and_a_cure(masks, word, number):
    said = fault(masks)
    assert word in said
    assert number in said
    assert "cure" in said


def test_a_mask_that_shows_a_half_and_hides_the_other_is_fine():
    assert fault(HALF) is None


def test_half_of_the_pixels_may_be_grey_and_no_more():
    grey = HALF.clone()
    grey[:, :, :4] = 0.5
    assert fault(grey) is None
    grey[0, 0, 4] = 0.5
    assert "grey" in fault(grey)


@pytest.mark.parametrize(("empty", "full", "word"), [(0.4, 1.0, "an empty"), (1.0, 0.4, "a full")])
def test_a_mask_that_costs_more_than_a_trivial_one_is_worth_nothing(empty, full, word):
    said = Verdict.of(HALF, loss=0.5, empty_cost=empty, full_cost=full).fault()
    assert word in said
    assert "0.500" in said
    assert "0.400" in said
