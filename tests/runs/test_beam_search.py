"""Nets that translate token by token, and the search for the best translation."""

import itertools

import pytest
import torch
from torch import nn

from lab.nets.seq2seq import Seq2Seq
from lab.nets.transformer_seq2seq import TransformerSeq2Seq
from lab.tasks.beam_search import beam_search, greedy

PAD, START, END = 0, 2, 3
NETS = {
    "gru": lambda: Seq2Seq(20, 15, "gru", width=16),
    "lstm": lambda: Seq2Seq(20, 15, "lstm", width=16, num_layers=2),
    "transformer": lambda: TransformerSeq2Seq(20, 15, width=16, num_heads=2),
    "shared": lambda: TransformerSeq2Seq(15, 15, shared_vocabulary=True, width=16, num_heads=2),
}


@pytest.fixture(params=NETS)
def net(request):
    """With weights so large that it is sure of what it says, and says many things."""
    torch.manual_seed(0)
    net = NETS[request.param]().eval()
    for name, p in net.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.1 if "embed" in name else 1.0)
    return net


def sources(num=64, longest=12):
    """Sources of all lengths, padded."""
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(4, 15, (num, longest), generator=generator)
    return token * (torch.arange(longest) <= torch.arange(num)[:, None] % longest)


def ended(row):
    """A row without its padding."""
    return [i for i in row.tolist() if i != PAD]


def test_no_target_token_sees_a_later_one(net):
    target = torch.randint(4, 15, (8, 7))
    other = target.clone()
    other[:, 4:] = 5
    before, after = (net(sources(8), each) for each in (target, other))
    assert before[:, :4].equal(after[:, :4])
    assert not before[:, 4:].isclose(after[:, 4:]).all()


def test_decoding_with_a_cache_says_what_decoding_without_one_says_token_for_token(net):
    token = sources()
    target = torch.full((len(token), 1), START)
    for _ in range(20):  # all of it again, for each token
        target = torch.cat([target, net(token, target)[:, -1:, 3:].argmax(-1) + 3], 1)
    found = greedy(net, token, 20)
    assert len({tuple(row) for row in found.tolist()}) > 20, "it says few things: little is shown"
    for row, whole in zip(found, target[:, 1:].tolist(), strict=True):
        assert ended(row) == whole[: whole.index(END) + 1 if END in whole else None]


def test_a_beam_of_one_is_greedy(net):
    assert beam_search(net, sources(), 20, 1).equal(greedy(net, sources(), 20))


@pytest.mark.parametrize("search", [greedy, lambda net, token, length: beam_search(net, token, length, 4)])
def test_a_sentence_is_translated_alone_as_among_others(net, search):
    token = sources()
    for source, row in list(zip(token, search(net, token, 20), strict=True))[::5]:
        assert ended(search(net, source[source != PAD][None], 20)[0]) == ended(row)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_everything_finds_the_best_there_is(net, length_penalty):
    def value(source, said):
        logits = net(source, torch.tensor([[START, *said[:-1]]]))
        sums = logits[0].log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum().item()
        return sums / ((5 + len(said)) / 6) ** length_penalty

    known = range(4, 15)
    every = [[*words, END] for n in range(3) for words in itertools.product(known, repeat=n)]
    for source, row in zip(sources(4), beam_search(net, sources(4), 3, 1500, length_penalty), strict=True):
        assert ended(row) == max(every, key=lambda said: value(source[source != PAD][None], said))


def plain_beam_search(net, source, beam_size, max_length, length_penalty):
    """The same for one sentence, without a cache, beginning by beginning."""
    beams, answers = [(0.0, [START])], []
    for n in range(1, max_length + 1):
        longer = []
        for score, said in beams:
            logits = net(source, torch.tensor([said]))[0, -1].log_softmax(-1)
            longer += [(score + logits[i].item(), [*said, i]) for i in range(END, 15)]
        longer.sort(key=lambda one: -one[0])
        ends = [
            (score / ((5 + n) / 6) ** length_penalty, said) for score, said in longer[:beam_size] if said[-1] == END
        ]
        answers = (answers + ends)[:beam_size]
        if len(answers) == beam_size:
            break
        beams = [one for one in longer if one[1][-1] != END][:beam_size]
    return (max(answers) if answers else beams[0])[1][1:]


@pytest.mark.parametrize("length_penalty", [0.0, 3.0])
def test_a_beam_search_is_that_of_each_sentence_alone_without_a_cache(net, length_penalty):
    token = sources(24)
    found = [ended(row) for row in beam_search(net, token, 10, 3, length_penalty)]
    for source, said in zip(token, found, strict=True):
        assert said == plain_beam_search(net, source[source != PAD][None], 3, 10, length_penalty)
    assert len(set(map(len, found))) > 1, "all are of about one length: little is shown"


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_search_stops_when_every_sentence_has_ended(beam_size):
    class Ending(nn.Module):
        """Says `</s>`, and nothing else, after as many tokens as its source has."""

        steps = 0

        def encode(self, token, max_length):
            return {}, {"left": (token != PAD).sum(1)}

        def decode(self, target, memory, state):
            self.steps += 1
            logits = torch.zeros(len(target), 15)
            logits[state["left"] <= 0, END] = 50.0
            logits[:, 7] = 25.0
            return logits, {"left": state["left"] - 1}

    net = Ending()
    found = beam_search(net, sources(12), 1000, beam_size) if beam_size > 1 else greedy(net, sources(12), 1000)
    assert net.steps < 40
    assert [ended(row) for row in found] == [[7] * n + [END] for n in range(1, 13)]


def test_attention_is_a_share_of_each_source_token(net):
    token = sources(12)
    weights = net.attention(token, torch.randint(4, 15, (12, 5)))
    torch.testing.assert_close(weights.sum(-1), torch.ones(12, 5))
    assert not weights[(token == PAD)[:, None].expand_as(weights)].any()
