"""The rules for flags where several workers train together."""

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.system.workers import ALONE, Workers, load_workers


def choose_workers(config: Config) -> Workers:
    """The workers that train together, by `--strategy` and TF_CONFIG.

    Raises:
        UserError: TF_CONFIG is malformed, or the flags can't be used with several
            workers.
    """
    if config.speed.strategy not in ("auto", "multi_worker"):
        return ALONE
    workers = load_workers()
    if workers.count == 1:
        if config.speed.strategy == "multi_worker":
            raise UserError(
                "--strategy=multi_worker needs the environment variable TF_CONFIG to "
                "name several workers, see docs/scale.md. Received: one or none"
            )
        return ALONE
    if config.data.batch_size % workers.count:
        raise UserError(
            "--batch_size must be a multiple of the number of workers, "
            f"{workers.count}. Received: {config.data.batch_size}"
        )
    if config.speed.jit == "on":
        raise UserError(
            "--jit=on and several workers exclude each other: XLA can't compile what "
            "they exchange. Give --jit=auto"
        )
    return workers
