"""The inputs in the body of a request: raw, in a form, or in JSON. Every error is a sentence."""

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
    value: Any


Content = bytes | Json  # of one input
BOUNDARY = re.compile(rb"[ \w'()+,./:=?-]{1,70}", re.ASCII)  # RFC 2046
BYTES = "latin-1"  # the charset in which names and values of a form are the bytes that were sent


class Form:
    """Reads requests: of one input its bytes, or a form with it as "file"; of several a form with a part for each."""

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
        """The content type of a request; raises HTTPException if its head shows that the body can't be used."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        raw = self.alone is not None and kind.startswith(self.alone.content_types)
        if not (raw or kind in ("multipart/form-data", "application/json")):
            raise HTTPException(415, f"The content type is {kind or 'missing'}; send {self.takes}.")
        if int(request.headers.get("content-length", 0)) > max_bytes:
            raise too_long(max_bytes)
        return kind

    def contents_of(self, request: Request, kind: str, body: bytes) -> dict[str, Content]:
        """The content of each input. It takes seconds for a large body, so the event loop leaves it to a thread."""
        if not body:
            raise HTTPException(400, f"The body is empty; send {self.takes}.")
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
            HTTPException: JSON has another type than expected; an image is empty.
            UserError: the content is not readable.
        """
        feature = self.inputs[name]
        if isinstance(content, Json):
            try:
                content = feature.from_json(content.value)
            except ValueError as error:
                raise HTTPException(422, f'"{name}" is not {feature.in_json}: {error}.') from error
        if not content:
            what = f"The {feature.item}" if self.alone else f'"{name}"'
            raise HTTPException(400, f"{what} is empty: it has no bytes.")
        return feature.decode(content, max_megapixels)

    async def _of_form(self, request: Request, body: bytes) -> dict[str, bytes]:
        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        most = len(self.inputs)
        limits = {"max_files": most, "max_fields": most + 9, "max_part_size": len(body)}
        try:
            form = await MultiPartParser(_boundary(request), stream(), **limits).parse()
        except (MultiPartException, ValueError) as error:
            reason = getattr(error, "message", "it is no multipart/form-data with a boundary").rstrip(".")
            raise HTTPException(400, f"The form can't be read: {reason}.") from error
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
        if not parts:
            raise HTTPException(422, f'The form has no part named "{name}"; send {self.takes}.')
        (part,) = parts
        return await part.read() if isinstance(part, UploadFile) else part.encode(BYTES)

    def _of_json(self, body: bytes) -> dict[str, Json]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"The body is no JSON: {error}.") from error
        for name in self.inputs:
            if not isinstance(content, dict) or content.get(name) is None:
                raise HTTPException(422, f'The JSON has no "{name}"; send {self.in_json}.')
        return {name: Json(content[name]) for name in self.inputs}


def _boundary(request: Request) -> Headers:
    """A form's content type with nothing but its boundary: any other parameter, such as a charset, is not obeyed.

    Raises:
        ValueError: it has none.
    """
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise ValueError("no boundary")
    return Headers({"content-type": f'multipart/form-data; charset={BYTES}; boundary="{boundary.decode()}"'})


def _quoted(in_json: str) -> str:
    return in_json if in_json.startswith("[") else f'"{in_json}"'


def too_long(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body has more than {max_bytes / 1e6:g} MB; send less.")
