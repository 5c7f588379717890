"""The figures at ``/metrics``, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.serving.http.batching import Computed

# seconds: from a small network alone to a long queue
SECONDS = (*(base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5)), 10.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of a server; every one has the label ``model``."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, what: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(
                f"prunedeploy_{name}", what, ("model",), registry=registry, buckets=buckets
            )

        self.requests = Counter(
            "prunedeploy_requests",
            "Answers, by HTTP status.",
            ("model", "status"),
            registry=registry,
        )
        self.pending = Gauge(
            "prunedeploy_pending_requests",
            "Requests that wait for an answer.",
            ("model",),
            registry=registry,
        )
        self.request_seconds = histogram(
            "request_seconds", "From the head of a request to its answer.", SECONDS
        )
        self.queue_seconds = histogram(
            "queue_seconds", "How long requests waited for a session.", SECONDS
        )
        self.compute_seconds = histogram(
            "compute_seconds", "How long runs of the engine took.", SECONDS
        )
        self.batch_samples = histogram("batch_samples", "Samples of a run.", SAMPLES)

    def computed(self, model: str, run: Computed) -> None:
        """Count one run of an engine."""
        self.compute_seconds.labels(model).observe(run.seconds)
        self.batch_samples.labels(model).observe(run.samples)
        waited = self.queue_seconds.labels(model)
        for seconds in run.waited:
            waited.observe(seconds)

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(model, str(status)).inc()
        self.request_seconds.labels(model).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """All figures, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
