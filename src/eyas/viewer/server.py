"""The web server: the page, and every answer as JSON. It reads, and never writes; what plays writes by itself."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from eyas.errors import EyasError
from eyas.viewer.answers import Answers
from eyas.viewer.films import TYPES
from eyas.viewer.guard import LOOPBACK, Guard
from eyas.viewer.play import PlayProcess, add_play_routes
from eyas.viewer.problems import BadQuestion

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MAX_COMPARED = 20
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a hash names one picture only


class PlainJSON(Response):
    """JSON in ASCII, which can hold any text that was recorded; NaN and infinity become null."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, **options: Any) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store"}, **options)

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


def to_json(content: Any) -> str:
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(content), separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def create_app(
    answers: Answers, hosts: Sequence[str] = LOOPBACK, token: str | None = None, play: PlayProcess | None = None
) -> FastAPI:
    """The application. `hosts` are the names it may be called by (empty: any), `token` what a caller must know.

    Where there is a `play`, the page can play it.
    """
    app = FastAPI(title="eyas view", docs_url=None, redoc_url=None, openapi_url=None, default_response_class=PlainJSON)
    app.add_middleware(Guard, hosts=hosts, token=token, has_play=play is not None)
    app.add_exception_handler(EyasError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    _add_run_routes(app, answers)
    _add_episode_routes(app, answers)
    add_play_routes(app, play)
    if STATIC.is_dir():
        app.mount("/", _Page(directory=STATIC, html=True))
    return app


class _Page(StaticFiles):
    """The page's own files: asked for anew each time, since their names stay the same from version to version."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _add_run_routes(app: FastAPI, answers: Answers) -> None:
    @app.get("/api/runs")
    def runs() -> PlainJSON:
        return PlainJSON(answers.runs())

    @app.get("/api/run")
    def run(run: str) -> PlainJSON:
        return PlainJSON(answers.details(run))

    @app.get("/api/diff")
    def diff(runs: list[str] = Query(max_length=MAX_COMPARED)) -> PlainJSON:  # noqa: B008
        return PlainJSON(answers.differences(runs))

    @app.get("/api/metrics")
    def metrics(run: str, after: int = Query(0, ge=0, lt=2**62)) -> PlainJSON:
        return PlainJSON(answers.metrics(run, after))

    @app.get("/api/evaluations")
    def evaluations(run: str) -> PlainJSON:
        return PlainJSON(answers.evaluations(run))

    @app.get("/api/play-commands")
    def play_commands(run: str) -> PlainJSON:
        return PlainJSON(answers.play_commands(run))

    @app.get("/api/films")
    def films(run: str) -> PlainJSON:
        return PlainJSON(answers.films(run))

    @app.get("/api/film")
    def film(run: str, name: str) -> FileResponse:
        path = answers.film(run, name).path
        return FileResponse(path, media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


def _add_episode_routes(app: FastAPI, answers: Answers) -> None:
    @app.get("/api/episodes")
    def episodes(request: Request, run: str) -> PlainJSON:
        return PlainJSON(answers.episodes(run, dict(request.query_params)))

    @app.get("/api/episode")
    def episode(run: str, key: str) -> PlainJSON:
        return PlainJSON(answers.episode(run, key))

    @app.get("/api/thoughts")
    def thoughts(run: str, stage: str | None = None) -> PlainJSON:
        return PlainJSON(answers.thoughts(run, stage or None))

    @app.get("/api/image")
    def image(run: str, hash: str, size: int | None = None) -> Response:
        return Response(answers.picture(run, hash, size), media_type="image/png", headers=_FOR_EVER)


# ----------------------------------------------------------------------------------------------- problems


def _on_problem(request: Request, error: Exception) -> PlainJSON:
    return PlainJSON({"error": str(error)}, 400 if isinstance(error, BadQuestion) else 404)


def _on_invalid(request: Request, error: Exception) -> PlainJSON:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return PlainJSON({"error": f"the request cannot be used: {told}"}, 400)


def _on_http(request: Request, error: Exception) -> PlainJSON:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return PlainJSON({"error": "there is nothing at this address: begin at /"}, status)


def _on_bug(request: Request, error: Exception) -> PlainJSON:
    log.error("%s failed", request.url.path, exc_info=error)
    return PlainJSON({"error": f"reading failed ({type(error).__name__}): the terminal of `eyas view` says more"}, 500)
