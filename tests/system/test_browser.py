"""The pages of TensorBoard in a real browser."""

import socket
import subprocess
import sys
import time
import urllib.request
from shutil import which

import pytest
from conftest import TINY
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = which("chromium")
TABS = {  # what a tab shows, and words that are on it once it has
    "timeseries": ("tagFilter=val%2Facc", "val/acc"),
    "images": ("", "test/confusion"),
    "hparams": ("", "optimizer.lr"),
}


@pytest.fixture
def tensorboard(tmp_path):
    """Its address, over the runs in `tmp_path/logs`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path}/logs", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/data/runs", timeout=5).close()
            break
        except OSError:
            time.sleep(0.3)
    yield address
    process.terminate()
    process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_scalars_images_and_hyperparameters_are_on_the_screen(lab, tensorboard, tmp_path):
    words = [word for word in TINY.split() if not word.startswith("figures")]
    assert lab("train", "-m", "experiment=digits", *words, "optimizer.lr=1e-2,1e-3").returncode == 0
    with sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for tab, (query, word) in TABS.items():
            page.goto(f"{tensorboard}/?{query}#{tab}", wait_until="networkidle")
            page.get_by_text(word).first.wait_for(timeout=60_000)
            page.wait_for_timeout(2000)
            page.screenshot(path=tmp_path / f"{tab}.png")
            with Image.open(tmp_path / f"{tab}.png") as picture:
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 100, f"{tab} is blank"
        browser.close()
    assert all(url.startswith((tensorboard, "data:", "blob:")) for url in asked)
