"""Recurrent nets, and vectors of n-grams."""

import pytest
import torch
from torch import nn

from lab.nets.ngrams import NGramEmbedding
from lab.nets.recurrent import Recurrent

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def test_a_token_s_vector_is_that_of_the_n_grams_that_end_with_it_too():
    net = NGramEmbedding(10, 4, ngrams=3, num_buckets=50)
    first, _, _, fourth, _ = net(torch.tensor([[5, 6, 7, 5, 6]]))[0]
    for vector, ngrams in ((first, [(0, 5), (0, 0, 5)]), (fourth, [(7, 5), (6, 7, 5)])):
        torch.testing.assert_close(vector, net.weight[5] + sum(net.weight[10 + code(ngram) % 50] for ngram in ngrams))
    assert NGramEmbedding(10, 4, ngrams=1, num_buckets=50).weight.shape == (10, 4)


def code(ngram):
    """Its hash, the latest token first."""
    *before, latest = ngram
    for token in reversed(before):
        latest = (latest * 2_654_435_761 + token) % (2**31 - 1)
    return latest


@pytest.mark.parametrize("num_buckets", [20_000, 2**14, 150_000])
@pytest.mark.parametrize("n", [2, 3])
def test_n_grams_are_spread_over_all_buckets(monkeypatch, num_buckets, n):
    looked_up = []
    monkeypatch.setattr(nn.Embedding, "forward", lambda self, token: looked_up.append(token) or token)
    letters = torch.cartesian_prod(*[torch.arange(4, 4 + round(10_000 ** (1 / n)))] * n)
    NGramEmbedding(200, 1, n, num_buckets)(letters)
    used = len(looked_up[-1][:, -1].unique())
    expected = num_buckets * (1 - (1 - 1 / num_buckets) ** len(letters))
    assert used > 0.95 * expected


@pytest.mark.parametrize("cell", CELLS)
class TestRecurrent:
    @pytest.mark.parametrize("ngrams", [1, 3])
    def test_padding_changes_no_answer(self, cell, ngrams):
        torch.manual_seed(0)
        net = Recurrent(3, 20, cell, num_layers=2, ngrams=ngrams).eval()
        token = torch.randint(1, 20, (2, 7))
        token[1, 4:] = 0
        padded = torch.cat([token, torch.zeros(2, 30, dtype=torch.int64)], 1)
        torch.testing.assert_close(net(padded), net(token), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(net(token)[1:], net(token[1:, :4]), atol=1e-6, rtol=1e-6)
        token[1, 3] = 7
        assert not net(padded)[1].allclose(net(token)[1])

    def test_both_directions_are_torchs(self, cell):
        torch.manual_seed(0)
        net = Recurrent(3, 20, cell, embedding_dim=6, hidden=5).eval()
        both = CELLS[cell](6, 5, batch_first=True, bidirectional=True)
        states = net.from_start[0].state_dict() | {f"{k}_reverse": v for k, v in net.from_end[0].state_dict().items()}
        both.load_state_dict(states)
        kept = []
        net.attention.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        token = torch.randint(1, 20, (2, 7))
        net(token)
        torch.testing.assert_close(kept[0], both(net.embedding(token))[0])

    @pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's own, of what it restores
    def test_it_is_exported(self, cell):
        net, token = Recurrent(3, 20, cell, ngrams=4).eval(), torch.randint(1, 20, (3, 8))
        token[1, 2:] = 0
        shapes = {"token": {0: torch.export.Dim("batch", min=1)}}
        with torch.no_grad():
            exported = torch.export.export(net, (token,), dynamic_shapes=shapes).module()
        for some in (token, token[1:2], token.repeat(5, 1)):
            torch.testing.assert_close(exported(some), net(some))
