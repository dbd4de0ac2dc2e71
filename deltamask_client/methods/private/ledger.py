"""What a client has shown of its images so far: kept on its disk, and written before anything leaves it.

The same question has the same answer, which shows nothing new: the newest answers are kept, for servers that ask again
since a reply was lost or a round had too few. Another question under the name of an answered one, and any that would
go beyond what the run or this client allows, has none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import PrivacyError
from common.files import replacing
from common.methods.private.accountant import epsilon_of

__all__ = ["Ledger"]

_SLACK = 1 + 1e-9
"""Of sums of floats."""


class Ledger:
    """The account of one client, over all runs.

    Parameters
    ----------
    folder, client
        The node's folder for it; client id, the same after a restart.
    run_id
        Flower's number of the run.
    allowed
        What all answers of this run may add up to, in rho.
    delta
        At which epsilon is said.
    limit
        The largest epsilon of all runs together; None: whatever the runs ask for.
    """

    def __init__(
        self, folder: Path, client: int, run_id: int, allowed: float, delta: float, limit: float | None = None
    ) -> None:
        self._path = folder / f"privacy-client-{client}.json"
        self._run, self._allowed, self._delta, self._limit = str(run_id), allowed, delta, limit

    def answer(self, name: str, question: bytes, rho: float, make: Callable[[], bytes]) -> bytes:
        """Answer a question, or repeat what was answered.

        Parameters
        ----------
        name, question
            ``head`` or the number of a round; a digest of all that the answer depends on beside images and noise.
        rho
            What the answer costs.
        make
            Makes it.

        Raises
        ------
        PrivacyError
            If it would show more than is allowed, or the account cannot be read or kept.
        """
        account = self._load()
        run = account.setdefault(self._run, {})
        before = run.get(name)
        if before is not None:
            if before["question"] == question.hex() and "answer" in before:
                return base64.b64decode(before["answer"])
            raise PrivacyError(f"this client has answered {_what(name)} of this run once already, for another model")
        if self._sum(run) + rho > self._allowed * _SLACK:
            raise PrivacyError(f"the privacy budget of this run is spent; {_what(name)} has no answer")
        epsilon = epsilon_of(sum(map(self._sum, account.values())) + rho, self._delta)
        if self._limit is not None and epsilon > self._limit * _SLACK:
            raise PrivacyError(
                f"node config: privacy-limit = {self._limit:g}: with {_what(name)} this client would have shown "
                f"epsilon = {epsilon:.3g} over all runs; {self._path} has the account"
            )
        data = make()
        for other in run.values():
            other.pop("answer", None)
        run[name] = {"rho": rho, "question": question.hex(), "answer": base64.b64encode(data).decode()}
        self._keep(account)
        return data

    def epsilon(self) -> tuple[float, float]:
        """Of this run, and of all runs so far."""
        account = self._load()
        spent = self._sum(account.get(self._run, {})), sum(map(self._sum, account.values()))
        return epsilon_of(spent[0], self._delta), epsilon_of(spent[1], self._delta)

    @staticmethod
    def _sum(run: dict[str, Any]) -> float:
        return float(sum(answered["rho"] for answered in run.values()))

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            account: dict[str, dict[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
            total = sum(map(self._sum, account.values()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PrivacyError(f"{self._path}: what this client has shown so far cannot be read: {error}") from error
        if not total >= 0:
            raise PrivacyError(f"{self._path}: what this client has shown so far is {total}")
        return account

    def _keep(self, account: dict[str, dict[str, Any]]) -> None:
        try:
            with replacing(self._path, fsync=True) as temporary:
                temporary.write_text(json.dumps(account), encoding="utf-8")
        except OSError as error:
            raise PrivacyError(f"{self._path}: what this client shows cannot be written down: {error}") from error


def _what(name: str) -> str:
    return "the head round" if name == "head" else f"round {name}"
