"""Texts can be deleted: what is about them is files, not conditions."""

import os
import re
import shutil
import subprocess
import sys

from conftest import CONF

ROOT = CONF.parent
TEXTS = (
    "src/lab/data/{text,text_files,text_hub,read_table,tiny_text,pairs,translation}.py",
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
    "tests/unit/{test_text_files,test_text_names,test_text_report}.py",
    "tests/contracts/{test_text_nets,test_tokens}.py",
    "tests/runs/{test_pretrained,test_text,test_text_answers,test_translation}.py",
    "tests/system/test_modality.py",
)
FAST = [
    "tests/unit/test_config.py",
    "tests/contracts/test_nets.py",
    "-k",
    "not torchvision and not pretrained and not res and not airbench",
]


def without_texts(folder):
    """A copy of the repository without what is about texts; returns the names of what is gone."""
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
    for pattern in TEXTS:
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


def test_without_texts_the_others_pass_their_tests(tmp_path):
    without_texts(tmp_path)
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    for more in (["--collect-only"], FAST):
        result = subprocess.run([*pytest, *more], cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
