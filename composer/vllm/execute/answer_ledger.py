"""What routers did in each answer, kept until the front end asks for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

MAX_COMPLETE_REPORTS = 512
"""How many reports of complete answers wait to be taken; the oldest is dropped first."""

Report: TypeAlias = dict[str, Any]
"""`weights`, `[K]`, the mean weight of every member over the answer; `tokens`, the weights `[K]` or
the adapter of every token, where that was asked for."""


class Account(Protocol):
    """One answer, complete or up to now."""

    def report(self, tokens: int | None) -> Report:
        """Return what routers did in the first `tokens` tokens; None: in all of them."""


_A = TypeVar("_A")
_Reported = TypeVar("_Reported", bound=Account)


class AnswerLedger(Generic[_A]):
    """Accounts of answers by report id; one request with `n` answers has `n` accounts."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, Callable[[], _A]]] = {}  # by request id
        self._complete: OrderedDict[str, list[tuple[str, _A]]] = OrderedDict()

    def open(self, request_id: str, report_id: str, account: Callable[[], _A]) -> None:
        """Begin an answer. `account` returns how it stands at the time of the call."""
        self._open.setdefault(request_id, (report_id, account))

    def close(self, request_id: str) -> None:
        """Keep the account of an answer whose request has left the engine."""
        if (entry := self._open.pop(request_id, None)) is None:
            return
        report_id, account = entry
        self._complete.setdefault(report_id, []).append((request_id, account()))
        while len(self._complete) > MAX_COMPLETE_REPORTS:
            self._complete.popitem(last=False)

    def peek(self, report_id: str) -> list[tuple[str, _A]]:
        """Return the accounts of all answers to one request, by request id, and keep them."""
        accounts = list(self._complete.get(report_id, ()))
        for request_id, (report, account) in self._open.items():
            if report == report_id:
                accounts.append((request_id, account()))
        return accounts

    def drop(self, report_id: str) -> None:
        """Forget the accounts of all answers to one request."""
        self._complete.pop(report_id, None)
        for request_id in [r for r, (report, _) in self._open.items() if report == report_id]:
            del self._open[request_id]

    def take(
        self: AnswerLedger[_Reported], report_id: str, tokens: int | None = None
    ) -> list[Report]:
        """Return and forget the reports of all answers to one request, in the order of their names.

        Args:
            report_id: as the request's plan has it.
            tokens: length of the answer, if it is the only one. Under async scheduling the engine
                may be one token ahead of it.
        """
        accounts = sorted(self.peek(report_id), key=lambda entry: entry[0])
        self.drop(report_id)
        return [{"name": name, **account.report(tokens)} for name, account in accounts]

    @property
    def open_requests(self) -> list[str]:
        return list(self._open)
