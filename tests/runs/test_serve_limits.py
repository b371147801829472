"""Many clients, slow clients, and large pictures: the server answers the others, and stops in time."""

import asyncio
import io
import resource
import struct
import time
import zlib
from contextlib import asynccontextmanager, suppress

import httpx
import numpy as np
import pytest
from PIL import Image

from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.features import read_image
from lab.features.image import Image as Picture
from lab.features.labels import ClassLabel
from lab.verbs.predictor import Predictor
from lab.verbs.serve import limits, server
from lab.verbs.serve.limits import ByteBudget, Server
from lab.verbs.serve.main import bound_socket

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"

WRITERS = []


def run(main):
    async def whole():
        try:
            await main()
        finally:
            while WRITERS:
                WRITERS.pop().close()

    asyncio.run(whole())


def grey(level=7):
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def decoded(content):
    """The image in a request of at most two megapixels."""
    return Picture(1, 4).decode(content, 2)["image"]


def build(*overrides, seconds=0.0):
    def predict(arrays):
        time.sleep(seconds)
        return {"class": np.tile(np.float32([0.75, 0.25]), (len(arrays["image"]), 1))}

    asked = Predictor({"image": Picture(1, 4)}, {"class": ClassLabel(["a", "b"], entry="class")}, predict)
    return server.build(compose_config("serve", list(overrides)), asked, "x", {"localhost"})


@asynccontextmanager
async def running(app, seconds):
    """A server in this process, and how to connect to it."""
    door = bound_socket("127.0.0.1", 0)
    served = Server(app, seconds, app.state.stop)
    task = asyncio.create_task(served._serve([door]))
    while not served.started:
        await asyncio.sleep(0.01)
    host, port = door.getsockname()

    async def connect():
        reader, writer = await asyncio.open_connection(host, port)
        WRITERS.append(writer)
        return reader, writer

    yield connect
    served.should_exit = True
    await asyncio.wait_for(task, 15)


async def answer_to(connect, sent):
    reader, writer = await connect()
    writer.write(sent)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    return reader, writer, int(head.split()[1])


@pytest.mark.parametrize("sent", [b"", b"POST /pre", HEAD])
def test_connections_without_a_request_make_room_for_those_with_one(sent, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))

    async def main():
        async with running(build(), seconds=30) as connect:
            idle = [await connect() for _ in range(40)]
            for _, writer in idle:
                with suppress(ConnectionError):
                    writer.write(sent)
            busy = [await answer_to(connect, HEAD + b"Content-Length: 1\r\n\r\n#") for _ in range(3)]
            assert [status for *_, status in busy] == [400] * 3
            closed = [reader.at_eof() or reader.exception() for reader, _ in idle]
            assert all(closed[:30]), "the oldest go first"
            begin = time.monotonic()
        assert time.monotonic() - begin < 2, "a connection without a request is closed at once"

    run(main)


@pytest.mark.parametrize("limit", [(1024, 8), (resource.RLIM_INFINITY, 1)])
def test_the_limit_of_files_may_be_missing(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    assert Server(None, 1, None).config.backlog in (32, 64)


@pytest.mark.parametrize("sent", [b"", b"GE", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"])
def test_the_head_of_a_request_has_its_time(sent):
    async def main():
        async with running(build(), seconds=0.3) as connect:
            reader, writer = await connect()
            writer.write(sent)
            begin = time.monotonic()
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            assert time.monotonic() - begin < 2

    run(main)


def test_connections_that_are_accepted_during_the_stop_are_closed():
    async def main():
        async with running(build(), seconds=30) as connect:
            for _ in range(100):
                await connect()
            begin = time.monotonic()
        assert time.monotonic() - begin < 2

    run(main)


def test_what_was_received_is_answered_before_the_stop():
    async def main():
        body = grey()
        async with running(build("max_batch=1", seconds=0.2), seconds=5) as connect:
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            whole = [await connect() for _ in range(5)]
            for _, writer in whole:
                writer.write(HEAD + length + body)
            half = await connect()
            half[1].write(HEAD + length + body[:9])
            await asyncio.sleep(0.2)
            asyncio.get_running_loop().call_later(0.3, half[1].write, body[9:])
        for reader, _ in [*whole, half]:
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")

    run(main)


def test_what_takes_too_long_for_the_stop_is_told(monkeypatch):
    monkeypatch.setattr(limits, "GRACE", 0.3)

    async def main():
        async with running(build("timeout_s=60"), seconds=5) as connect:
            silent = await connect()
            silent[1].write(HEAD + b"Content-Length: 9\r\n\r\n123")
            await asyncio.sleep(0.2)
            begin = time.monotonic()
        assert time.monotonic() - begin < 3
        answer = await silent[0].read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"The server is stopping" in answer

    run(main)


async def posted(body, *overrides, headers=None):
    app = build(*overrides)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        return await client.post("/predict", content=body, headers={"Content-Type": "image/png"} | (headers or {}))


async def dripping(content, pause, sent=None):
    for i in range(0, len(content), -(-len(content) // 5)):
        yield content[i : i + -(-len(content) // 5)]
        if sent is not None:
            sent.append(i)
        await asyncio.sleep(pause)


@pytest.mark.parametrize(("pause", "status"), [(0.2, 200), (0, 200), (0.8, 408)])
def test_only_silence_counts(pause, status):
    answer = asyncio.run(posted(dripping(grey(), pause), "timeout_s=0.5"))
    assert answer.status_code == status, answer.text


def test_a_body_that_keeps_coming_does_not_do_so_for_ever(monkeypatch):
    monkeypatch.setattr(server, "SLOWEST", 1)
    assert asyncio.run(posted(dripping(grey(), 0.25), "timeout_s=0.3")).status_code == 408


@pytest.mark.parametrize(
    ("overrides", "headers", "status"),
    [
        (["max_body_mb=0.001"], {}, 413),
        (["max_body_mb=0.001"], {"Content-Length": "5000"}, 413),
        ([], {"Content-Type": "audio/wav"}, 415),
        ([], {"Host": "evil.example"}, 421),
    ],
)
def test_an_error_waits_for_a_client_that_still_sends(overrides, headers, status):
    sent = []
    answer = asyncio.run(posted(dripping(bytes(5000), 0.01, sent), *overrides, headers=headers))
    assert (answer.status_code, len(sent)) == (status, 5)


def test_too_many_requests_are_told_after_their_bodies(monkeypatch):
    monkeypatch.setattr(server, "MAX_REQUESTS", 0)
    sent = []
    answer = asyncio.run(posted(dripping(grey(), 0.01, sent)))
    assert (answer.status_code, len(sent)) == (503, 5)


@pytest.fixture
def small(monkeypatch):
    """A server that holds 3 kB of bodies, of which 100 bytes each are free."""
    for name, value in {"SMALL": 100, "MIN_RATE": 1000, "WATCH": 0.1}.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(server, "HELD", 3000)


def padded(num_bytes):
    return grey().ljust(num_bytes, b"x")


async def upload(connect, declared, body):
    reader, writer = await connect()
    writer.write(HEAD + f"Content-Length: {declared}\r\n\r\n".encode() + body)
    return reader, writer


async def status_of(reader):
    """0: there is no answer."""
    try:
        return int((await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 4)).split()[1])
    except TimeoutError:
        return 0


@pytest.mark.parametrize("sent", [0, 1, 100, 900])
@pytest.mark.parametrize("declared", [1000, 10_000_000])
def test_slow_clients_hold_up_nobody(sent, declared, small):
    """Ten of them: some fill the budget, and wait for more."""

    async def main():
        async with running(build("timeout_s=5"), seconds=5) as connect:
            slow = [await upload(connect, declared, bytes(sent)) for _ in range(10)]
            await asyncio.sleep(0.1)
            begin = time.monotonic()
            assert await status_of((await upload(connect, len(grey()), grey()))[0]) == 200
            assert time.monotonic() - begin < 1, "a small request does not wait"
            for size in (1000, 2900):
                assert await status_of((await upload(connect, size, padded(size)))[0]) == 200
            closed = [reader for reader, _ in slow if reader._buffer]
            assert bool(closed) == (sent == 900), "only those that others wait for are closed"
            for reader in closed:
                assert await status_of(reader) == 408
            for _, writer in slow:
                writer.close()

    run(main)


def test_many_large_bodies_are_all_answered_within_the_budget(small):
    """All have a part of the budget before any is whole."""

    async def main():
        app = build("timeout_s=1")
        async with running(app, seconds=5) as connect:
            half = [await upload(connect, 2000, padded(1000)) for _ in range(20)]
            await asyncio.sleep(0.1)
            for _, writer in reversed(half):
                writer.write(bytes(1000))
            assert [await status_of(reader) for reader, _ in half] == [200] * 20

    run(main)


def test_who_waits_for_the_budget_waits_without_a_clock(small, monkeypatch):
    monkeypatch.setattr(limits, "MIN_RATE", 0)

    async def main():
        async with running(build("timeout_s=0.5"), seconds=5) as connect:
            _, writer = await upload(connect, 4000, bytes(2950))
            await asyncio.sleep(0.1)
            waits = await upload(connect, 2000, padded(2000))
            for _ in range(5):
                writer.write(b"x")
                await asyncio.sleep(0.3)
            assert not waits[0]._buffer
            writer.close()
            assert await status_of(waits[0]) == 200

    run(main)


def test_the_budget_is_given_back_whatever_happens(monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 2)

    async def main():
        budget, most = ByteBudget(10), 0

        async def use(size, fail=False):
            nonlocal most
            async with budget.body() as body:
                for total in range(1, size + 1):
                    await budget.grow(body, total)
                    await asyncio.sleep(0)
                    most = max(most, sum(body.held for body in budget.bodies))
                if fail:
                    raise ValueError

        await asyncio.gather(*(use(size, size == 3) for size in (12, 3, 9, 1, 14, 12, 3)), return_exceptions=True)
        assert (budget.free, dict(budget.bodies)) == (10, {})
        assert 10 < most <= 10 + 12, "the oldest may always grow"
        async with budget.body() as body:
            await budget.grow(body, 11)
            waiter = asyncio.create_task(use(12))
            await asyncio.sleep(0.01)
            waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert (budget.free, dict(budget.bodies)) == (10, {})

    run(main)


def icon(inner, says=16):
    """An .ico file, whose directory says another size than the picture has."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, says, says, 0, 0, 1, 32, len(inner), 22) + inner


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def late_header(kind, content, side=1500):
    """A PNG whose first chunk is not IHDR; PIL takes it."""
    signature, png = b"\x89PNG\r\n\x1a\n", saved(Image.new("1", (side, side)), "PNG")
    return signature + chunk(kind, content) + png.removeprefix(signature)


def dib(*head):
    return struct.pack(*head).ljust(100, b"\0")


def tiled(side, tile):
    """A TIFF of one tile, which may be larger than its picture."""
    tile_bytes = zlib.compress(bytes(tile * tile))
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 134, 325: len(tile_bytes)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile_bytes


def animated(screen, frame):
    gif = saved(Image.new("P", (frame, frame)), "GIF")
    return gif[:6] + struct.pack("<HH", screen, screen) + gif[10:]


def two_icons():
    """PIL takes the one that says the larger size."""
    small, large = saved(Image.new("1", (16, 16)), "PNG"), saved(Image.new("1", (1500, 1500)), "PNG")
    entries = (
        struct.pack("<BBBBHHII", 8, 8, 0, 0, 1, 32, len(small), 38),
        struct.pack("<BBBBHHII", 9, 9, 0, 0, 1, 32, len(large), 38 + len(small)),
    )
    return struct.pack("<HHH", 0, 1, 2) + b"".join(entries) + small + large


LARGE = {
    "an icon that says 16 x 16": icon(saved(Image.new("1", (1500, 1500)), "PNG")),
    "an icon of a bitmap": icon(struct.pack("<IiiHHIIiiII", 40, 1500, 3000, 1, 32, 0, 0, 0, 0, 0, 0)),
    "an icon of a bitmap from top to bottom": icon(dib("<IiiHH", 40, 1500, -3000, 1, 32)),
    "an icon of a bitmap with a long header": icon(dib("<IiiHH", 64, 1500, 3000, 1, 32)),
    "an icon of a bitmap of 1990": icon(dib("<IHHHH", 12, 1500, 3000, 1, 24)),
    "an icon of two": two_icons(),
    "an icon of 16 bits": icon(saved(Image.new("I;16", (900, 900)), "PNG")),
    "an icon with gAMA before IHDR": icon(late_header(b"gAMA", struct.pack(">I", 45455))),
    "an icon with a size before IHDR": icon(late_header(b"tEXt", b"\0\0\0\1\0\0\0\1x")),
    "a PNG with a size before IHDR": late_header(b"tEXt", b"\0\0\0\1\0\0\0\1x"),
    "a GIF frame larger than the screen": animated(16, 1500),
    "a GIF screen larger than the frame": animated(1500, 16),
    "a TIFF tile larger than the picture": tiled(16, 1600),
    "a float TIFF": saved(Image.new("F", (900, 900)), "TIFF", compression="tiff_lzw"),
    "a 16-bit TIFF": saved(Image.new("I;16", (900, 900)), "TIFF", compression="tiff_lzw"),
    "a 16-bit PNG": saved(Image.new("I;16", (900, 900)), "PNG"),
    "a grey PNG": saved(Image.new("1", (1500, 1500)), "PNG"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_is_refused_by_its_header(name, monkeypatch):
    monkeypatch.setattr(read_image, "to_eight_bits", lambda _: 1 / 0)  # which would decode it
    try:
        said = str(decoded(LARGE[name]))
    except UserError as error:
        said = f"{type(error).__name__}: {error}"
    assert said.startswith("TooLargeError: The image has more than 2 megapixels"), said


def test_what_is_within_the_limit_is_answered():
    icons = [icon(saved(Image.new("L", (16, 16), 9), "PNG")), saved(Image.new("RGB", (32, 32), (9, 9, 9)), "ICO")]
    deep = saved(Image.new("I;16", (700, 700), 99), "TIFF")
    for content, level in ((icons[0], 9), (icons[1], 9), (deep, 255), (grey(9), 9), (tiled(16, 16), 0)):
        assert (decoded(content) == level).all()


def fits():
    cards = (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 4", b"NAXIS2  = 4", b"END")
    return b"".join(card.ljust(80) for card in cards).ljust(2880) + bytes(2880)


def lying_avif():
    """Its container says 16 x 16."""
    avif = saved(Image.new("L", (64, 64)), "AVIF")
    at = avif.index(b"ispe") + 8
    return avif[:at] + struct.pack(">II", 16, 16) + avif[at + 8 :]


def cursor():
    return b"\0\0\2\0" + icon(dib("<IiiHHIIiiII", 40, 8, 16, 1, 1, 0, 0, 0, 0, 0, 0) + bytes(200))[4:]


@pytest.mark.parametrize("made", [fits, lying_avif, cursor])
def test_a_format_that_decodes_more_than_its_header_says_is_not_taken_over_a_network(made):
    content = made()
    assert read_image.read_image(io.BytesIO(content), 1, 4).shape == (1, 4, 4)
    with pytest.raises(UserError, match="not an image, or its format is unknown"):
        decoded(content)


@pytest.mark.parametrize("kind", sorted(set(read_image.BOUNDED) - {"MPO"}))
def test_formats_of_known_size_are_taken(kind):
    assert (decoded(saved(Image.new("RGB", (16, 16), (9, 9, 9)), kind)) == 9).all()


def test_a_jpeg_of_another_size_than_its_header_says_is_not_decoded():
    jpeg = saved(Image.new("L", (64, 64)), "JPEG2000")
    at = jpeg.index(b"ihdr") + 4
    with pytest.raises(UserError, match="can't be read"):
        decoded(jpeg[:at] + struct.pack(">II", 16, 16) + jpeg[at + 8 :])


def test_deep_pictures_are_scaled_row_by_row():
    level = np.random.default_rng(0).normal(0, 300, (7, 5)).astype(np.float32)
    expected = (level.astype(np.float64).clip(0) * (255 / float(level.max()))).astype(np.uint8)
    assert (np.asarray(read_image.to_eight_bits(Image.fromarray(level))) == expected).all()
