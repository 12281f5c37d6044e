"""Muon: momentum, orthogonalised (Jordan et al. 2024), for matrices and kernels.

The update is that of `torch.optim.Muon` with its rate matched to AdamW's (Liu et al. 2025, arXiv 2502.16982, eq. 4), to
which a test holds it. It is written again for three reasons: torch's takes matrices only, while most weights of a U-Net
are kernels; it works one matrix at a time; and it always computes in bfloat16, which CPUs without such instructions
emulate about a hundred times slower than float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kakusan.runtime import pick_precision

# Jordan et al. 2024: a quintic that brings singular values near 1 (0.7 to 1.2) in few steps, rather than to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
_TINY = 1e-7
_MATCH = 0.2


class Muon(torch.optim.Optimizer):
    """Muon for parameters of more than one dimension; kernels count as (out channels, everything else).

    Args:
        parameters: the matrices and kernels.
        lr: learning rate; the root mean square of an update is about 0.2 of it, as AdamW's is.
        momentum: decay of the momentum, with Nesterov's step.
        weight_decay: decoupled.

    Raises:
        ValueError: a vector among the parameters.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        given = list(parameters)
        if any(p.dim() < 2 for p in given):
            raise ValueError("Muon is for matrices and kernels; give vectors to AdamW")
        super().__init__(given, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(p)
            for (rows, columns), members in by_shape.items():
                updates = torch.stack([_whole(self._momentum(p, group["momentum"])).flatten(1) for p in members])
                rate = group["lr"] * _MATCH * max(rows, columns) ** 0.5
                for p, update in zip(members, orthogonalise(updates), strict=True):
                    change = _cut_like(p, update.view(p.shape))
                    p.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(change, alpha=-rate)

    def _momentum(self, p: nn.Parameter, keep: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        return p.grad.lerp(state["momentum_buffer"].lerp_(p.grad, 1.0 - keep), keep)


def _whole(tensor: Tensor) -> Tensor:
    """The whole tensor in every process, where each holds a part (FSDP): its singular values are of the whole."""
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _cut_like(p: Tensor, whole: Tensor) -> Tensor:
    """Of a whole tensor, what this process holds of `p`."""
    if not hasattr(p, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(p, DTensor)
    mesh = p.device_mesh
    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim).redistribute(mesh, p.placements)


def orthogonalise(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1, by five Newton-Schulz iterations.

    Computed in `dtype`: bfloat16 where the device multiplies it natively, float32 elsewhere, when not given.
    """
    if dtype is None:
        dtype = torch.bfloat16 if pick_precision("auto", matrices.device).name == "bf16" else torch.float32
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(_TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
