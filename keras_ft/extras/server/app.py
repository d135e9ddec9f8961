"""The paths of the server, their limits and errors."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from keras_ft.extras.server import rest
from keras_ft.extras.server.batching import Busy
from keras_ft.extras.server.bodies import Bodies, busy
from keras_ft.extras.server.explain import explain
from keras_ft.extras.server.loaded import Answer, Loaded, Models, Served
from keras_ft.extras.server.measures import Measures
from keras_ft.extras.server.readers import Readers
from keras_ft.serving.encoded import NO_IMAGE, Encoded

log = logging.getLogger("keras_ft")

ANSWER_SECONDS = 60.0
_STATIC = Path(__file__).with_name("static")
# The page loads nothing from elsewhere and can't be part of another page.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[Request], Awaitable[Response]]


def make_app(models: Models, measures: Measures) -> Starlette:
    """Makes the ASGI application; the models run as long as it does."""

    readers = Readers()

    @contextlib.asynccontextmanager
    async def run_models(_app: Starlette) -> AsyncIterator[None]:
        async with readers.running():
            running = asyncio.create_task(models.run())
            yield
            running.cancel()

    async def show_metrics(_request: Request) -> Response:
        text = generate_latest(measures.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    paths = _Paths(models, readers)
    predict = _measured("predict", paths.predict, models, measures)
    explain_one = _measured("explain", paths.explain, models, measures)
    one, version = "/v1/models/{name}", "/v1/models/{name}/versions/{version}"
    return Starlette(
        routes=[
            Route("/", _show_page),
            Route("/health", _report_health),
            Route("/metrics", show_metrics),
            Route("/v1/models", paths.list_names),
            Route(f"{one}:predict", predict, methods=["POST"]),
            Route(f"{version}:predict", predict, methods=["POST"]),
            Route(f"{one}:explain", explain_one, methods=["POST"]),
            Route(f"{one}/metadata", paths.describe),
            Route(f"{version}/metadata", paths.describe),
            Route(version, paths.report_status),
            Route(one, paths.report_status),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={HTTPException: _answer_error, Exception: _answer_failure},
        lifespan=run_models,
    )


async def _show_page(_request: Request) -> Response:
    return FileResponse(_STATIC / "page.html", headers=_PAGE_HEADERS)


async def _report_health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _answer_error(_request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _answer_failure(request: Request, error: Exception) -> Response:
    log.error("%s failed.", request.url.path, exc_info=error)
    return JSONResponse({"error": "internal error; the server's log says more"}, 500)


def _measured(
    action: str, handler: Handler, models: Models, measures: Measures
) -> Handler:
    """Counts and times the requests of a handler."""

    @functools.wraps(handler)
    async def measure(request: Request) -> Response:
        name = request.path_params["name"]
        name = name if name in models.by_name else ""  # anyone can make up names
        start = time.perf_counter()
        status = 500
        try:
            response = await handler(request)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            measures.requests.labels(name, action, status).inc()
            seconds = time.perf_counter() - start
            measures.seconds.labels(name, action).observe(seconds)

    return measure


class _Paths:
    """The handlers of requests about models."""

    def __init__(self, models: Models, readers: Readers):
        self._models = models
        self._readers = readers
        self._bodies = Bodies()
        # Grad-CAM takes memory; it is for people, who send one image at a time.
        self._explaining = asyncio.Semaphore(1)

    async def list_names(self, _request: Request) -> Response:
        return JSONResponse({"models": sorted(self._models.by_name)})

    async def report_status(self, request: Request) -> Response:
        number = self._find(request).loaded.version.number
        return JSONResponse(rest.make_status(number))

    async def describe(self, request: Request) -> Response:
        name, loaded = request.path_params["name"], self._find(request).loaded
        number, tasks = loaded.version.number, loaded.classifier.tasks
        return JSONResponse(rest.make_metadata(name, number, tasks))

    async def predict(self, request: Request) -> Response:
        served = self._find(request)
        async with self._bodies.read(request) as body, _time_limited():
            images, in_rows = await self._readers.read("request", body)
            loaded, answers = await _classify(served, images)
        tasks = loaded.classifier.tasks
        return JSONResponse(rest.make_answer(tasks, answers, in_rows))

    async def explain(self, request: Request) -> Response:
        served = self._find(request)
        async with self._bodies.read(request) as body:
            async with _time_limited():
                [image], _ = await self._readers.read("image", body)
                loaded, [answer] = await _classify(served, [image])
                await self._explaining.acquire()
            try:
                shown = await asyncio.to_thread(explain, loaded, image.content, answer)
            finally:
                self._explaining.release()
        return JSONResponse(shown)

    def _find(self, request: Request) -> Served:
        """The model that a request names; HTTPException if there is none."""
        name = request.path_params["name"]
        served = self._models.by_name.get(name)
        if served is None:
            names = ", ".join(sorted(self._models.by_name))
            raise HTTPException(404, f"There is no model {name}. There is: {names}")
        newest = str(served.loaded.version.number)
        if request.path_params.get("version", newest) != newest:
            raise HTTPException(404, f"Of {name} only version {newest} is served")
        return served


@contextlib.asynccontextmanager
async def _time_limited() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError as error:
        raise HTTPException(504, f"No answer in {ANSWER_SECONDS:g} s") from error


async def _classify(
    served: Served, images: list[Encoded]
) -> tuple[Loaded, list[dict[str, np.ndarray]]]:
    """The version that answers, and the probabilities of images."""
    try:
        loaded, answers = await _ask_one_version(served, images)
    except Busy as error:
        raise busy("Too many images wait") from error
    damaged = [i for i, answer in enumerate(answers) if answer is None]
    if damaged:
        raise HTTPException(400, f"Image {damaged[0]}: {NO_IMAGE}")
    return loaded, [answer for answer in answers if answer is not None]


async def _ask_one_version(
    served: Served, images: list[Encoded]
) -> tuple[Loaded, list[Answer]]:
    """Asks again if a new version has taken over in the middle of the images."""
    while True:
        answers = await served.batcher.classify(images)
        loaded = answers[0][0]
        if all(each is loaded for each, _ in answers):
            return loaded, [answer for _, answer in answers]
