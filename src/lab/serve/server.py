"""The web application of `lab serve`. All answers are JSON except the page; every error is a sentence."""

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from omegaconf import DictConfig
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from lab.data.read_image import NUM_THREADS
from lab.errors import UserError
from lab.inputs.base import Inputs, TooLargeError
from lab.model import Model, Said
from lab.serve.batching import Batcher
from lab.serve.limits import Body, ByteBudget, Clock, DrainBody

MAX_REQUESTS = 256  # that are received or answered at a time; more get an error
HELD = 100_000_000  # bytes of request bodies in memory; bodies wait before they exceed it
SLOWEST = 10  # a body may take this many times `timeout_s` in total
TOO_SLOW = (
    "The body arrived too slowly: each part must follow within {} s and the whole within {:g} s, sooner while other"
    " requests wait for memory."
)
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


class Service:
    """Answers requests within the limits of the config."""

    def __init__(self, cfg: DictConfig, asked: Model) -> None:
        self.cfg, self.asked = cfg, asked
        self.batcher = Batcher(asked.inputs.stack, asked.answer, cfg.max_batch, cfg.max_wait_ms / 1000)
        self.decoding, self.explaining = ThreadPoolExecutor(NUM_THREADS), ThreadPoolExecutor(1)
        self.num_requests, self.max_bytes = 0, int(1e6 * cfg.max_body_mb)
        self.clock, self.budget = Clock(), ByteBudget(HELD)

    async def predict(self, request: Request) -> dict[str, Any]:
        async with self._item(request) as item:
            top = self._say(await self.batcher.answer(item))
        return top[0] | {"top": top}

    async def explain(self, request: Request) -> dict[str, Any]:
        """The answer, the item as the net sees it, and its explanation, as HTML; or why there is no explanation."""
        async with self._item(request) as item:
            given = await self.batcher.answer(item)
            answer = {self.asked.inputs.item: self.asked.inputs.html(item)} | self._say(given)[0]
            if why := self._unexplained():
                return answer | {"explanation": None, "why": why}
            assert self.asked.explain is not None
            explanation = await self._in(self.explaining, self.asked.explain, item, given)
        return answer | {"explanation": explanation, "why": None}

    def _say(self, given: np.ndarray) -> Said:
        return self.asked.say(given, self.cfg.top_k)

    def _unexplained(self) -> str | None:
        if not self.asked.class_names:
            return "Only the answers of a classifier are explained."
        if self.cfg.model:
            return "An exported model has no gradients: lab serve run=FOLDER explains its answers."
        if not find_spec(f"lab.explain.{self.asked.inputs.kind}"):
            return f"There is no lab.explain.{self.asked.inputs.kind}, which shows {self.asked.inputs.kind}."
        return None if find_spec("captum") else "It takes captum: pip install 'lab[explain]'"

    @asynccontextmanager
    async def _item(self, request: Request) -> AsyncIterator[np.ndarray]:
        """Receives the item of a request, then limits the time for its answer."""
        if self.num_requests >= MAX_REQUESTS:
            raise HTTPException(503, f"{MAX_REQUESTS} requests are being answered; ask again later.")
        self.num_requests += 1
        try:
            item = await self._received(request)
            async with self.clock.limit(self.cfg.timeout_s):
                yield item
        except TimeoutError as error:
            raise HTTPException(503, f"There was no answer within {self.cfg.timeout_s} s; ask again later.") from error
        finally:
            self.num_requests -= 1

    async def _received(self, request: Request) -> np.ndarray:
        kind = kind_of(request, self.asked.inputs, self.max_bytes)
        async with self.clock.limit(math.inf), self.budget.body() as counted:
            body = await self._body(request, counted)
            content = await content_of(request, kind, body, self.asked.inputs)
            self.batcher.coming += 1
            try:
                async with self.clock.limit(self.cfg.timeout_s):
                    return await self._in(self.decoding, self._decode, content)
            finally:
                self.batcher.coming -= 1

    async def _body(self, request: Request, counted: Body) -> bytes:
        """Receives a body. Time spent waiting for the budget does not count."""
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

    def _decode(self, content: bytes | str) -> np.ndarray:
        inputs = self.asked.inputs
        try:
            content = inputs.of_json(content) if isinstance(content, str) else content
        except ValueError as error:
            raise HTTPException(422, f'"{inputs.item}" is not {inputs.in_json}: {error}.') from error
        try:
            return inputs.decode(content, self.cfg.max_megapixels)
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except UserError as error:
            raise HTTPException(400, str(error)) from error

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def build(cfg: DictConfig, asked: Model, name: str, hosts: Collection[str] | None) -> FastAPI:
    """The application. It answers only requests to `hosts`; None allows any host."""
    service = Service(cfg, asked)
    facts = {"takes": asked.inputs.item} | asked.inputs.facts() | {"classes": asked.class_names}

    async def allowed(request: Request) -> None:
        """Against DNS rebinding: a web site whose name resolves to this machine still sends its own name."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "").lower())
        if hosts is not None and host not in hosts:
            raise HTTPException(421, "Only requests to localhost are answered; host=… of lab serve is for others.")

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
        openapi_url=None,  # FastAPI's page of it loads scripts from other sites
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
        code, text = 500, f"This went wrong here, not in the request: {type(error).__name__}."
    elif error.status_code == 404:
        code, text = 404, "There is no such path; there are GET /, GET /health, POST /predict and POST /explain."
    elif error.status_code == 405:
        code, text = 405, "This path takes another method: GET / and /health, POST /predict and /explain."
    else:
        code, text = error.status_code, error.detail
    return JSONResponse({"error": text}, code, getattr(error, "headers", None))


def kind_of(request: Request, inputs: Inputs, max_bytes: int) -> str:
    """The content type of a request; raises HTTPException if its head shows that the body can't be used."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith(inputs.content_types) or kind in ("multipart/form-data", "application/json")):
        raise HTTPException(415, f"The content type is {kind or 'missing'}; send {takes(inputs)}.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_long(max_bytes)
    return kind


async def content_of(request: Request, kind: str, body: bytes, inputs: Inputs) -> bytes | str:
    """The item's bytes, or its text if the body is JSON."""
    if not body:
        raise HTTPException(400, f"The body is empty; send {takes(inputs)}.")
    content: bytes | str = body
    if kind == "multipart/form-data":
        content = await _of_form(request, body)
    elif kind == "application/json":
        content = _of_json(body, inputs)
    if not content:
        raise HTTPException(400, f"The {inputs.item} is empty: it has no bytes.")
    return content


def takes(inputs: Inputs) -> str:
    return (
        f'a multipart form with the {inputs.item} as "file", a body of type {inputs.content_types}…, or JSON'
        f' {{"{inputs.item}": "{inputs.in_json}"}}'
    )


def too_long(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body has more than {max_bytes / 1e6:g} MB; send less.")


async def _of_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=10).parse()
    except (MultiPartException, KeyError, ValueError) as error:  # KeyError: no boundary
        reason = getattr(error, "message", "it is no multipart/form-data with a boundary").rstrip(".")
        raise HTTPException(400, f"The form can't be read: {reason}.") from error
    file = form.get("file")
    content = await file.read() if isinstance(file, UploadFile) else None
    await form.close()
    if content is None:
        raise HTTPException(422, 'The form has no file named "file".')
    return content


def _of_json(body: bytes, inputs: Inputs) -> str:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is no JSON: {error}.") from error
    if not (isinstance(content, dict) and isinstance(content.get(inputs.item), str)):
        example = f'{{"{inputs.item}": "{inputs.in_json}"}}'
        raise HTTPException(422, f'The JSON has no text "{inputs.item}"; send {example}.')
    return content[inputs.item]
