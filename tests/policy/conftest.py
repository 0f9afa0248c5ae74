"""Tiny random models of other families than the fixtures' own, and policies on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cahl_pl.policy.bases import keeps_states
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.row_cache import STATES_ARE_KNOWN
from tools.quality import check_bases
from tools.quality.random_bases import FAMILIES, build


@pytest.fixture(scope="session")
def base_of(tmp_path_factory, family_config):
    """The folder of a family's tiny model, by its name in `FAMILIES`; `values` replace some of its configuration."""
    made = {}

    def folder_of(name: str, **values):
        key = (name, repr(values))
        if key not in made:
            config = family_config(name, **values)  # skips where transformers does not know the family
            if keeps_states(config) and not STATES_ARE_KNOWN:
                pytest.skip("this version of transformers keeps states in another way, and such bases are refused")
            family = FAMILIES[name]
            made[key] = tmp_path_factory.mktemp("base")
            build(replace(family, values=family.values | values), made[key])
        return made[key]

    return folder_of


@pytest.fixture
def on_base(base_of):
    """Makes policies on such a model, with adapters that matter."""

    def make(name: str, values=(), **config) -> Policy:
        return check_bases.load(base_of(name, **dict(values)), **FAMILIES[name].policy | config)

    return make
