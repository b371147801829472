"""What text costs: the loop beside a bare one, and decoding beside its length. `python bench/decoding.py`.

The bare loop has the same net and batches, padded beforehand; it measures, logs, validates and saves nothing. Decoding
is greedy, of 32 sources, by nets that never say `</s>`. The table is put in bench/decoding.md and .json.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench
import torch
import torch.nn.functional as F

from lab.build import build_task, read_data
from lab.engine.config.compose import compose_config
from lab.nets.seq2seq import Seq2Seq
from lab.nets.transformer_seq2seq import TransformerSeq2Seq
from lab.tasks.beam_search import END, FIRST_ALLOWED, greedy

LSTM = ("experiment=language_id", "net=lstm", "trainer.max_epochs=4")
LENGTHS = (32, 64, 128, 256)
NETS = {
    "Seq2Seq": partial(Seq2Seq, 1000, 1000, "gru", width=256),
    "TransformerSeq2Seq": partial(TransformerSeq2Seq, 1000, 1000, width=128),
}


def floor() -> None:
    """Print the seconds of each epoch of a bare loop."""
    cfg = compose_config("train", [*LSTM, "trainer=cpu"])
    data = read_data(cfg)
    net = build_task(cfg, data.facts).net
    batches = list(data.train_dataloader())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001, fused=True)
    for _ in range(cfg.trainer.max_epochs):
        start = time.monotonic()
        for i in torch.randperm(len(batches)).tolist():
            loss = F.cross_entropy(net(batches[i]["token"]), batches[i]["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(time.monotonic() - start, flush=True)


class Endless(torch.nn.Module):
    """A translation net that never says `</s>`."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def encode(self, *given: Any) -> Any:
        return self.net.encode(*given)

    def decode(self, *given: Any) -> Any:
        logits, state = self.net.decode(*given)
        logits[:, END] = -torch.inf
        return logits, state


@torch.no_grad()
def uncached(net: torch.nn.Module, token: torch.Tensor, length: int) -> None:
    """Greedy decoding that reads all there is for each token."""
    target = torch.full((len(token), 1), 2)
    for _ in range(length):
        target = torch.cat([target, net(token, target)[:, -1:, FIRST_ALLOWED:].argmax(-1) + FIRST_ALLOWED], 1)


def seconds(decode: Callable[..., object], net: torch.nn.Module, length: int, times: int = 5) -> float:
    """The least of several times."""
    token, found = torch.randint(4, 1000, (32, 20)), []
    for _ in range(times):
        start = time.monotonic()
        decode(net, token, length)
        found.append(time.monotonic() - start)
    return min(found)


def measured(tmp: Path) -> dict[str, float]:
    """A round."""
    found = {
        "lab": bench.run(bench.train(*LSTM), tmp).epoch,
        "floor": bench.run([sys.executable, __file__, "floor"], tmp).epoch,
    }
    for name, make in NETS.items():
        net = make().eval()
        for length in LENGTHS:
            found[f"{name} {length}"] = seconds(greedy, Endless(net), length)
        found[f"{name} uncached"] = seconds(uncached, net, LENGTHS[2], times=1)
    return found


def rows() -> list[bench.Row]:
    def of(name: str) -> Callable[[dict], float]:
        return lambda found: found[name]

    loop = [bench.Row("seconds of an epoch, LSTM on `language_id`: lab ÷ bare loop", of("lab"), of("floor"), 1.2)]
    longer = [
        bench.Row(f"decoding, `{name}`: {long} tokens ÷ {short}", of(f"{name} {long}"), of(f"{name} {short}"), 2.4)
        for name in NETS for short, long in pairwise(LENGTHS)
    ]  # fmt: skip
    without = [
        bench.Row(f"decoding {LENGTHS[2]} tokens, `{name}`: without a cache ÷ with it", of(f"{name} uncached"),
                  of(f"{name} {LENGTHS[2]}")) for name in NETS
    ]  # fmt: skip
    return loop + longer + without


def main() -> None:
    rounds = []
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as tmp:
        for _ in range(int(os.environ.get("ROUNDS", 5))):
            rounds.append(measured(Path(tmp)))
            machine = f"Medians of {len(rounds)} rounds, OMP_NUM_THREADS=1; seconds. {bench.hardware()}"
            text = bench.report("decoding", bench.table(rows(), rounds), machine)
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    floor() if sys.argv[1:] == ["floor"] else main()
