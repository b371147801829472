"""Recurrent nets, and vectors of n-grams."""

import inspect

import pytest
import torch
from omegaconf import OmegaConf
from steps import Rows
from torch import nn

from lab.engine.config import allow
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError
from lab.nets.ngrams import NGramEmbedding, NGramLinear
from lab.nets.recurrent import Recurrent
from lab.nets.transformer import Transformer

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
def test_n_grams_are_spread_over_all_buckets(num_buckets, n):
    letters = torch.cartesian_prod(*[torch.arange(4, 4 + round(10_000 ** (1 / n)))] * n)
    *_, row = NGramEmbedding(200, 1, n, num_buckets).rows(letters)
    used = len(row[:, -1].unique())
    expected = num_buckets * (1 - (1 - 1 / num_buckets) ** len(letters))
    assert used > 0.95 * expected


def linear(ngrams=2):
    """A net that starts from three texts, two of class 0; it has rows for 10 tokens and 50 n-grams."""
    net = NGramLinear(10, 2, ngrams, num_buckets=50, dropout=0.5).eval()
    assert not net.embedding.weight.any()
    token, label = torch.tensor([[5, 6, 5], [5, 7, 0], [8, 0, 0]]), torch.tensor([0, 1, 0])
    net.init_from(Rows(token=token, label=label))
    return net


def test_linear_logits_start_at_naive_bayes():
    weight = linear().embedding.weight
    first, second, other, pair = weight[5], weight[6], weight[9], weight[10 + code((5, 6)) % 50]
    # class 0: 5, 6, 8 and the pairs _5, 56, 65, _8; class 1: 5, 7, _5, 57
    smooth = [7 / 5.5, 4 / 5.5]
    once = torch.tensor([[1 + smooth[0], 1 + smooth[1]], [1 + smooth[0], smooth[1]]])
    expected = (once / torch.tensor([7, 4])).log()
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(torch.stack([first, second]), expected)
    assert pair.equal(second)
    assert other.abs().max() < 1e-6, "what is in no text speaks for the rarer class"


def test_linear_logits_are_sums_over_the_root_of_the_length():
    net = linear(ngrams=1)
    five, seven = net.embedding.weight[5], net.embedding.weight[7]
    expected = torch.stack([(five + seven) / 2**0.5, five])
    torch.testing.assert_close(net(torch.tensor([[5, 7], [5, 0]])), expected)
    torch.testing.assert_close(linear()(torch.tensor([[5, 7], [5, 0]]))[1:], linear()(torch.tensor([[5]])))


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


@pytest.mark.parametrize("ngrams", [1, 3])
def test_a_transformer_reads_n_grams_and_no_padding(ngrams):
    torch.manual_seed(0)
    net = Transformer(20, 3, width=16, ngrams=ngrams, ngram_buckets=50).eval()
    token = torch.randint(1, 20, (2, 7))
    padded = torch.cat([token, torch.zeros(2, 30, dtype=torch.int64)], 1)
    torch.testing.assert_close(net(padded), net(token), atol=1e-5, rtol=1e-5)
    net(token).sum().backward()
    used = net.embed.embed.weight.grad.any(1).nonzero()[:, 0]
    rows = {*token.flatten().tolist()} | {
        20 + code(ngram) % 50 for row in token.tolist() for ngram in all_ngrams(row, ngrams)
    }
    assert used.tolist() == sorted(rows)


def all_ngrams(row, most):
    row = [0] * (most - 1) + row
    return [tuple(row[i - n + 1 : i + 1]) for n in range(2, most + 1) for i in range(most - 1, len(row))]


@pytest.mark.parametrize(("net", "takes"), [("lstm", "token"), ("transformer", "token"), ("seq2seq", "target")])
def test_a_flip_of_texts_is_refused(net, takes, compose):
    node = compose("experiment=digits", "net=flip", f"net@net.net={net}").net
    sizes = {"num_classes": 5, "vocab_size": 20, "text_vocab_size": 20, "target_vocab_size": 20}
    known = inspect.signature(allow.locate(node.net._target_)).parameters
    OmegaConf.set_struct(node, False)
    node.net.update({name: size for name, size in sizes.items() if name in known})
    with pytest.raises(UserError, match=rf"net: TestTimeFlip: expected .* image; \w+ takes .*{takes}") as error:
        instantiate(node)
    assert len(str(error.value).splitlines()) == 1
