"""What the services count about themselves: batches, messages, rows relayed, mails."""

import urllib.request
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

BATCHES = "popfax_batches_total"
_ARRIVED = "popfax_batch_messages_sum"
_HANDLED = "popfax_messages_handled_total"
_RELAYED = "popfax_messages_relayed_total"
_ROUNDS = "popfax_relay_round_rows_count"
MAILS_SENT = "popfax_mails_sent_total"


@dataclass(frozen=True, slots=True)
class Counters:
    """A service's counters at one moment, or what was added to them between two."""

    values: dict[str, float]

    def since(self, before: "Counters") -> "Counters":
        """Return what was added."""
        return Counters({name: value - before.values.get(name, 0.0) for name, value in self.values.items()})

    def __add__(self, other: "Counters") -> "Counters":
        names = self.values.keys() | other.values.keys()
        return Counters({name: self.values.get(name, 0.0) + other.values.get(name, 0.0) for name in names})

    def __getitem__(self, name: str) -> float:
        return self.values.get(name, 0.0)

    def per_saga(self, sagas: int) -> dict[str, Any]:
        """Return what one saga costs in messages, and how large batches and the relay's rounds were."""
        return {
            "handled_per_saga": round(self[_HANDLED] / sagas, 2),
            "relayed_per_saga": round(self[_RELAYED] / sagas, 2),
            "messages_per_batch": round(self[_ARRIVED] / max(self[BATCHES], 1), 1),
            "rows_per_relay_round": round(self[_RELAYED] / max(self[_ROUNDS], 1), 1),
            "batches_per_saga": round(self[BATCHES] / sagas, 4),
        }


def parsed(text: str) -> Counters:
    """Return the counters in what /metrics answers, each summed over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return Counters(found)


def read(url: str) -> Counters:
    """Ask a service for its counters."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())
