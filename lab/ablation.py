"""Rules of a parametrization that can be switched off by name, alone or together: `hidden.lr`, `eps`, `depth.branch`.

A rule that is off has exponent 0: the leaf keeps what it has at the base shape.
"""

from collections.abc import Iterator

from lab.check import nearest, require
from lab.role import Role

QUANTITIES = ("init", "forward", "lr", "eps", "decay")
SINGLE = ("attention", "depth.branch", "depth.lr", "depth.eps")


def names() -> Iterator[str]:
    """Every rule: a quantity of one role, a quantity of all roles, or one that belongs to no role."""
    yield from (f"{role}.{quantity}" for role in Role for quantity in QUANTITIES)
    yield from QUANTITIES
    yield from SINGLE


def parse(text: str | None) -> frozenset[str]:
    """The rules of `a+b`, none for None.

    Raises:
        InputError: an unknown rule; the nearest one is named.
    """
    rules = frozenset(part.strip() for part in text.split("+")) if text else frozenset[str]()
    known = tuple(names())
    for rule in sorted(rules):
        require(
            rule in known,
            f"parametrization.ablate={text}: {rule} is not a rule{nearest(rule, known)}; rules are ROLE.QUANTITY with "
            f"roles {', '.join(Role)} and quantities {', '.join(QUANTITIES)}, a quantity alone, or {', '.join(SINGLE)}",
        )
    return rules


def kept(rules: frozenset[str], role: Role, quantity: str) -> bool:
    """Whether a role's rule for a quantity is on."""
    return quantity not in rules and f"{role}.{quantity}" not in rules
