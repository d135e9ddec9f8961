"""Where runs and predictions run besides this machine: what `--cluster` begins with."""

from typing import NamedTuple


class Cluster(NamedTuple):
    """A kind of cluster; its functions are `module:function`."""

    # Like `processes.run_all`, and takes the `Config` of the comparison.
    train: str
    # From a model, a batch size and a `ClusterConfig` to a context that gives the tasks
    # of the model and a function of files to predictions.
    predict: str


CLUSTERS = {
    "ray": Cluster(
        "keras_ft.extras.cluster.cluster_runs:run_all",
        "keras_ft.extras.cluster.predictions:open_classifier",
    )
}
