"""The service's answers: the page, restored images, its health and its figures. A replica holds one model."""

import asyncio
import json
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from ray import serve
from ray.util.metrics import Counter, Gauge
from starlette.exceptions import HTTPException

from daefr.device import worker_device
from daefr.images import Image
from daefr.photographs import count_pixels
from daefr.restore import ImageError, Restoration, Restorer
from pipelines.engine.restoration import RestorationSettings
from pipelines.serve.budget import Budget
from pipelines.serve.champion import Champion
from pipelines.serve.lingering import LingeringResponse
from pipelines.serve.refusal import RefusedError
from pipelines.serve.settings import ServeCompute, ServeConfig
from pipelines.serve.token import check_token
from pipelines.serve.uploads import FORM, read_upload
from pipelines.tracking.client import Tracking

PAGE = Path(__file__).with_name("page.html")
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
PAGE_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
}
MOST_BOXES = 200
"""A header has no room for more faces."""
OURS = ("ray_serve_", "ray_daefr_")


class Problem(BaseModel):
    """Why a request is not served."""

    error: str


class Health(BaseModel):
    """How a replica is: `degraded` while it serves another model than it should, for the reason in `problem`.

    `faces` were restored since it started, in that many `batches`.
    """

    status: str
    model: str
    problem: str
    faces: int
    batches: int
    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ReplicaConfig:
    """Everything that a replica needs. `token` is a digest."""

    restore: RestorationSettings
    serve: ServeConfig
    compute: ServeCompute
    tracking: Tracking
    token: bytes | None


class QueuedCrop(NamedTuple):
    """A face that waits to be restored, and the model for it."""

    restorer: Restorer
    image: Image


app = FastAPI(title="DAEFR face restoration", docs_url=None, redoc_url=None)  # their pages are not self-contained
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not a request as described here"},
    401: {"model": Problem, "description": "No token, or another"},
    408: {"model": Problem, "description": "The image did not arrive in time"},
    413: {"model": Problem, "description": "Too many bytes or pixels"},
    415: {"model": Problem, "description": "Not an image of a kind that is read"},
    422: {"model": Problem, "description": "An image that cannot be restored"},
    503: {"model": Problem, "description": "Too much to do; see Retry-After"},
}


@app.exception_handler(RefusedError)
async def _refuse(_: Request, error: RefusedError) -> JSONResponse:
    answer = LingeringResponse if error.closes else JSONResponse
    return answer({"error": str(error)}, error.status, HEADERS | error.headers)


@app.exception_handler(RequestValidationError)
async def _refuse_parameter(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']} (given: {first['input']!r})"}, 400, HEADERS)


@app.exception_handler(HTTPException)
async def _refuse_path(_: Request, error: HTTPException) -> JSONResponse:
    told = f"{error.detail}: there are POST /restore, GET /, /health, /metrics and /openapi.json"
    return JSONResponse({"error": told}, error.status_code, HEADERS | dict(error.headers or {}))


@app.exception_handler(Exception)
async def _handle_unexpected_error(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error; see the log of the service"}, 500, HEADERS)


class Service:
    """One replica."""

    def __init__(self, config: ReplicaConfig) -> None:
        """Load the model. Raises `UserError` when there is none that works."""
        self._config = config
        limits = config.serve
        torch.set_num_threads(max(1, int(config.compute.cpus_per_replica)))
        self._faces = Counter("daefr_faces", "Faces restored")
        self._model = Gauge("daefr_model", "1 for the model in service, 0 for those before it", ("model",))
        self._degraded = Gauge("daefr_model_degraded", "1 while the alias names a model that does not work")
        self._champion = Champion(config.tracking, config.restore.model, partial(_load, config), limits.poll_interval_s)
        self._requests = Budget(limits.max_queued_requests)
        self._bytes, self._pixels = Budget(limits.max_queued_bytes), Budget(limits.max_inflight_pixels)
        self._restored = self._batches = 0
        self._models: set[str] = set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")  # which waits for no images to be read

        async def together(
            crops: list[QueuedCrop],
        ) -> list[Image | ImageError]:  # Serve's queue is the function's
            return await self._restore_together(crops)

        self._restore_crop = serve.batch(
            together, max_batch_size=limits.max_batch_size, batch_wait_timeout_s=limits.batch_wait_timeout_s
        )

    def check_health(self) -> None:
        """Tell the figures which model is in service. Serve calls this every ten seconds."""
        name = self._champion.current.model.name
        self._models.add(name)
        for model in self._models:
            self._model.set(model == name, {"model": model})
        self._degraded.set(bool(self._champion.problem))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(self) -> HTMLResponse:
        """Return the page."""
        return HTMLResponse(PAGE.read_text(), headers=PAGE_HEADERS)

    @app.get("/health")
    async def health(self, request: Request) -> Health:
        """Tell which model is in service, and whether it is the one that should be; why not, to those with a token."""
        limits, problem = self._config.serve, self._champion.problem
        try:
            check_token(request.headers.get("authorization"), self._config.token)
        except RefusedError:
            problem = problem and "the log tells why"
        status = "degraded" if problem else "ok"
        model = self._champion.current.model.name
        return Health(
            status=status,
            model=model,
            problem=problem,
            faces=self._restored,
            batches=self._batches,
            max_bytes=limits.max_upload_bytes,
            max_pixels=limits.max_pixels,
        )

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: {"model": Problem}})
    async def metrics(self, request: Request) -> PlainTextResponse:
        """Return the figures of the service on this node as Prometheus reads them."""
        check_token(request.headers.get("authorization"), self._config.token)
        return PlainTextResponse(await asyncio.to_thread(_figures), headers=HEADERS)

    @app.post(
        "/restore",
        response_class=Response,
        responses={200: {"content": {"image/png": _IMAGE}}, **_REFUSALS},
        openapi_extra={"requestBody": {"required": True, "content": {"image/*": _IMAGE, FORM: _FORM}}},
    )
    async def restore(
        self, request: Request, aligned: bool | None = None, only_center_face: bool | None = None
    ) -> Response:
        """Restore every face of a photograph, or of one aligned crop: an image in, a PNG out.

        By default as `restore.aligned` and `restore.only_center_face` are set. `X-Model` tells the model,
        `X-Face-Count` how many faces were found (0: the photograph is unchanged), and `X-Faces` their boxes,
        [[left, top, right, bottom], ...] in pixels of the photograph. Of several pages or frames the first is restored,
        and `X-Pages-Left` tells how many others there are.
        """
        check_token(request.headers.get("authorization"), self._config.token)
        limits, settings = self._config.serve, self._config.restore
        is_crop = settings.aligned if aligned is None else aligned
        if settings.aligned and not is_crop:
            raise RefusedError(400, "this service takes aligned crops only: it has no face detector")
        only = settings.only_center_face if only_center_face is None else only_center_face
        with self._requests.account() as place, self._bytes.account() as held:
            place.take(1)
            data = await read_upload(request, limits, held)
            pixels = await asyncio.to_thread(_check, data, limits.max_pixels)
            async with self._pixels.share(min(pixels * settings.upscale**2, limits.max_inflight_pixels)):
                served = self._champion.current
                try:
                    restoration = await self._restore(served.restorer, data, is_crop, only)
                except ImageError as error:
                    raise RefusedError(422, str(error)) from None
                png = await asyncio.to_thread(restoration.png)
        boxes = [[round(float(edge)) for edge in face.box] for face in restoration.faces[:MOST_BOXES]]
        about = {
            "X-Model": served.model.name,
            "X-Face-Count": str(len(restoration.faces)),
            "X-Faces": json.dumps([] if is_crop else boxes, separators=(",", ":")),
        }
        if restoration.pages_left:
            about["X-Pages-Left"] = str(restoration.pages_left)
        return Response(png, media_type="image/png", headers=HEADERS | about)

    async def _restore(self, restorer: Restorer, data: bytes, aligned: bool, only_center: bool) -> Restoration:
        upscale = self._config.restore.upscale
        opened = await asyncio.to_thread(
            restorer.open, data, aligned=aligned, only_center_face=only_center, upscale=upscale
        )
        restored = await asyncio.gather(*(self._restore_crop(QueuedCrop(restorer, crop)) for crop in opened.crops))
        return await asyncio.to_thread(restorer.finish, opened, restored)

    async def _restore_together(self, crops: list[QueuedCrop]) -> list[Image | ImageError]:
        """Restore the faces of one or several requests at once; those of a request on a model have that model."""
        together: dict[Restorer, list[int]] = defaultdict(list)
        for index, crop in enumerate(crops):
            together[crop.restorer].append(index)
        results: dict[int, Image | ImageError] = {}
        for restorer, indices in together.items():
            images = [crops[index].image for index in indices]
            restored = await asyncio.get_running_loop().run_in_executor(self._worker, _restore_each, restorer, images)
            results |= dict(zip(indices, restored, strict=True))
            self._batches += 1
        self._restored += len(crops)
        self._faces.inc(len(crops))
        return [results[index] for index in range(len(crops))]


def _restore_each(restorer: Restorer, crops: Sequence[Image]) -> list[Image | ImageError]:
    try:
        return list(restorer.restore_crops(crops))
    except ImageError as error:
        if len(crops) == 1:
            return [error]
        return [result for crop in crops for result in _restore_each(restorer, [crop])]


def _load(config: ReplicaConfig, model: Path) -> Restorer:
    settings = config.restore
    restorer = Restorer.load(
        model,
        worker_device(config.compute.use_gpu),
        settings.detector,
        settings.parser,
        settings.upscaler,
        batch=config.serve.max_batch_size,
        max_pixels=config.serve.max_pixels,
    )
    if not settings.aligned:
        restorer.load_detector()  # now, as its absence is not a request's fault
    return restorer


def _check(data: bytes, max_pixels: int) -> int:
    """Return how many pixels an image says it has. Raises `RefusedError` for what is none, or too large."""
    try:
        pixels = count_pixels(data)
    except ImageError as error:
        raise RefusedError(415, str(error)) from None
    if pixels > max_pixels:
        raise RefusedError(413, f"too many pixels: an image may have {max_pixels} here")
    return pixels


def _figures() -> str:
    """Return what Ray's agent on this node tells of the service."""
    here = ray.get_runtime_context().get_node_id()
    (port,) = (node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == here)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:  # http only
        lines = answer.read().decode().splitlines()
    names = tuple(f"{start}{ours}" for ours in OURS for start in ("", "# HELP ", "# TYPE "))
    return "\n".join(line for line in lines if line.startswith(names)) + "\n"


# Serve copies the app now, and gives the methods their `self` wherever this module is imported: so last, and here
Replica = serve.ingress(app)(Service)
