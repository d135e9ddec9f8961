"""What the server counts, for Prometheus."""

import prometheus_client as prometheus

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST


class Measures:
    """The metrics of one server.

    Attributes:
        registry: Prometheus's registry of them.
        requests: Number of requests, by model, action and HTTP status.
        seconds: How long requests took, by model and action.
        batch_size: Number of images in a batch, by model.
        waiting: Number of images that wait, by model.
        version: Number of the version that is served, by model.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        of_model, of_action = ["model"], ["model", "action"]
        self.requests = prometheus.Counter(
            "keras_ft_requests",
            "Requests",
            [*of_action, "status"],
            registry=self.registry,
        )
        self.seconds = prometheus.Histogram(
            "keras_ft_request_seconds",
            "Seconds from request to answer",
            of_action,
            registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.batch_size = prometheus.Histogram(
            "keras_ft_batch_images",
            "Images in a batch",
            of_model,
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self.waiting = prometheus.Gauge(
            "keras_ft_waiting_images",
            "Images that wait",
            of_model,
            registry=self.registry,
        )
        self.version = prometheus.Gauge(
            "keras_ft_model_version",
            "Version that is served",
            of_model,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return prometheus.generate_latest(self.registry)
