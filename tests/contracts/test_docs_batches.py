"""The table of batch entries and facts in docs/extending.md, compared with real batches."""

import re
from pathlib import Path

import pytest

from lab.build import read_data
from lab.engine.config.compose import compose_config

PAGE = Path(__file__).parents[2] / "docs/extending.md"
EXPERIMENTS = {"images": "digits", "texts": "language_id", "translation": "translate_emoji"}
ENTRY = re.compile(r"`(\w+)` \(([^)]*)\) (\w+)")
ROW = re.compile(r"\| (images|texts|translation) \| (.*?) \| (.*?) \| (.*?) \|")


@pytest.mark.parametrize("row", ROW.findall(PAGE.read_text(encoding="utf-8")), ids=lambda row: row[0])
def test_a_batch_has_the_entries_and_facts_of_its_row(row):
    kind, features, entries, facts = row
    data = read_data(compose_config("train", [f"experiment={EXPERIMENTS[kind]}", "data.tiny=true", "trainer=cpu"]))
    assert features.split(", ") == list(data.facts.features)
    data.prepare_data()
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())))
    for name, shape, dtype in ENTRY.findall(entries):
        assert batch[name].ndim == len(re.findall(r"\w+", shape)), name
        assert str(batch[name].dtype) == f"torch.{dtype}", name
    assert set(re.findall(r"`(\w+)`", facts)) <= data.facts.arguments().values.keys()


def test_every_row_of_the_table_is_read():
    assert [row[0] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))] == list(EXPERIMENTS)
