# SPDX-License-Identifier: Apache-2.0
"""Soups in a recipe: how they are read, and what is refused before any work."""

from typing import Any

import pytest

from fusetune.errors import FusetuneError
from fusetune.recipe import Recipe, as_mapping, load_recipe

A: dict[str, Any] = {"name": "a", "source": "mini", "model": "resnet"}
B: dict[str, Any] = {**A, "name": "b", "finetune": {"epochs": 2}}
SOUP: dict[str, Any] = {"name": "soup", "soup": "greedy_soup", "of": ["a", "b"]}


def loaded(*members: Any) -> Recipe:
    return load_recipe(
        {"task": "image_classification", "data": {"source": "digits"}, "members": list(members)}
    )


def refused(match: str, *members: Any) -> None:
    with pytest.raises(FusetuneError, match=match) as caught:
        loaded(*members)
    assert caught.value.exit_code == 2


def test_a_soup_is_one_more_member() -> None:
    a, b, soup = loaded(A, B, SOUP).members
    assert soup.soup is not None
    assert (soup.name, soup.soup.method.name, soup.soup.of) == ("soup", "greedy_soup", ("a", "b"))
    assert soup.source == a.source
    assert soup.finetune is None
    assert [entry.in_soup for entry in (a, b, soup)] == [True, True, False]
    assert [entry.in_soup for entry in loaded(A, B).members] == [False, False]


def test_its_keys_stand_beside_it_and_its_name_follows_from_its_method() -> None:
    ties = {"soup": "ties", "of": ["a", "b"], "density": 0.5, "scalings": [1.0]}
    one, two = loaded(A, B, ties, ties).members[2:]
    assert one.soup is not None
    assert one.soup.method.density == 0.5  # type: ignore[attr-defined]
    assert (one.name, two.name) == ("ties", "ties-2")


def test_the_resolved_recipe_says_the_same() -> None:
    recipe = loaded(A, B, {**SOUP, "soup": "wise_ft", "coefficients": [0.5]}, {**SOUP, "name": "s"})
    again = load_recipe(as_mapping(recipe))
    assert again.members == recipe.members
    assert as_mapping(again) == as_mapping(recipe)


def test_one_member_is_enough_for_wise_ft_alone() -> None:
    loaded(A, {"soup": "wise_ft", "of": ["a"]})
    refused("is a greedy_soup of 1 member; expected at least 2", A, {**SOUP, "of": ["a"]})
    refused("is a wise_ft of 0 members; expected at least 1", A, {"soup": "wise_ft", "of": []})


def test_what_is_refused_is_named_with_its_place() -> None:
    refused(r"no member is called 'bb' \(members\[2\].of\)", A, B, {**SOUP, "of": ["a", "bb"]})
    refused(r"members\[1\].of names 'b', which stands below it", A, SOUP, B)
    refused("of names 'a' twice", A, B, {**SOUP, "of": ["a", "a"]})
    refused(r"members\[2\].of is None; expected a list", A, B, {"soup": "uniform_soup"})
    refused("of is 'a'", A, B, {**SOUP, "of": "a"})
    refused("no soup is called 'greedy'", A, B, {**SOUP, "soup": "greedy"})
    refused("no key is called 'densty'", A, B, {**SOUP, "soup": "ties", "densty": 0.1})
    refused("no key is called 'finetune'", A, B, {**SOUP, "finetune": {"epochs": 1}})
    refused("density is 3", A, B, {**SOUP, "soup": "ties", "density": 3})
    refused("which is taken", A, B, {**SOUP, "name": "a"})


def test_members_whose_weights_cannot_be_averaged_are_refused() -> None:
    vgg = {**B, "model": "vgg"}
    refused("'a' and 'b', which differ in `model`", A, vgg, SOUP)
    other = {"name": "b", "source": "torchvision", "model": "resnet18"}
    refused("which differ in `source`", A, other, SOUP)
    refused("which differ in `preprocess`", A, {**B, "preprocess": {"size": 24}}, SOUP)
    refused("'b', which is not fine-tuned", A, {**B, "finetune": "none"}, SOUP)
    refused(
        "'soup', which is a soup itself", A, B, SOUP, {**SOUP, "name": "more", "of": ["a", "soup"]}
    )


@pytest.mark.parametrize("method", ["wise_ft", "model_stock", "task_arithmetic", "ties"])
def test_methods_that_measure_from_the_start_need_one(method: str) -> None:
    elsewhere = {**B, "weights": "none"}
    refused(
        f"is a {method} of 'a' and 'b', which start from", A, elsewhere, {**SOUP, "soup": method}
    )
    loaded(A, elsewhere, SOUP)  # a plain average may be tried: the run says what is not known
    loaded(A, B, {**SOUP, "soup": method})
