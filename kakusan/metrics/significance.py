"""Is a difference from real pictures more than chance? Exact counts, and means of one number per picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shift:
    """Means over samples beside means over real pictures, K numbers at once, float64.

    Args:
        value: (K,) mean over the samples.
        stderr: (K,) standard error of that.
        null: (K,) mean over real pictures of the same make-up.
        null_stderr: (K,) standard deviation of (value - null) when the samples are real pictures.
        freedom: degrees of freedom behind `null_stderr`.
    """

    value: Tensor
    stderr: Tensor
    null: Tensor
    null_stderr: Tensor
    freedom: int

    @property
    def z(self) -> Tensor:
        """(K,) standard normal for real pictures; 0 where neither side varies and both agree."""
        difference = self.value - self.null
        t = difference / self.null_stderr.clamp_min(1e-12 * (1.0 + self.null.abs()))
        return as_normal(t, self.freedom)


def compare_means(samples: Tensor, real: Tensor, strata: tuple[Tensor, Tensor] | None = None) -> Shift:
    """Compare the means of (n, K) numbers of samples with those of (m, K) numbers of real pictures.

    With strata (a number for each sample and for each real picture that is read off the picture itself), real pictures
    are weighted to the samples' strata: what is left is a difference between pictures of one stratum. It has mean zero
    for real pictures, and is blind to a stratum that is shown too often or never.

    Raises:
        ValueError: fewer than two pictures on either side.
    """
    samples, real = samples.double(), real.double()
    n, m = len(samples), len(real)
    if min(n, m) < 2:
        raise ValueError(f"means are compared of at least two pictures a side, got {n} and {m}")
    value, stderr = samples.mean(0), samples.std(0) / math.sqrt(n)
    if strata is None:
        spread = real.std(0)
        return Shift(value, stderr, real.mean(0), spread * math.sqrt(1 / n + 1 / m), m - 1)
    count = int(torch.cat(strata).max()) + 1
    mine, theirs = (torch.bincount(part, minlength=count).double() for part in strata)
    sums = torch.zeros(count, real.shape[1], dtype=torch.float64).index_add_(0, strata[1], real)
    means = sums / theirs.clamp_min(1.0)[:, None]
    within = (real - means[strata[1]]).square()
    pooled = within.sum(0) / max(1, m - int((theirs > 0).sum()))
    known = theirs > 0
    # A stratum without real pictures tells nothing: the mean of all stands in, with all their variance.
    means = torch.where(known[:, None], means, real.mean(0))
    variance = torch.zeros(count, real.shape[1], dtype=torch.float64).index_add_(0, strata[1], within)
    # A variance of a few pictures leans on the others' as if four of those had been seen beside them.
    variance = (variance + 4.0 * pooled) / (theirs - 1.0 + 4.0).clamp_min(1.0)[:, None]
    variance = torch.where(known[:, None], variance, real.var(0))
    shares = mine / n
    each = (1.0 / mine.clamp_min(1.0) + 1.0 / theirs.clamp_min(1.0)) * shares.square()
    null_stderr = (each[:, None] * variance).sum(0).sqrt()
    return Shift(value, stderr, shares @ means, null_stderr, m - 1)


def as_normal(t: Tensor, freedom: float) -> Tensor:
    """Standard normal values of the same probability, to a part in a thousand from ten degrees up (Wallace 1959)."""
    f = float(max(freedom, 2))
    return t.sign() * ((8 * f + 1) / (8 * f + 3)) * (f * torch.log1p(t.square() / f)).sqrt()


def two_sided(z: float) -> float:
    """Probability of a standard normal at least this far from zero."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def fewer(a: int, n: int, b: int, m: int) -> float:
    """Chance of at most `a` among n when `b` are seen among m and nothing tells the two apart (Fisher 1934).

    The hypergeometric tail: of a + b found among n + m, as few as a or fewer fall among the n.

    Raises:
        ValueError: counts beyond their totals.
    """
    if not (0 <= a <= n and 0 <= b <= m) or n + m == 0:
        raise ValueError(f"{a} of {n} and {b} of {m} are not counts")
    found, total = a + b, n + m
    least = max(0, found - m)
    logs = [_log_choose(n, i) + _log_choose(m, found - i) - _log_choose(total, found) for i in range(least, a + 1)]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def more(a: int, n: int, b: int, m: int) -> float:
    """Chance of at least `a` among n when `b` are seen among m: the other tail."""
    return fewer(n - a, n, m - b, m)


def below_order_statistic(count: int, n: int, order: int, m: int) -> float:
    """Chance that at least `count` of n values lie below the `order`-th smallest of m others of the same source.

    Then of the first count + order - 1 values of all, fewer than `order` are among the m.
    """
    if count == 0:
        return 1.0
    drawn = count + order - 1
    logs = [
        _log_choose(m, i) + _log_choose(n, drawn - i) - _log_choose(n + m, drawn)
        for i in range(max(0, drawn - n), min(order - 1, m, drawn) + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
