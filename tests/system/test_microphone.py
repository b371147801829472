"""The page of `lab serve` records a word with the microphone of a real browser."""

import base64
import re
import subprocess
from shutil import which

import numpy as np
import pytest
from conftest import LAB

from lab.data import tiny_audio
from lab.features.read_audio import read_audio, wav

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = which("chromium")


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


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
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
    assert 0.1 < heard.seconds < 1, "silence is left out"
    assert abs(heard.waveform).max() > 0.1, "the word is in it"
    assert played == pytest.approx([heard.seconds] * 2, abs=0.01)
