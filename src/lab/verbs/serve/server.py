"""The web application of `lab serve`. All responses except the page are JSON; every error is a sentence."""

import asyncio
import base64
import math
import mimetypes
import re
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from omegaconf import DictConfig
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from lab.engine.errors import UserError
from lab.features.base import Feature, Row, Sample, TooLargeError
from lab.features.read_image import NUM_THREADS
from lab.verbs.predictor import Predictor, part_of, prefixed
from lab.verbs.serve.batching import Batcher
from lab.verbs.serve.form import Form, too_long
from lab.verbs.serve.limits import Body, ByteBudget, Deadline, DrainBody

MAX_REQUESTS = 256  # concurrent requests; further ones get an error
HELD = 100_000_000  # bytes of request bodies in memory; further bodies wait
SLOWEST = 10  # a body may take this many times `timeout_s`
TOO_SLOW = (
    "The body arrived too slowly: the next part must arrive within {} s and the whole body within {:g} s, or earlier"
    " if other requests wait for memory."
)
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:;"
    " media-src data: blob:; connect-src 'self'"
)


class Service:
    """Answers requests within the limits of the config."""

    def __init__(self, cfg: DictConfig, predictor: Predictor) -> None:
        self.cfg, self.predictor, self.form = cfg, predictor, Form(predictor.inputs)
        self.batcher = Batcher(
            lambda samples: predictor.answers(samples, [0] * len(samples)), cfg.max_batch, cfg.max_wait_ms / 1000
        )
        self.decoding, self.explaining = ThreadPoolExecutor(NUM_THREADS), ThreadPoolExecutor(1)
        self.num_requests, self.max_bytes = 0, int(1e6 * cfg.max_body_mb)
        self.clock, self.budget = Deadline(), ByteBudget(HELD)

    async def predict(self, request: Request) -> dict[str, Any]:
        async with self._sample(request) as sample:
            answer = await self.batcher.answer(sample)
            rows = self.predictor.rows(answer, sample, self.cfg.top_k)
            files = await self._in(self.decoding, self._files, answer, sample)
        top = rows if len(rows) > 1 else next(iter(rows.values()))
        return _best(rows) | files | {"top": top}

    async def explain(self, request: Request) -> dict[str, Any]:
        """The prediction, the inputs and outputs as HTML, and the explanation as HTML, or why there is none."""
        async with self._sample(request) as sample:
            answer = await self.batcher.answer(sample)
            explanation, why = None, self.predictor.unexplained or None
            if self.predictor.explain:
                try:
                    explanation = await self._in(self.explaining, self.predictor.explain, sample)
                except UserError as error:  # a package is missing
                    why = str(error).removeprefix("error: ")
            shown = await self._in(self.decoding, self._shown, sample, answer)
        best = _best(self.predictor.rows(answer, sample, self.cfg.top_k))
        return shown["inputs"] | best | shown | {"explanation": explanation, "why": why}

    def _files(self, answer: Sample, sample: Sample) -> dict[str, str]:
        """The outputs that are files, as data URLs."""
        files = {
            name: feature.file(part_of(feature, answer), sample) for name, feature in self.predictor.outputs.items()
        }
        return {name: data_url(*file) for name, file in files.items() if file is not None}

    def _shown(self, sample: Sample, answer: Sample) -> dict[str, dict[str, str]]:
        """The inputs, as the net sees them, and the outputs as HTML."""
        return {
            "inputs": {name: each.html(part_of(each, sample)) for name, each in self.predictor.inputs.items()},
            "outputs": {name: each.html(part_of(each, answer)) for name, each in self.predictor.outputs.items()},
        }

    @asynccontextmanager
    async def _sample(self, request: Request) -> AsyncIterator[Sample]:
        """Receive the sample of a request, then limit the time of its prediction."""
        if self.num_requests >= MAX_REQUESTS:
            raise HTTPException(503, f"{MAX_REQUESTS} requests are open; try again later.")
        self.num_requests += 1
        try:
            sample = await self._received(request)
            async with self.clock.limit(self.cfg.timeout_s):
                yield sample
        except TimeoutError as error:
            raise HTTPException(
                503, f"The prediction took more than {self.cfg.timeout_s} s; try again later."
            ) from error
        finally:
            self.num_requests -= 1

    async def _received(self, request: Request) -> Sample:
        kind = self.form.kind_of(request, self.max_bytes)
        async with self.clock.limit(math.inf), self.budget.body() as counted:
            body = await self._body(request, counted)
            self.batcher.coming += 1
            try:
                async with self.clock.limit(self.cfg.timeout_s):
                    return await self._in(self.decoding, self._decode, request, kind, body)
            finally:
                self.batcher.coming -= 1

    async def _body(self, request: Request, counted: Body) -> bytes:
        """Receive a body. The time that it waits for the budget is not counted."""
        body, now, seconds = bytearray(), asyncio.get_running_loop().time, self.cfg.timeout_s
        end = now() + SLOWEST * seconds
        try:
            async with self.clock.limit(seconds) as set_remaining:
                counted.close = lambda: set_remaining(0)
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.max_bytes:
                        raise too_long(self.max_bytes)
                    begin = now()
                    set_remaining(math.inf)
                    await self.budget.grow(counted, len(body) + len(chunk))
                    end += now() - begin
                    set_remaining(min(seconds, end - now()))
                    body += chunk
        except TimeoutError as error:
            raise HTTPException(408, TOO_SLOW.format(seconds, SLOWEST * seconds)) from error
        finally:
            counted.close = None
        return bytes(body)

    def _decode(self, request: Request, kind: str, body: bytes) -> Sample:
        sample: Sample = {}
        contents = self.form.contents_of(request, kind, body)
        for name, content in contents.items():
            try:
                sample |= self.form.decode(name, content, self.cfg.max_megapixels)
            except UserError as error:
                text = f"{str(error).rstrip('.')}."
                text = f"{name}: {text}" if len(contents) > 1 else text[:1].upper() + text[1:]
                raise HTTPException(413 if isinstance(error, TooLargeError) else 400, text) from error
        return sample

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def _best(rows: dict[str, list[Row]]) -> Row:
    """The best row of each output, joined into one row."""
    return {key: value for each in prefixed(rows).values() for row in each[:1] for key, value in row.items()}


def data_url(suffix: str, content: bytes) -> str:
    kind = mimetypes.types_map.get(suffix, "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def health(predictor: Predictor) -> dict[str, Any]:
    """The inputs and outputs of the model. The facts of a single input are also at the top level."""
    inputs = {
        name: _small(each)
        | {"item": each.item, "about": each.about, "accept": each.accept}
        | {"choices": [*each.choices], "default": each.default}
        for name, each in predictor.inputs.items()
    }
    outputs = {
        name: _small(each) | {"about": each.about, "file": each.is_file, "choices": [*each.choices]}
        for name, each in predictor.outputs.items()
    }
    (input_name, *others), (output, *more) = inputs, outputs.values()
    single = {} if others else {"takes": input_name} | _small(predictor.inputs[input_name])
    return single | {"classes": [] if more else output["choices"], "inputs": inputs, "outputs": outputs}


def _small(feature: Feature) -> dict[str, Any]:
    """The numeric facts of a feature."""
    return {name: value for name, value in feature.facts().items() if isinstance(value, int | float)}


def build(cfg: DictConfig, predictor: Predictor, name: str, hosts: Collection[str] | None) -> FastAPI:
    """The application.

    Args:
        cfg: the config of `lab serve`.
        predictor: the model.
        name: the name of the model.
        hosts: the host names that requests may use; None: any.
    """
    service = Service(cfg, predictor)
    facts = health(predictor)

    async def allowed(request: Request) -> None:
        """Refuse other host names, as in DNS rebinding: the name of a web site resolves to this machine."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "").lower())
        if hosts is not None and host not in hosts:
            raise HTTPException(421, "Only requests to localhost are allowed. Start lab serve with host=… for others.")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (service.batcher.work(), service.budget.watch())]
        yield
        for task in tasks:
            task.cancel()

    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": POLICY})

    app = FastAPI(
        lifespan=lifespan,
        dependencies=[Depends(allowed)],
        openapi_url=None,  # FastAPI's documentation page loads scripts from other sites
        redirect_slashes=False,
        exception_handlers={
            AnyHTTPException: error_response,
            ClientDisconnect: error_response,
            Exception: error_response,
        },
    )
    app.add_middleware(DrainBody)
    app.state.stop = service.clock.stop
    app.get("/", response_model=None)(page)
    app.get("/health")(lambda: {"status": "ok", "model": name} | facts)
    app.post("/predict")(service.predict)
    app.post("/explain")(service.explain)
    return app


async def error_response(request: Request, error: Exception) -> Response:
    if not isinstance(error, AnyHTTPException):
        code, text = 500, f"The server failed, not the request: {type(error).__name__}."
    elif error.status_code == 404:
        code, text = 404, "Unknown path; expected GET /, GET /health, POST /predict or POST /explain."
    elif error.status_code == 405:
        code, text = 405, "Wrong method for this path; expected GET for / and /health, POST for /predict and /explain."
    else:
        code, text = error.status_code, error.detail
    return JSONResponse({"error": text}, code, getattr(error, "headers", None))
