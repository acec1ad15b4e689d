"""The web side of `whale play`: sessions over HTTP, JSON both ways, and the one page."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from PIL import Image

from whale.errors import UserError
from whale.play.catalogue import Catalogue
from whale.play.download import episode_file
from whale.play.guard import Guard
from whale.play.sessions import GoneError, Sessions, Visit, entry

WATCH_SEC = 0.05
"""How often a viewer's stream looks for a change."""
OWN_PAGE = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": OWN_PAGE}


def png(frame: Any) -> bytes:
    """A frame, uint8 [H, W, 3], as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "png", compress_level=1)
    return out.getvalue()


def options(catalogue: Catalogue) -> dict[str, Any]:
    """What the page offers: models with the ranges of their actions, episodes and policies."""
    models: dict[str, Any] = {}
    for name, model in catalogue.models.items():
        card, gauge = catalogue.card(name), catalogue.gauges[name]
        models[name] = {
            "low": card.action_low, "high": card.action_high, "status": card.action_status, "hint": gauge.hint,
            "step": model.record.get("step"), "retracing": gauge.retracing is not None,
            "largest_error": gauge.calibration and gauge.calibration.error[-1],
            "action_type": card.action_type,
        }  # fmt: skip
    episodes = [
        {"name": name, "instruction": start.info.instruction, "frames": start.known_frames}
        for name, start in catalogue.starts.episodes.items()
    ]
    return {
        "models": models, "episodes": episodes, "policies": list(catalogue.config.policies),
        "dataset": catalogue.dataset, "period_sec": catalogue.control_period_sec,
    }  # fmt: skip


def build_app(catalogue: Catalogue, stopping: Callable[[], bool]) -> Guard:
    """The application; its streams end when `stopping()` is true."""
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    sessions = Sessions(catalogue)
    page = resources.files("whale.play").joinpath("page.html").read_text(encoding="utf-8")
    offered = options(catalogue)

    def answer(visit: Visit) -> Response:
        return JSONResponse({"id": visit.id, "viewers": visit.viewers, **visit.session.view}, headers=HEADERS)

    def trouble(status: int, problem: str, remedy: str) -> Response:
        return JSONResponse({"problem": problem, "remedy": remedy}, status, headers=HEADERS)

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> Response:
        return trouble(422, *error.args)

    @app.exception_handler(GoneError)
    async def missing(_: Request, error: GoneError) -> Response:
        kept = f"the server keeps the {catalogue.config.max_sessions} used last, and none when it is started anew"
        return trouble(404, f"this session, or what is asked of it, is not here any more: {kept}", "start a new one")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: Request, error: Exception) -> Response:
        return trouble(404, f"there is nothing to {request.method} at this address", "open /")

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return trouble(500, f"{type(error).__name__}: {error}", "the terminal shows where; the session is as before")

    async def body_of(request: Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise UserError("the body is no JSON object", 'send for example {"step": 0}')
        return body

    @app.get("/")
    @app.get("/s/{address}")
    async def show() -> Response:
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/api/options")
    async def offer() -> Response:
        return JSONResponse(offered, headers=HEADERS)

    @app.post("/api/sessions")
    async def begin(request: Request) -> Response:
        body = {"episode": 0, "model": next(iter(catalogue.models))} | await body_of(request)
        return answer(await sessions.open(entry(body, "episode", int), entry(body, "model", str)))

    @app.get("/api/sessions/{address}")
    async def look(address: str) -> Response:
        return answer(sessions.find(address))

    @app.post("/api/sessions/{address}/{verb}")
    async def act(address: str, verb: str, request: Request) -> Response:
        visit = sessions.find(address)
        await sessions.act(visit, verb, await body_of(request))
        return answer(visit)

    @app.get("/api/sessions/{address}/frames/{model}/{step}.png")
    async def frame(address: str, model: str, step: str) -> Response:
        session = sessions.find(address).session
        try:
            content = png(session.frame(model, int(step)))
        except (LookupError, ValueError):
            raise GoneError from None
        return Response(content, media_type="image/png", headers=HEADERS)

    @app.get("/api/sessions/{address}/episode.npz")
    async def download(address: str) -> Response:
        visit = sessions.find(address)
        async with visit.lock:
            content = await asyncio.to_thread(episode_file, visit.session)
        name = f"attachment; filename=whale-play-{visit.session.episode}-{len(visit.session.actions)}-steps.npz"
        headers = HEADERS | {"Content-Disposition": name}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @app.get("/api/sessions/{address}/events")
    async def watch(address: str) -> Response:
        visit = sessions.find(address)

        async def stream() -> AsyncIterator[str]:
            visit.viewers += 1
            told = None
            try:
                while not stopping() and sessions.find(address):
                    now = {"revision": visit.session.revision, "viewers": visit.viewers}
                    if now != told:
                        yield f"data: {json.dumps(now)}\n\n"
                    told = now
                    await asyncio.sleep(WATCH_SEC)
            except GoneError:
                yield "event: gone\ndata: {}\n\n"
            finally:
                visit.viewers -= 1

        return StreamingResponse(stream(), media_type="text/event-stream", headers=HEADERS)

    return Guard(app, catalogue.config.host)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: the port is in use or not allowed, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port} of {host}: {error.strerror}",
            "another program has it, perhaps another `whale play`: end that one, or give port=0 for any free port",
        ) from None


def serve(catalogue: Catalogue, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    server: uvicorn.Server
    app = build_app(catalogue, lambda: server.should_exit)
    settings = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=3, lifespan="off")
    server = uvicorn.Server(settings)
    server.run(sockets=[listener])
