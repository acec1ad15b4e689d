"""Vector quantisation with an EMA codebook (van den Oord et al., 2017; appendix A.1).

Legend: M vectors, C their dimension, V codes. The codebook starts from k-means on weighted vectors, and codes
that fall out of use are moved onto vectors of the current batch.
"""

import torch
from torch import Tensor, nn

from whale.config import configclass
from whale.models.layers import full_precision


@configclass
class VQConfig:
    """The codebook."""

    num_codes: int = 512
    """V, at most 65536 (tokens are stored as uint16)."""
    dim: int = 64
    """C, the dimension of a code."""
    decay: float = 0.99
    """Decay of the moving averages behind the codebook."""
    revive_below: float = 0.05
    """A code whose average use a step falls below this many vectors is dead and revived."""

    def __post_init__(self) -> None:
        """Check the code range."""
        if not 2 <= self.num_codes <= 65536:
            raise ValueError("num_codes must lie in 2..65536")


class VectorQuantizer(nn.Module):
    """Nearest-code lookup; the codebook learns by moving averages, not by gradient."""

    codebook_VC: Tensor
    usage_V: Tensor
    sum_VC: Tensor

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        codebook = torch.randn(config.num_codes, config.dim)
        self.register_buffer("codebook_VC", codebook)
        self.register_buffer("usage_V", torch.ones(config.num_codes))
        self.register_buffer("sum_VC", codebook.clone())

    def bound(self, x_MC: Tensor) -> Tensor:
        """The same: codes may lie anywhere."""
        return x_MC

    def nearest(self, x_MC: Tensor) -> Tensor:
        """Index of the nearest code, int64 [M]."""
        with full_precision(x_MC):
            distance_MV = self.codebook_VC.square().sum(-1) - 2 * x_MC.to(self.codebook_VC.dtype) @ self.codebook_VC.T
        return distance_MV.argmin(-1)

    def forward(self, x_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through codes [M, C] and tokens int64 [M]."""
        token_M = self.nearest(x_MC.detach())
        return x_MC + (self.codebook_VC[token_M] - x_MC).detach(), token_M

    @torch.no_grad()
    def use_of(self, x_MC: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        """How often each code was chosen [V], and the sum of the vectors it was chosen for [V, C]."""
        x_MC = x_MC.to(self.sum_VC.dtype)
        count_V = torch.bincount(token_M, minlength=self.config.num_codes).to(x_MC.dtype)
        return count_V, torch.zeros_like(self.sum_VC).index_add_(0, token_M, x_MC)

    @torch.no_grad()
    def update(self, count_V: Tensor, total_VC: Tensor) -> Tensor:
        """Move the codes towards the vectors they were chosen for (`use_of` a batch); says which are dead, bool [V]."""
        decay = self.config.decay
        self.usage_V.mul_(decay).add_(count_V, alpha=1 - decay)
        self.sum_VC.mul_(decay).add_(total_VC, alpha=1 - decay)
        self.codebook_VC.copy_(self.sum_VC / self.usage_V.clamp_min(1e-5)[:, None])
        return self.usage_V < self.config.revive_below

    @torch.no_grad()
    def distance(self, x_MC: Tensor, token_M: Tensor) -> Tensor:
        """Squared distance of vectors to their codes, [M]: what `far` draws by."""
        return (x_MC.to(self.sum_VC.dtype) - self.codebook_VC[token_M]).square().sum(-1) + 1e-12

    @torch.no_grad()
    def place(self, which_V: Tensor, vectors: Tensor) -> None:
        """Move codes onto vectors, one each."""
        which = which_V.nonzero()[: len(vectors), 0]
        self.codebook_VC[which], self.sum_VC[which], self.usage_V[which] = vectors, vectors, 1.0

    def _seed(self, x_MC: Tensor, generator: torch.Generator) -> None:
        """Starting codes in eight rounds, each drawn by distance to the codes before (Bahmani et al., 2012)."""
        rounds = torch.arange(self.config.num_codes).chunk(8)
        first = torch.randint(len(x_MC), (len(rounds[0]),), generator=generator)
        self.codebook_VC.copy_(x_MC[first[0]])  # codes not drawn yet coincide with the first
        self.codebook_VC[rounds[0]] = x_MC[first]
        for codes in rounds[1:]:
            distance_M = self.distance(x_MC, self.nearest(x_MC))
            self.codebook_VC[codes] = x_MC[draw_far(distance_M, len(codes), generator)]

    @torch.no_grad()
    def fit(self, x_MC: Tensor, weight_M: Tensor, generator: torch.Generator, iterations: int = 12) -> None:
        """k-means from vectors drawn by `weight_M`: the start of training.

        Most patches are still background; weights by change keep the codes for what moves.
        """
        draw = torch.multinomial(weight_M, min(len(x_MC), 40 * self.config.num_codes), generator=generator)
        x_MC = x_MC[draw]
        self._seed(x_MC, generator)
        for _ in range(iterations):
            token_M = self.nearest(x_MC)
            count_V, total_VC = self.use_of(x_MC, token_M)
            used_V = count_V > 0
            self.codebook_VC[used_V] = total_VC[used_V] / count_V[used_V, None]
            unused = int((~used_V).sum())
            if unused:
                self.place(~used_V, x_MC[draw_far(self.distance(x_MC, token_M), unused, generator)])
        self.sum_VC.copy_(self.codebook_VC)
        self.usage_V.fill_(1.0)


def draw_far(distance_M: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices int64 [count] of vectors, drawn by their squared distance to their own code as k-means++ does."""
    # A CPU generator everywhere, so that a GPU draws the same.
    draw = torch.multinomial(distance_M.cpu(), count, replacement=True, generator=generator)
    return draw.to(distance_M.device)
