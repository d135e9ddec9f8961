"""What the server counts, for Prometheus."""

from functools import partial

import prometheus_client as prometheus


class Measures:
    """The metrics of one server, each by model."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        histogram = partial(prometheus.Histogram, registry=self.registry)
        gauge = partial(prometheus.Gauge, labelnames=["model"], registry=self.registry)
        self.requests = prometheus.Counter(
            "keras_ft_requests",
            "Requests",
            ["model", "action", "status"],  # the HTTP status
            registry=self.registry,
        )
        self.seconds = histogram(
            "keras_ft_request_seconds",
            "Seconds from request to answer",
            ["model", "action"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        sizes = [2**i for i in range(10)]
        self.batch_size = histogram(
            "keras_ft_batch_images", "Images in a batch", ["model"], buckets=sizes
        )
        self.waiting = gauge("keras_ft_waiting_images", "Images that wait")
        self.version = gauge("keras_ft_model_version", "Version that is served")
