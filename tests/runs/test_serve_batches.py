"""Requests that wait together are one batch; who waits too long, and what fails, is told."""

import asyncio
import io
import time

import httpx
import numpy as np
from PIL import Image

from lab.engine.config.compose import compose_config
from lab.features.image import Image as Picture
from lab.features.labels import ClassLabel
from lab.verbs.predictor import Predictor
from lab.verbs.serve.server import MAX_REQUESTS, build


class Slow:
    """A model that takes its time, and counts the images that it gets together."""

    def __init__(self, seconds):
        self.seconds, self.sizes = seconds, []

    def __call__(self, images):
        self.sizes.append(len(images))
        time.sleep(self.seconds)
        if images.max() == 255:
            raise RuntimeError("out of memory")
        return np.tile(np.float32([0.75, 0.25]), (len(images), 1))


async def asked_at_once(slow, pictures, *overrides):
    """Status codes and errors, through the application itself."""
    app = build(
        compose_config("serve", list(overrides)),
        Predictor(
            {"image": Picture(1, 4)},
            {"class": ClassLabel(["a", "b"], entry="class")},
            lambda x: {"class": slow(x["image"])},
        ),
        "slow",
        {"localhost"},
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
        ) as client,
    ):
        answers = await asyncio.gather(
            *(client.post("/predict", content=content, headers={"Content-Type": "image/png"}) for content in pictures)
        )
    return [(answer.status_code, answer.json().get("error", "")) for answer in answers]


def grey(level):
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def test_requests_that_wait_together_are_answered_together():
    slow = Slow(0.05)
    answers = asyncio.run(asked_at_once(slow, [grey(7)] * 100, "max_batch=16"))
    assert answers == [(200, "")] * 100
    assert max(slow.sizes) == 16
    assert len(slow.sizes) < 25, slow.sizes


def test_who_waits_too_long_and_who_is_too_many_is_told():
    answers = asyncio.run(asked_at_once(Slow(1), [grey(7)] * 3, "max_batch=1", "timeout_s=0.5"))
    assert {status for status, _ in answers} == {503}
    assert all("took more than 0.5 s" in error for _, error in answers)
    answers = asyncio.run(asked_at_once(Slow(0.1), [grey(7)] * (MAX_REQUESTS + 5)))
    assert [status for status, _ in answers].count(503) == 5
    assert [status for status, _ in answers].count(200) == MAX_REQUESTS


def test_a_model_that_fails_is_said_and_the_next_are_answered():
    answers = asyncio.run(asked_at_once(Slow(0), [grey(255), grey(7)], "max_batch=1"))
    assert answers == [(500, "The server failed, not the request: RuntimeError."), (200, "")]
