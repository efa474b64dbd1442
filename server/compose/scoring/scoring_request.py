"""What all texts of a request to score texts, or to fit weights, have in common."""

from __future__ import annotations

from dataclasses import dataclass

from server import metrics
from server.auth.keys import Key
from server.compose.access import Pins
from server.compose.resolution import Resolution
from server.request_record import RequestRecord, ScoringKind


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """One request.

    pins: the adapter generations that all of its texts, in all passes, are scored with.
    record: where its log line and its trace find what it computed.
    """

    kind: ScoringKind
    key: Key
    pins: Pins
    record: RequestRecord

    @property
    def adapters(self) -> dict[str, str]:
        """The digests of the adapters that scored texts, by alias."""
        generations = sorted(self.pins.generations.items())
        return {alias: generation.digest for alias, generation in generations}

    def note_resolution(self, resolution: Resolution) -> None:
        """Record what computes a text, if the request has not said what all of its texts get."""
        record, settled = self.record, resolution
        if not record.composed:
            record.note_resolution(settled.composition, settled.recipe, settled.plan, ())
        record.adapters = tuple(self.adapters)
        record.rows = max(record.rows, settled.rows)

    def count_text(self, prompt_tokens: int, scored_tokens: int) -> None:
        """Count a text that the engine has scored."""
        self.record.texts += 1
        self.record.scored_tokens += scored_tokens
        self.record.prompt_tokens = (self.record.prompt_tokens or 0) + prompt_tokens
        metrics.count_text(self.kind, scored_tokens)
