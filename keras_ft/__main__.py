"""`python -m keras_ft`, the program from wherever Python finds the package."""

import os
import resource
import signal
import sys
from types import FrameType

# Below this limit of `ulimit -v`, libraries crash while they are imported, or hang.
_ADDRESS_SPACE = 2_500_000_000


def _stop(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"\nkeras_ft: stopped by SIGINT.\n")
    os._exit(128 + number)


# Before the imports, which take seconds; `cli.main` has a handler of its own.
signal.signal(signal.SIGINT, _stop)
_limit = resource.getrlimit(resource.RLIMIT_AS)[0]
if resource.RLIM_INFINITY != _limit < _ADDRESS_SPACE:
    sys.exit(
        f"keras_ft: TensorFlow needs {_ADDRESS_SPACE:,} bytes of address space. "
        f"Received: {_limit:,}; raise the limit, such as by `ulimit -v unlimited`"
    )

from keras_ft.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
