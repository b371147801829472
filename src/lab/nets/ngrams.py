import torch.nn.functional as F
from torch import Tensor, nn


class NGramEmbedding(nn.Embedding):
    """The sum of the vectors of a token, and of the n-grams of 2 to `ngrams` tokens that end with it.

    N-grams have no vocabulary: they share `num_buckets` vectors by a hash (Joulin et al. 2017,
    https://arxiv.org/abs/1607.01759). What is before the first token counts as padding, token 0.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, ngrams: int, num_buckets: int) -> None:
        super().__init__(vocab_size + (num_buckets if ngrams > 1 else 0), embedding_dim)
        self.vocab_size, self.ngrams, self.num_buckets = vocab_size, ngrams, num_buckets

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, T, embedding_dim)."""
        x, code = super().forward(token), token
        for n in range(2, self.ngrams + 1):
            before = F.pad(token, (n - 1, 0))[:, : token.shape[1]]  # the token n - 1 places before
            code = (code * 2_654_435_761 + before) % (2**31 - 1)  # fits in 63 bits; the factor is Knuth's
            x = x + super().forward(self.vocab_size + code % self.num_buckets)
        return x
