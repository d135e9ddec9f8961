import pytest
from helpers import optimize_graphs


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of one node with one core; to add another takes seconds."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def optimized_graphs():
    """Optimises graphs here as the cluster does: the last digits depend on it."""
    optimize_graphs(True)
    yield
    optimize_graphs(False)


@pytest.fixture
def other_node(cluster):
    """Another node with one core, and a function that kills it."""
    node = cluster.add_node(num_cpus=1)

    def kill():
        cluster.remove_node(node, allow_graceful=False)

    yield kill
    if node in cluster.worker_nodes:
        kill()
