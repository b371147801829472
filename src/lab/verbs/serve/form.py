"""Reading the inputs from the body of a request: raw bytes, a multipart form, or JSON. Every error is a sentence."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lab.features.base import Feature, Sample


@dataclass(frozen=True)
class Json:
    """A value in a JSON body."""

    value: Any


Content = bytes | Json  # the content of one input
BOUNDARY = re.compile(rb"[ \w'()+,./:=?-]{1,70}", re.ASCII)  # RFC 2046
BYTES = "latin-1"  # this charset maps bytes to characters one to one


class Form:
    """Reads requests.

    A single input may be the body itself, or the part "file" of a form. Several inputs are parts of a form. Both may
    be JSON instead.
    """

    def __init__(self, inputs: Mapping[str, Feature]) -> None:
        self.inputs = inputs
        self.alone = next(iter(inputs.values())) if len(inputs) == 1 else None
        in_json = ", ".join(f'"{name}": {_quoted(feature.in_json)}' for name, feature in inputs.items())
        self.in_json = f"JSON {{{in_json}}}"
        if self.alone:
            parts = f'a multipart form with the {self.alone.item} as "file", a body of type {self.alone.content_types}…'
        else:
            parts = f"a multipart form with {' and '.join(inputs)}"
        self.takes = f"{parts}, or {self.in_json}"

    def kind_of(self, request: Request, max_bytes: int) -> str:
        """The content type of a request.

        Raises:
            HTTPException: the head of the request shows that the body is too large or of a wrong type.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        raw = self.alone is not None and kind.startswith(self.alone.content_types)
        if not (raw or kind in ("multipart/form-data", "application/json")):
            raise HTTPException(415, f"The content type is {kind or 'missing'}; expected {self.takes}.")
        if int(request.headers.get("content-length", 0)) > max_bytes:
            raise too_long(max_bytes)
        return kind

    def contents_of(self, request: Request, kind: str, body: bytes) -> dict[str, Content]:
        """The content of each input. This takes seconds for a large body, so it runs in a thread."""
        if not body:
            raise HTTPException(400, f"The body is empty; expected {self.takes}.")
        contents: dict[str, Content] = {}
        if kind == "multipart/form-data":
            contents |= asyncio.run(self._of_form(request, body))
        elif kind == "application/json":
            contents |= self._of_json(body)
        else:
            contents |= dict.fromkeys(self.inputs, body)
        return contents

    def decode(self, name: str, content: Content, max_megapixels: float) -> Sample:
        """The sample of an input.

        Raises:
            HTTPException: a JSON value has a wrong type, or the content is empty.
            UserError: the content cannot be decoded.
        """
        feature = self.inputs[name]
        if isinstance(content, Json):
            try:
                content = feature.from_json(content.value)
            except ValueError as error:
                raise HTTPException(422, f'"{name}": expected {feature.in_json}: {error}.') from error
        if not content:
            label = f"The {feature.item}" if self.alone else f'"{name}"'
            raise HTTPException(400, f"{label} is empty: it has no bytes.")
        return feature.decode(content, max_megapixels)

    async def _of_form(self, request: Request, body: bytes) -> dict[str, bytes]:
        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        most = len(self.inputs)
        limits = {"max_files": most, "max_fields": most + 9, "max_part_size": len(body)}
        try:
            form = await MultiPartParser(_boundary(request), stream(), **limits).parse()
        except (MultiPartException, ValueError) as error:
            reason = getattr(error, "message", "expected multipart/form-data with a boundary").rstrip(".")
            raise HTTPException(400, f"The form cannot be read: {reason}.") from error
        try:
            return {name: await self._part(form, name) for name in self.inputs}
        finally:
            await form.close()

    async def _part(self, form: FormData, name: str) -> bytes:
        key = "file" if self.alone else name
        parts = form.getlist(key.encode().decode(BYTES))
        if len(parts) > 1:
            raise HTTPException(422, f'The form has {len(parts)} parts named "{key}"; send one.')
        if self.alone and not any(isinstance(part, UploadFile) for part in parts):
            raise HTTPException(422, 'The form has no file named "file".')
        if not parts and (default := self.inputs[name].default) is not None:
            return default.encode()
        if not parts:
            raise HTTPException(422, f'The form has no part named "{name}"; send {self.takes}.')
        (part,) = parts
        return await part.read() if isinstance(part, UploadFile) else part.encode(BYTES)

    def _of_json(self, body: bytes) -> dict[str, Json]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"The body is not JSON: {error}.") from error
        for name, feature in self.inputs.items():
            if not isinstance(content, dict) or content.get(name, feature.default) is None:
                raise HTTPException(422, f'The JSON has no "{name}"; send {self.in_json}.')
        return {name: Json(content.get(name, feature.default)) for name, feature in self.inputs.items()}


def _boundary(request: Request) -> Headers:
    """The content type of a form with its boundary only. Other parameters, such as a charset, are ignored.

    Raises:
        ValueError: there is no boundary.
    """
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise ValueError("no boundary")
    return Headers({"content-type": f'multipart/form-data; charset={BYTES}; boundary="{boundary.decode()}"'})


def _quoted(in_json: str) -> str:
    return in_json if in_json.startswith("[") else f'"{in_json}"'


def too_long(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than {max_bytes / 1e6:g} MB.")
