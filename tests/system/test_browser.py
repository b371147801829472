"""The pages of TensorBoard and of `lab serve` in a real browser."""

import base64
import re
import socket
import subprocess
import sys
import time
import urllib.request
from shutil import which

import numpy as np
import pytest
from conftest import LAB, TINY
from PIL import Image

from lab.data import tiny_audio
from lab.features.read_audio import read_audio, wav

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
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


@needs_browser
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


@pytest.fixture
def page_of_words(lab, tmp_path):
    """The address of `lab serve`, with a run that knows three made-up words."""
    words = ["experiment=audio_folder", "data.tiny=true", "data.sample_rate=8000", "net.num_mels=40", "trainer=cpu"]
    done = lab("train", *words, "data.batch_size=16", "trainer.max_epochs=12", "figures=false", f"run={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    command = [LAB, "serve", f"run={tmp_path}/run", "port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield re.search(r"http://\S+", process.stdout.readline())[0]
    process.terminate()
    process.wait()
    process.stdout.close()


@needs_browser
def test_a_word_is_recorded_answered_and_played(page_of_words, tmp_path):
    """The microphone is a file that Chromium plays."""
    spoken = tiny_audio.word("we", 1.0, 99)
    (tmp_path / "microphone.wav").write_bytes(wav(np.concatenate([spoken, np.zeros(8000)]), tiny_audio.RATE))
    microphone = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    microphone.append(f"--use-file-for-fake-audio-capture={tmp_path}/microphone.wav%noloop")
    with sync_api.sync_playwright() as browsers:
        arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required", *microphone]
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.goto(page_of_words)
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Stop", exact=True).wait_for()
        page.wait_for_timeout(1200)
        page.get_by_role("button", name="Stop", exact=True).click()
        player = page.locator("#shown audio").first
        player.wait_for(timeout=60_000)
        assert page.locator("#error").is_hidden()
        answers = page.locator("#answers .bar").all_inner_texts()
        heard = read_audio(base64.b64decode(player.get_attribute("src").partition(",")[2]), tiny_audio.RATE, 10)
        played = player.evaluate("""async audio => {
            await audio.play();
            await new Promise(done => audio.onended = done);
            return [audio.duration, audio.currentTime];
        }""")
        browser.close()
    assert sorted(answer.split()[0] for answer in answers) == ["oh", "we", "ya"]
    assert 0.5 < heard.seconds < 10
    assert abs(heard.waveform).max() > 0.1, "the word is in it"
    assert played == pytest.approx([heard.seconds] * 2, abs=0.01)
