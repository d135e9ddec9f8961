"""Where runs and predictions run besides this machine: the values of `--cluster`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A kind of cluster; functions are `module:function`, for `pkgutil.resolve_name`.

    Attributes:
        train: Trains runs; see `processes.run_all`, but with the `Config` of the
            comparison.
        predict: From a model, a batch size and a `ClusterConfig` to a context that
            gives the tasks of the model, and a function like `classify`.
    """

    train: str
    predict: str


CLUSTERS = {
    "ray": Cluster(
        "keras_ft.extras.cluster.cluster_runs:run_all",
        "keras_ft.extras.cluster.predictions:open_classifier",
    )
}


def find_cluster(value: str) -> Cluster:
    """The row of a value of `--cluster`, which begins with its name."""
    return CLUSTERS[value.partition(":")[0]]
