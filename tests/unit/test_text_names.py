"""Names that are not UTF-8, control characters and formulas in what is drawn of texts."""

import html

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_names import NASTY, shown

from lab.engine.display import printable, printable_lines
from lab.features import tokens
from lab.features.text import Text
from lab.figures.attention import attention
from lab.verbs.explain import texts as explain_texts
from lab.verbs.explain.group import Group


@pytest.mark.parametrize("name", NASTY)
def test_an_explanation_of_a_text_shows_a_name_as_it_is(name, tmp_path):
    folder = tmp_path / "explain"
    folder.mkdir()
    inputs = Text(tokens.train_tokenizer(["a b"], "characters", 20, 1, 9), 9)
    row = inputs.read(["ab"])[0][0]["token"]
    group = Group("texts", name, ["ab"], [row], torch.tensor([0]), torch.tensor([0.5]))
    path = explain_texts.TextExplainer(inputs).draw(group, {"a": [torch.zeros(len(row))]}, [name], folder)
    assert f"<h1>{html.escape(printable(name))}</h1>" in path.read_text(encoding="utf-8")
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["explain/texts"]
    assert printable_lines(name) in shown(explain_texts.coloured(name, [name], [([name], torch.ones(1))]))


@pytest.mark.parametrize("name", NASTY)
def test_attention_shows_a_token_as_it_is(name):
    assert printable_lines(name) in shown(attention([torch.ones(1, 1)], [[name]], [["x"]]))
