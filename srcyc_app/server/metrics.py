"""What a monitoring system asks for, in Prometheus' text format; no patient, no user, no path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from srcyc_app.server.services import Services

_SECONDS = (0.01, 0.05, 0.25, 1, 5, 30, 120, 600)


class Metrics:
    """Counts requests, and asks the services how they are when it is asked itself.

    Attributes:
        registry: what is told.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "srcyc_requests",
            "Requests by what they do and what came of it",
            ["action", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "srcyc_request_seconds",
            "Seconds that they took",
            ["action"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def watch(self, services: Services) -> None:
        """Tell of a server's line, tasks and disks too."""
        self.registry.register(_State(services))

    def observe(self, action: str, outcome: str, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(action, outcome.replace(" ", "_")).inc()
        self._seconds.labels(action).observe(seconds)


class _State(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        services = self._services
        waiting, running = services.line.counts()
        yield GaugeMetricFamily("srcyc_inferences_waiting", "Inferences that wait", value=waiting)
        yield GaugeMetricFamily("srcyc_inferences_running", "Inferences that are computed", value=running)
        tasks = GaugeMetricFamily("srcyc_tasks_running", "Background tasks", labels=["kind"])
        tasks.add_metric(["training"], int(services.training.running() is not None))
        tasks.add_metric(["batch"], int(services.batch.running() is not None))
        yield tasks
        free = GaugeMetricFamily("srcyc_disk_free_bytes", "Free space", labels=["place"])
        for place, path in services.places().items():
            with suppress(OSError):
                free.add_metric([place], shutil.disk_usage(path).free)
        yield free
