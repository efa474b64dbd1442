"""The gangs of a scheduler, by leader and by row, and where they are in their lives."""

from __future__ import annotations

from vllm.v1.request import Request, RequestStatus

from composer.vllm.schedule.gang import Gang, Slot, slot_of


class GangTable:
    """All gangs that are not gone."""

    def __init__(self) -> None:
        self.by_leader: dict[str, Gang] = {}  # request id of the leader -> gang
        self.by_row: dict[str, Gang] = {}  # request id of any row -> gang
        self.joining: list[Gang] = []  # admitted, not released yet
        self.ended: list[Gang] = []  # the leader is gone, its companions are not

    def add(self, gang: Gang) -> None:
        self.by_leader[gang.leader.request_id] = gang
        for row in gang.rows:
            self.by_row[row.request_id] = gang

    def of(self, row: Request) -> Gang | None:
        """Return the gang of a row; None for a plain request."""
        return self.by_row.get(row.request_id)

    def note_end(self, request: Request) -> None:
        """Note that a request of any kind has ended; the companions of a leader are ended next."""
        if (gang := self.by_leader.pop(request.request_id, None)) is not None:
            self.ended.append(gang)
            self.leave_barrier(gang)

    def leave_barrier(self, gang: Gang) -> None:
        """The gang waits no longer for its rows: it was preempted or has ended."""
        if gang in self.joining:
            self.joining.remove(gang)

    def late_scored(self) -> list[Gang]:
        """Return the released gangs that are scored and have rows that join only now."""
        return [g for g in self.joining if g.released and g.scored and g.unjoined()]

    def remove(self, gang: Gang) -> None:
        """Forget a gang all of whose rows have ended."""
        for row in gang.rows:
            del self.by_row[row.request_id]

    def is_companion(self, request_id: str) -> bool:
        gang = self.by_row.get(request_id)
        return gang is not None and gang.leader.request_id != request_id

    def is_admitted(self, request: Request) -> bool:
        """Return whether a request, or the gang of it, was admitted: what it needs is in use."""
        gang = self.of(request)
        return request.status is RequestStatus.RUNNING or (gang is not None and gang.admitted)

    def models_of(self, row: Request) -> frozenset[str | None]:
        """Return the models whose KV caches a row and, if it has one, its gang use."""
        gang = self.of(row)
        return frozenset({None}) if gang is None else gang.models

    def adapters_of(self, row: Request) -> frozenset[Slot]:
        """Return the adapter slots that a row and, if it has one, its gang need."""
        if (gang := self.of(row)) is not None:
            return gang.adapters
        slot = slot_of(row)
        return frozenset() if slot is None else frozenset({slot})
