"""All families, and the one that a config.json is of. A new family is its file and its line here."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from mergedistill_jax.models.families import albert, bert, distilbert, electra, modernbert, roberta
from mergedistill_jax.models.families.family import Family

_ALL = (
    albert.FAMILY,
    bert.FAMILY,
    distilbert.FAMILY,
    electra.FAMILY,
    modernbert.FAMILY,
    roberta.FAMILY,
)

FAMILIES: Mapping[str, Family] = {model_type: family for family in _ALL for model_type in family.model_types}
"""By config.json's model_type."""


def family_of(stored: Mapping[str, Any], path: epath.Path) -> Family:
    """The family of the model whose config.json, at `path`, holds `stored`.

    Raises:
        ValueError: there is none. A model that brings its own code (auto_map) is one of these: code is never run.
    """
    found = stored.get("model_type")
    if isinstance(found, str) and found in FAMILIES:
        return FAMILIES[found]
    code = " with code of its own (auto_map), which is never run" if "auto_map" in stored else ""
    raise ValueError(f"{path}: model_type: found {found!r}{code}, expected one of {', '.join(sorted(FAMILIES))}")
