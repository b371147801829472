"""Nets that read, beside n-grams and logistic regression (scikit-learn) on the same splits: accuracy on the test split.

    .venv/bin/python bench/words.py language_id
    .venv/bin/python bench/words.py sentiment --root=FILE        a table of two columns, text and label

A round has another seed, and for `sentiment`, whose test split is small, another split. The n-grams and the strength of
the penalty are the best of a few on the validation split. The table is put in bench/words.md and .json.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import HERE, hardware, run, train

NETS = {"language_id": ("rnn", "lstm", "gru", "transformer"), "sentiment": ("rnn", "lstm", "gru", "wide_lstm")}
OPTIONS = {"language_id": [], "sentiment": ["net.hidden=32"]}
NGRAMS = {
    "language_id": [{"analyzer": "char", "ngram_range": (1, 3)}, {"analyzer": "char_wb", "ngram_range": (1, 4)}],
    "sentiment": [{"ngram_range": (1, 1)}, {"ngram_range": (1, 2)}],
}


def baseline(experiment: str, overrides: list[str]) -> float:
    """The test accuracy of what is best on the validation split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from lab.build import build_data
    from lab.engine.config.compose import compose_config

    splits, _ = build_data(compose_config("train", [f"experiment={experiment}", *overrides])).read_splits()
    best = (0.0, 0.0)
    for options in NGRAMS[experiment]:
        vectorizer = TfidfVectorizer(lowercase=experiment == "sentiment", **options).fit(splits["train"].text)
        x = {name: vectorizer.transform(split.text) for name, split in splits.items()}
        for strength in (1, 4, 16):
            model = LogisticRegression(C=strength, max_iter=300).fit(x["train"], splits["train"].label)
            best = max(best, tuple(model.score(x[name], splits[name].label) for name in ("val", "test")))
    return best[1]


def accuracies(experiment: str, root: str | None, seed: int, tmp: Path) -> dict[str, float]:
    own = [f"data.root={root}", f"data.split_seed={seed}"] if root else []
    found = {"n-grams and logistic regression": baseline(experiment, own)}

    def accuracy(net: str) -> float:
        command = train(
            f"experiment={experiment}", f"net={net}", f"seed={seed}", "figures=false", *OPTIONS[experiment], *own
        )
        return run(command, tmp).results[0]["test"]["test/acc"]

    with ThreadPoolExecutor(2) as pool:  # two runs at a time: nothing is timed
        return found | dict(zip(NETS[experiment], pool.map(accuracy, NETS[experiment]), strict=True))


def report(experiment: str, rounds: list[dict[str, float]]) -> str:
    """The table, which is written in both forms beside this file; another experiment's rows stay."""
    path = HERE / "words.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[experiment] = {"machine": f"{len(rounds)} rounds. {hardware()}", "rounds": rounds}
    path.write_text(json.dumps(dict(sorted(content.items())), indent=2) + "\n", encoding="utf-8")
    lines = ["| experiment | model | test/acc | in each round |", "|---|---|---|---|"]
    for name, entry in sorted(content.items()):
        for model in entry["rounds"][0]:
            values = [values[model] for values in entry["rounds"]]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            each = ", ".join(f"{value:.4f}" for value in values)
            lines.append(f"| `{name}` | {model} | **{statistics.mean(values):.4f}**{spread} | {each} |")
    text = "\n".join([*lines, "", *(f"{name}: {entry['machine']}" for name, entry in sorted(content.items())), ""])
    (HERE / "words.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", choices=list(NGRAMS))
    parser.add_argument("--root", help="of the data")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    tmp, rounds = Path(tempfile.mkdtemp(prefix="lab-bench-")), []
    try:
        for seed in range(args.rounds):
            rounds.append(accuracies(args.experiment, args.root, seed, tmp))
            print(report(args.experiment, rounds), flush=True)  # a round that fails loses no other
    finally:
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
