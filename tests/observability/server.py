"""A real Prometheus that scrapes the local product, evaluates rules, and says which alerts fire."""

import json
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK, Port, answers
from deploy.local.process import Child
from deploy.observability.rules import as_yaml
from tests.observability.programs import find_or_unpack

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fires or is pending."""

    name: str
    state: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Prometheus:
    """A Prometheus whose configuration, data and log are in one directory. Use it as a context manager."""

    def __init__(
        self, directory: Path, targets: Mapping[str, Sequence[str]], rules: Mapping[str, Any], interval: str = "500ms"
    ) -> None:
        """`targets` are jobs and where their processes answer, as host:port; `rules` is a rule file.

        `interval` is how often targets are scraped and rules evaluated.
        """
        self._directory = directory
        self._targets = targets
        self._rules = rules
        self._interval = interval
        self._port = Port("PROMETHEUS_PORT")
        self._child = Child("prometheus", directory)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression selects now. Raises ValueError if Prometheus refuses it."""
        found = self._get("query", query=expression)["result"]
        return list(found)

    def alerts(self) -> list[Firing]:
        """Return the alerts that fire or are pending now."""
        return [
            Firing(each["labels"]["alertname"], each["state"], each["labels"], each["annotations"])
            for each in self._get("alerts")["alerts"]
        ]

    def __enter__(self) -> Self:
        program = find_or_unpack("prometheus")
        private_directory(self._directory)
        (self._directory / "rules.yaml").write_text(as_yaml(self._rules))
        (self._directory / "prometheus.yaml").write_text(as_yaml(self._configuration()))
        self._port.serve(lambda port: self._start(program, port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop(signal.SIGTERM, _STOP_TIMEOUT_S)

    def _configuration(self) -> dict[str, Any]:
        return {
            "global": {"scrape_interval": self._interval, "evaluation_interval": self._interval},
            "rule_files": [str(self._directory / "rules.yaml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in self._targets.items()
            ],
        }

    def _start(self, program: str, port: int) -> None:
        command = [
            program,
            f"--config.file={self._directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]
        self._child.start(command)
        self._child.wait_ready(lambda: answers(port) and self._is_ready(port), _START_TIMEOUT_S)

    def _is_ready(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://{LOOPBACK}:{self._port.number}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from error
        return data
