"""The inputs in the body of a request: raw, in a form, or in JSON. Every error is a sentence."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lab.features.base import Feature, Sample


@dataclass(frozen=True)
class Json:
    value: Any


Content = bytes | Json  # of one input


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

    async def contents_of(self, request: Request, kind: str, body: bytes) -> dict[str, Content]:
        """The content of each input."""
        if not body:
            raise HTTPException(400, f"The body is empty; send {self.takes}.")
        contents: dict[str, Content] = {}
        if kind == "multipart/form-data":
            contents |= await self._of_form(request, body)
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
            raise HTTPException(400, f"The {feature.item} is empty: it has no bytes.")
        return feature.decode(content, max_megapixels)

    async def _of_form(self, request: Request, body: bytes) -> dict[str, bytes]:
        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        most = len(self.inputs)
        try:
            form = await MultiPartParser(request.headers, stream(), max_files=most, max_fields=most + 9).parse()
        except (MultiPartException, KeyError, ValueError) as error:  # KeyError: no boundary
            reason = getattr(error, "message", "it is no multipart/form-data with a boundary").rstrip(".")
            raise HTTPException(400, f"The form can't be read: {reason}.") from error
        try:
            return {name: await self._part(form, name) for name in self.inputs}
        finally:
            await form.close()

    async def _part(self, form: Mapping[str, UploadFile | str], name: str) -> bytes:
        part = form.get("file" if self.alone else name)
        if self.alone and not isinstance(part, UploadFile):
            raise HTTPException(422, 'The form has no file named "file".')
        if part is None:
            raise HTTPException(422, f'The form has no part named "{name}"; send {self.takes}.')
        return await part.read() if isinstance(part, UploadFile) else part.encode(errors="surrogateescape")

    def _of_json(self, body: bytes) -> dict[str, Json]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"The body is no JSON: {error}.") from error
        for name in self.inputs:
            if not isinstance(content, dict) or content.get(name) is None:
                raise HTTPException(422, f'The JSON has no "{name}"; send {self.in_json}.')
        return {name: Json(content[name]) for name in self.inputs}


def _quoted(in_json: str) -> str:
    return in_json if in_json.startswith("[") else f'"{in_json}"'


def too_long(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body has more than {max_bytes / 1e6:g} MB; send less.")
