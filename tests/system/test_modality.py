"""A modality can be deleted: it consists of files, and the other files have no conditions for it."""

import os
import re
import shutil
import subprocess
import sys
from itertools import chain

import pytest
from conftest import CONF

ROOT = CONF.parent
MODALITIES = {
    "texts": [
        "src/lab/data/{text,text_files,text_hub,tiny_text,pairs,translation}.py",
        "src/lab/features/{text,tokens}.py",
        "src/lab/verbs/explain/texts.py",
        "src/lab/nets/{ngrams,recurrent,transformer,seq2seq,transformer_seq2seq,sentence_encoder}.py",
        "src/lab/tasks/{translation,beam_search}.py",
        "src/lab/figures/attention.py",
        "src/lab/metrics/translation.py",
        "conf/data/{emoji_languages,text_table,text_folder,ag_news,imdb,sst2,emoji_translations,pairs}.yaml",
        "conf/net/{rnn,lstm,gru,wide_lstm,transformer,seq2seq,transformer_seq2seq,sentence_encoder}.yaml",
        "conf/task/translation.yaml",
        "conf/experiment/{language_id,sentiment,translate_emoji,translate_tatoeba}.yaml",
        "tests/unit/{test_pairs,test_text_files,test_text_names,test_text_report}.py",
        "tests/contracts/{test_text_nets,test_tokens}.py",
        "tests/runs/{test_beam_search,test_pretrained,test_text,test_text_answers,test_translation}.py",
        "tests/system/test_modality.py",
    ],
    "audio": [
        "src/lab/data/{audio,audio_folder,augment_audio,espeak,spoken_digits,spoken_words,tiny_audio,waveforms}.py",
        "src/lab/features/{audio,read_audio}.py",
        "src/lab/figures/audio.py",
        "src/lab/nets/{audio,audio_encoder,log_mel}.py",
        "src/lab/verbs/explain/audio.py",
        "conf/data/{audio_folder,google_commands,spoken_digits,spoken_words}.yaml",
        "conf/net/{audio_cnn,audio_crnn,audio_encoder}.yaml",
        "conf/experiment/{audio_folder,google_commands,speech_commands,spoken_digits}.yaml",
        "docs/audio.md",
        "bench/{audio_loop,spoken_digits}.py",
        "tests/contracts/{test_audio,test_audio_data,test_audio_nets,test_spoken_words}.py",
        "tests/runs/test_audio_runs.py",
        "tests/runs/microphone.mjs",
        "tests/system/test_microphone.py",
        "tests/system/test_modality.py",
    ],
    "boxes": [
        "src/lab/data/{boxes,box_augment,box_checks,box_documents,box_files,box_formats,box_records,box_rows}.py",
        "src/lab/data/digit_scenes.py",
        "src/lab/features/{boxes,letterbox}.py",
        "src/lab/figures/detection.py",
        "src/lab/metrics/detection.py",
        "src/lab/nets/{assignment,detector,torchvision_detection}.py",
        "src/lab/tasks/{detection,suppression}.py",
        "conf/data/{box_files,digit_scenes}.yaml",
        "conf/net/{detector,torchvision_detection}.yaml",
        "conf/task/detection.yaml",
        "conf/experiment/{detect,detect_digits}.yaml",
        "docs/detection.md",
        "bench/detection.py",
        "tests/box_data.py",
        "tests/unit/{test_box_files,test_boxes}.py",
        "tests/runs/test_detection.py",
        "tests/system/test_modality.py",
    ],
}
# All tests are collected. These run: the checks of every experiment, the contracts of nets, and one experiment.
REST = "test_config.py or (TestEveryNet and (mlp or cnn)) or (test_every_experiment_runs and digits)"


def without(modalities, folder):
    """Copy the repository without the files of modalities; return the names of the deleted modules."""
    for name in (
        "src",
        "conf",
        "tests",
        "bench",
        "docs",
        "notebooks",
        "README.md",
        "README.zh-CN.md",
        "AGENTS.md",
        "pyproject.toml",
        "Makefile",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    gone = []
    for pattern in dict.fromkeys(chain.from_iterable(MODALITIES[name] for name in modalities)):
        names = re.search(r"\{(.*)\}", pattern)
        for name in names[1].split(",") if names else [""]:
            path = folder / re.sub(r"\{.*\}", name, pattern)
            path.unlink()
            gone.append(path.stem)
    told = re.compile(rf"\b({'|'.join(gone)})\b")
    for page in (*folder.glob("README*.md"), *folder.glob("docs/*.md")):
        lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = (line for line in lines if not (line.startswith("lab ") and told.search(line)))
        page.write_text("".join(kept), encoding="utf-8")
    return gone


@pytest.mark.parametrize("modalities", [("texts",), ("audio", "boxes")])  # each copy takes half a minute
def test_the_rest_passes_its_tests_without_a_modality(modalities, tmp_path):
    without(modalities, tmp_path)
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", REST]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
