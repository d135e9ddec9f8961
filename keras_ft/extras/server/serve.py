"""`--mode=serve`: a web server for trained models."""

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.server.versions import find_versions
from keras_ft.host import files, jpeg_lines
from keras_ft.host.packages import require
from keras_ft.host.signals import handled_elsewhere
from keras_ft.host.startup import import_tensorflow

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("keras_ft")

_PACKAGES = ("starlette", "uvicorn", "prometheus_client")
# Each image that is decoded takes a thread: images of one batch, by default as many as
# there are cores, would take all of them from another batch.
_TENSORFLOW_THREADS = 16 + (os.cpu_count() or 1)
# How long requests may take to end when the server is stopped.
_SECONDS_TO_END = 8.0


def serve(config: Config) -> None:
    """Serves models until SIGTERM or Ctrl-C; requests in progress are finished.

    Raises:
        UserError: A package is missing, the model can't be read, or the port is in use.
    """
    for package in _PACKAGES:
        require("--mode=serve", package, "serve")
    path = Path(config.apply.model or config.run.workdir)
    find_versions(path)  # a mistake is reported at once
    with contextlib.closing(_listen(config.serve.host, config.serve.port)) as listener:
        # Otherwise oneDNN keeps the memory of the largest image for ever.
        os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
        import_tensorflow()
        import tensorflow as tf
        import uvicorn

        from keras_ft.extras.server.app import make_app
        from keras_ft.extras.server.connections import MAX_CONNECTIONS, LimitedProtocol
        from keras_ft.extras.server.loaded import Models
        from keras_ft.extras.server.measures import Measures

        tf.config.threading.set_inter_op_parallelism_threads(_TENSORFLOW_THREADS)
        measures = Measures()
        models = Models(path, config.data.batch_size, measures)
        settings = uvicorn.Config(
            make_app(models, measures),
            http=LimitedProtocol,
            loop="asyncio",  # whose transports the protocol limits
            ws="none",
            log_level="warning",
            limit_concurrency=MAX_CONNECTIONS,
        )
        server = uvicorn.Server(settings)
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        log.info("Listens on http://%s:%d. Ctrl-C stops it.", host, port)
        has_ended = threading.Event()
        watcher = threading.Thread(target=_end_in_time, args=[server, has_ended])
        watcher.daemon = True
        watcher.start()
        with handled_elsewhere(), jpeg_lines.caught():  # images have no names
            try:
                server.run(sockets=[listener])
            finally:
                has_ended.set()


def _end_in_time(server: "uvicorn.Server", has_ended: threading.Event) -> None:
    """Ends this process if a server that is stopped still works after some seconds."""
    while not server.should_exit:
        if has_ended.wait(0.1):
            return
    if not has_ended.wait(_SECONDS_TO_END):
        log.warning("What took more than %g s was not finished.", _SECONDS_TO_END)
        files.remove_partial()
        os._exit(0)  # what is done inside TensorFlow can't be stopped otherwise


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"--host and --port must be an address of this machine that is free. "
            f"Received: {host}:{port}, {error.strerror or error}"
        ) from error
    # Else the end of an answer waits 40 ms for the client's acknowledgement: asyncio
    # sets the option only for sockets that name their protocol.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
