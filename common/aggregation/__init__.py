"""Aggregation rules, by the run key ``aggregation``. A new rule is a file of its own and a line here."""

from __future__ import annotations

from typing import Any

from common.aggregation.base import Rule, fold_payload, observe
from common.aggregation.beta import BetaRule
from common.aggregation.flips import FlipsRule
from common.errors import WrongFormat

__all__ = ["RULES", "Rule", "fold_payload", "observe", "rule_of"]

RULES: dict[str, type[Rule[Any]]] = {rule.name: rule for rule in (FlipsRule, BetaRule)}


def rule_of(number: int) -> type[Rule[Any]]:
    """The rule that a relayed round names; raises WrongFormat."""
    for rule in RULES.values():
        if rule.number == number:
            return rule
    raise WrongFormat(f"aggregation rule {number}: there is no such rule")
