"""The HTTP application of a replica: the page, restoration, health and metrics."""

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
from pipelines.serve.lingering import LingeringResponse
from pipelines.serve.rejection import RequestRejectedError
from pipelines.serve.served_model import ServedModel
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
MAX_BOXES = 200
"""More faces do not fit into a header."""
METRIC_PREFIXES = ("ray_serve_", "ray_daefr_")


class Problem(BaseModel):
    """Why a request was rejected."""

    error: str


class Health(BaseModel):
    """The state of a replica: `ok`, or `degraded` if the current model does not work, with the reason in `problem`.

    `faces` and `batches` are the numbers of those restored since the start.
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
    """The configuration of a replica. `token` is a digest."""

    restore: RestorationSettings
    serve: ServeConfig
    compute: ServeCompute
    tracking: Tracking
    token: bytes | None


class QueuedCrop(NamedTuple):
    """A face to be restored, and the model for it."""

    restorer: Restorer
    image: Image


app = FastAPI(title="DAEFR face restoration", docs_url=None, redoc_url=None)  # their pages are not self-contained
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}}
_REJECTIONS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Invalid request"},
    401: {"model": Problem, "description": "Missing or wrong token"},
    408: {"model": Problem, "description": "The upload took too long"},
    413: {"model": Problem, "description": "Too many bytes or pixels"},
    415: {"model": Problem, "description": "Unsupported image format"},
    422: {"model": Problem, "description": "The image cannot be restored"},
    503: {"model": Problem, "description": "Overloaded; see Retry-After"},
}


@app.exception_handler(RequestRejectedError)
async def _reject(_: Request, error: RequestRejectedError) -> JSONResponse:
    response = LingeringResponse if error.closes else JSONResponse
    return response({"error": str(error)}, error.status, HEADERS | error.headers)


@app.exception_handler(RequestValidationError)
async def _reject_parameter(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']} (given: {first['input']!r})"}, 400, HEADERS)


@app.exception_handler(HTTPException)
async def _reject_path(_: Request, error: HTTPException) -> JSONResponse:
    message = f"{error.detail}; available are POST /restore, GET /, /health, /metrics and /openapi.json"
    return JSONResponse({"error": message}, error.status_code, HEADERS | dict(error.headers or {}))


@app.exception_handler(Exception)
async def _handle_unexpected_error(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error; see the service's log"}, 500, HEADERS)


class Service:
    """One replica."""

    def __init__(self, config: ReplicaConfig) -> None:
        """Load the model. Raises `UserError` if it does not work."""
        self._config = config
        limits = config.serve
        torch.set_num_threads(max(1, int(config.compute.cpus_per_replica)))
        self._faces = Counter("daefr_faces", "Faces restored")
        self._model = Gauge("daefr_model", "1 for the served model, 0 for earlier ones", ("model",))
        self._degraded = Gauge("daefr_model_degraded", "1 while the alias points to a model that does not work")
        self._served = ServedModel(
            config.tracking, config.restore.model, partial(_load, config), limits.poll_interval_s
        )
        self._requests = Budget(limits.max_queued_requests)
        self._bytes, self._pixels = Budget(limits.max_queued_bytes), Budget(limits.max_inflight_pixels)
        self._restored = self._batches = 0
        self._models: set[str] = set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")  # not shared with image decoding

        # Serve's queue belongs to this function, so a replica needs its own
        async def restore_batch(crops: list[QueuedCrop]) -> list[Image | ImageError]:
            return await self._restore_batch(crops)

        self._restore_crop = serve.batch(
            restore_batch, max_batch_size=limits.max_batch_size, batch_wait_timeout_s=limits.batch_wait_timeout_s
        )

    def check_health(self) -> None:
        """Update the metrics of the served model. Serve calls this every ten seconds."""
        name = self._served.current.model.name
        self._models.add(name)
        for model in self._models:
            self._model.set(model == name, {"model": model})
        self._degraded.set(bool(self._served.problem))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(self) -> HTMLResponse:
        """Return the page."""
        return HTMLResponse(PAGE.read_text(), headers=PAGE_HEADERS)

    @app.get("/health")
    async def health(self, request: Request) -> Health:
        """Return the served model, whether the service is degraded and, to clients with a token, why."""
        limits, problem = self._config.serve, self._served.problem
        try:
            check_token(request.headers.get("authorization"), self._config.token)
        except RequestRejectedError:
            problem = problem and "see the service's log"
        status = "degraded" if problem else "ok"
        model = self._served.current.model.name
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
        """Return the metrics of the service on this node in Prometheus's format."""
        check_token(request.headers.get("authorization"), self._config.token)
        return PlainTextResponse(await asyncio.to_thread(_read_metrics), headers=HEADERS)

    @app.post(
        "/restore",
        response_class=Response,
        responses={200: {"content": {"image/png": _IMAGE}}, **_REJECTIONS},
        openapi_extra={"requestBody": {"required": True, "content": {"image/*": _IMAGE, FORM: _FORM}}},
    )
    async def restore(
        self, request: Request, aligned: bool | None = None, only_center_face: bool | None = None
    ) -> Response:
        """Restore the faces of a photograph, or an aligned crop; returns a PNG.

        The parameters default to `restore.aligned` and `restore.only_center_face`. The header `X-Model` is the model,
        `X-Face-Count` the number of faces (0: the photograph is unchanged), and `X-Faces` their boxes
        [[left, top, right, bottom], ...] in pixels of the photograph. Of several pages
        or frames the first is restored, and `X-Pages-Left` is the number of the others.
        """
        check_token(request.headers.get("authorization"), self._config.token)
        limits, settings = self._config.serve, self._config.restore
        is_crop = settings.aligned if aligned is None else aligned
        if settings.aligned and not is_crop:
            raise RequestRejectedError(400, "this service restores aligned crops only; set aligned=true")
        only = settings.only_center_face if only_center_face is None else only_center_face
        with self._requests.account() as queued_requests, self._bytes.account() as queued_bytes:
            queued_requests.take(1)
            data = await read_upload(request, limits, queued_bytes)
            pixels = await asyncio.to_thread(_check, data, limits.max_pixels)
            async with self._pixels.reserve(min(pixels * settings.upscale**2, limits.max_inflight_pixels)):
                served = self._served.current
                try:
                    restoration = await self._restore(served.restorer, data, is_crop, only)
                except ImageError as error:
                    raise RequestRejectedError(422, str(error)) from None
                png = await asyncio.to_thread(restoration.png)
        boxes = [[round(float(edge)) for edge in face.box] for face in restoration.faces[:MAX_BOXES]]
        headers = {
            "X-Model": served.model.name,
            "X-Face-Count": str(len(restoration.faces)),
            "X-Faces": json.dumps([] if is_crop else boxes, separators=(",", ":")),
        }
        if restoration.pages_left:
            headers["X-Pages-Left"] = str(restoration.pages_left)
        return Response(png, media_type="image/png", headers=HEADERS | headers)

    async def _restore(self, restorer: Restorer, data: bytes, aligned: bool, only_center: bool) -> Restoration:
        upscale = self._config.restore.upscale
        opened = await asyncio.to_thread(
            restorer.open, data, aligned=aligned, only_center_face=only_center, upscale=upscale
        )
        restored = await asyncio.gather(*(self._restore_crop(QueuedCrop(restorer, crop)) for crop in opened.crops))
        return await asyncio.to_thread(restorer.finish, opened, restored)

    async def _restore_batch(self, crops: list[QueuedCrop]) -> list[Image | ImageError]:
        """Restore the faces of several requests in one batch per model."""
        by_model: dict[Restorer, list[int]] = defaultdict(list)
        for index, crop in enumerate(crops):
            by_model[crop.restorer].append(index)
        results: dict[int, Image | ImageError] = {}
        for restorer, indices in by_model.items():
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
        min_face=settings.min_face,
    )
    if not settings.aligned:
        restorer.load_detector()  # fail now rather than with the first request
    return restorer


def _check(data: bytes, max_pixels: int) -> int:
    """Return the number of pixels in an image's header. Raises `RequestRejectedError` if it is invalid or too large."""
    try:
        pixels = count_pixels(data)
    except ImageError as error:
        raise RequestRejectedError(415, str(error)) from None
    if pixels > max_pixels:
        raise RequestRejectedError(413, f"the image has {pixels} pixels, more than {max_pixels}")
    return pixels


def _read_metrics() -> str:
    """Return the service's metrics from Ray's agent on this node."""
    node_id = ray.get_runtime_context().get_node_id()
    (port,) = (node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == node_id)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:  # http only
        lines = response.read().decode().splitlines()
    prefixes = tuple(f"{start}{prefix}" for prefix in METRIC_PREFIXES for start in ("", "# HELP ", "# TYPE "))
    return "\n".join(line for line in lines if line.startswith(prefixes)) + "\n"


# Serve copies the app here and binds its methods wherever this module is imported, so this must be the last line
Replica = serve.ingress(app)(Service)
