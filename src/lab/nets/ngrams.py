from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.nets.base import InitFromData, TrainingSamples


class NGramEmbedding(nn.Embedding):
    """The sum of the vectors of a token and of the n-grams of 2 to `ngrams` tokens that end with it.

    N-grams have no vocabulary: a hash maps them to `num_buckets` vectors (Joulin et al. 2017,
    https://arxiv.org/abs/1607.01759). Positions before the first token are padding, token 0.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, ngrams: int, num_buckets: int) -> None:
        super().__init__(vocab_size + (num_buckets if ngrams > 1 else 0), embedding_dim)
        self.vocab_size, self.ngrams, self.num_buckets = vocab_size, ngrams, num_buckets

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, T, embedding_dim)."""
        x = super().forward(token)
        for row in self.rows(token):
            x = x + super().forward(row)
        return x

    def rows(self, token: Tensor) -> Iterator[Tensor]:
        """Yield (B, T) rows of the weights for the 2-grams that end with each token, for the 3-grams, and so on."""
        code = token
        for n in range(2, self.ngrams + 1):
            before = F.pad(token, (n - 1, 0))[:, : token.shape[1]]  # the token n - 1 positions earlier
            code = (code * 2_654_435_761 + before) % (2**31 - 1)  # fits in 63 bits; the factor is from Knuth
            yield self.vocab_size + code % self.num_buckets


class NGramLinear(nn.Module, InitFromData):
    """Logits that are linear in the n-grams of a text: the sum of their weights over the root of the number of tokens.

    An n-gram that occurs twice counts twice. The weights are zero until `init_from` sets them to those of naive Bayes.

    Args:
        dropout: probability of dropping the weight of a token and its n-grams for a class.
    """

    def __init__(self, vocab_size: int, num_classes: int, ngrams: int, num_buckets: int, dropout: float) -> None:
        super().__init__()
        self.embedding = NGramEmbedding(vocab_size, num_classes, ngrams, num_buckets)
        nn.init.zeros_(self.embedding.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        inside = (token != 0).unsqueeze(-1)
        return (self.dropout(self.embedding(token)) * inside).sum(1) / inside.sum(1).sqrt()

    @torch.no_grad()
    def init_from(self, samples: TrainingSamples) -> None:
        """Set the weights to log P(n-gram | class), less the mean over classes (Wang & Manning 2012).

        Here an n-gram counts once per text. An n-gram that is in no text has weight 0 for all classes.

        Args:
            samples: batches have (B, T) `token` and (B,) `label`.
        """
        num_rows, num_classes = self.embedding.weight.shape
        count = torch.zeros(num_classes * num_rows, dtype=torch.float64)  # exact in any order
        for index in torch.arange(len(samples)).split(1000):
            batch = samples[index]
            token, label = batch["token"], batch["label"]
            rows = torch.stack([token, *self.embedding.rows(token)])
            text = torch.arange(len(token)).unsqueeze(1)
            once = (text * num_rows + rows)[:, token != 0].unique()
            count += torch.bincount(label[once // num_rows] * num_rows + once % num_rows, minlength=len(count))
        count = count.view(num_classes, num_rows)
        total = count.sum(1, keepdim=True).clamp(min=1)
        log = (count / total + 1 / total.mean()).log()
        self.embedding.weight.copy_((log - log.mean(0)).T)
