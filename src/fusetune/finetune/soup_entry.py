# SPDX-License-Identifier: Apache-2.0
"""A soup as the recipe names it, checked before any work against the members that it is of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from fusetune.errors import RecipeError, counted, name_some, unknown_name
from fusetune.finetune.settings import FineTune
from fusetune.fuse.soup import Soup
from fusetune.members.source import Source
from fusetune.values import short

__all__ = ["SoupOf", "check_soup", "names_of"]


@dataclass(frozen=True, kw_only=True)
class SoupOf:
    """A method, and the names of the members whose weights it averages.

    Args:
        method: How.
        of: Members above it in the recipe.
    """

    method: Soup
    of: tuple[str, ...]


def names_of(
    content: object, where: str, earlier: Sequence[str], later: Sequence[str]
) -> list[str]:
    """The members that `of:` names.

    Args:
        content: As the recipe has it.
        where: Place in the recipe.
        earlier: Names of the members above.
        later: Names of the members below.

    Raises:
        RecipeError: No list of names, a name twice, or one that is not above.
    """
    if not isinstance(content, list | tuple) or not all(isinstance(n, str) for n in content):
        raise RecipeError(
            f"{where}.of is {short(content)}", "a list of members' names", "Write `of: [a, b]`."
        )
    names = [str(name) for name in content]
    for name in names:
        if name in later and name not in earlier:
            raise RecipeError(
                f"{where}.of names '{name}', which stands below it",
                "members that stand above",
                "Move the soup below its members.",
            )
        if name not in earlier:
            raise unknown_name("member", name, earlier, where=f"{where}.of", error=RecipeError)
    if len(set(names)) < len(names):
        raise RecipeError(
            f"{where}.of names {name_some(sorted({n for n in names if names.count(n) > 1}))} twice",
            "every member once",
            "Remove one.",
        )
    return names


def check_soup(
    soup: SoupOf, where: str, members: Mapping[str, tuple[Source, FineTune | None, SoupOf | None]]
) -> None:
    """Refuse members whose weights cannot be averaged by this method.

    Args:
        soup: What the recipe says.
        where: Place in the recipe.
        members: Name → where its model comes from, how it is fine-tuned, and if it is a soup itself.

    Raises:
        RecipeError: Too few members; soups or members that are not fine-tuned among them; other
            architectures; or other pretrained weights, where the method measures from them.
    """
    method = soup.method
    if len(soup.of) < method.min_members:
        raise RecipeError(
            f"{where} is a {method.name} of {counted(len(soup.of), 'member')}",
            f"at least {method.min_members}",
            "Name more in `of:`.",
        )
    first = soup.of[0]
    for name in soup.of:
        source, finetune, other_soup = members[name]
        if other_soup is not None or finetune is None:
            what = "a soup itself" if other_soup is not None else "not fine-tuned"
            raise RecipeError(
                f"{where}.of names '{name}', which is {what}",
                "members that are fine-tuned in this run",
                "Leave it out of the soup.",
            )
        if key := _differing_key(members[first][0], source):
            raise RecipeError(
                f"{where}.of names '{first}' and '{name}', which differ in `{key}`",
                "members of one architecture, which differ in `finetune` and `weights` only",
                "Leave one out of the soup; predictions of different architectures can be fused.",
            )
        if method.needs_start and source.weights != members[first][0].weights:
            raise RecipeError(
                f"{where} is a {method.name} of '{first}' and '{name}', which start from different "
                f"weights",
                "one start, which this method measures from",
                "Give both the same `weights`, or take uniform_soup or greedy_soup.",
            )


def _differing_key(one: Source, two: Source) -> str | None:
    """The first key in which two sources differ, weights apart."""
    if type(one) is not type(two):
        return "source"
    names = [spec.name for spec in fields(one) if spec.name != "weights"]
    return next((name for name in names if getattr(one, name) != getattr(two, name)), None)
