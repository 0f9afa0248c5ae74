"""Reference of the KL divergence: the bare base or, after a warm start, a copy of each adapter as it was at its end.

The copy is a third and a fourth adapter on the same base, made active for the reference pass alone.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from cahl_pl.types import ROLES, Role

if TYPE_CHECKING:
    from cahl_pl.policy.policy import Policy


def name_of(role: Role) -> str:
    """Return the name of the role's copy among PEFT's adapters; no other's, such as `.planner.`, is a part of it."""
    return f"{role}_reference"


def has_reference(policy: Policy, role: Role) -> bool:
    """Return whether there is a copy of the role's adapter."""
    return name_of(role) in policy.lm.peft_config


def keep_reference(policy: Policy, role: Role) -> None:
    """Make the role's adapter, as it is now, the reference of its KL divergence."""
    name = name_of(role)
    if not has_reference(policy, role):
        policy.lm.add_adapter(name, copy.deepcopy(policy.lm.peft_config[role]))
        policy.restore_active()
    own = dict(policy.lm.named_parameters())
    with torch.no_grad():
        for other, parameter in own.items():
            if f".{name}." in other:
                parameter.copy_(own[other.replace(f".{name}.", f".{role}.")])


def drop_reference(policy: Policy, role: Role) -> None:
    """Make the bare base the reference again."""
    if has_reference(policy, role):
        policy.lm.delete_adapter(name_of(role))
        policy.restore_active()


def roles_in(names: Iterable[str]) -> list[Role]:
    """Return the roles whose copies are among these parameters of a checkpoint."""
    names = list(names)
    return [role for role in ROLES if any(f".{name_of(role)}." in name for name in names)]


@contextlib.contextmanager
def as_reference(policy: Policy, role: Role) -> Iterator[None]:
    """Switch to the reference policy of the role, whose adapter is active before and after."""
    if not has_reference(policy, role):
        with policy.without_adapters():
            yield
        return
    policy.lm.set_adapter(name_of(role))
    try:
        yield
    finally:
        policy.restore_active()
