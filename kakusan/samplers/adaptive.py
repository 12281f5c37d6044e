"""The probability flow by an adaptive ODE solver that controls the step of every sample on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.extras import need
from kakusan.levels import Level, scaled
from kakusan.noise import StepNoise
from kakusan.samplers.base import Sampler, State, at_data, level_at_log_snr
from kakusan.specs import register


@register
@dataclass(frozen=True)
class Adaptive(Sampler):
    """Dormand-Prince 5(4) through `torchdiffeq`, one solver for each sample: a picture does not depend on its batch.

    The solvers wait for each other at every evaluation, so the network still sees batches. The flow is solved for
    x / (alpha sqrt(sigma_data^2 + u^2)) against log u, u = sigma / alpha, where its scale is even. A grid of two times,
    `[start, end]`, is enough; more times only add points to look at. Needs the extra `ode`.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the scaled variable.
        max_steps: bound on the steps of a sample between two times of the grid.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    max_steps: int = 10_000

    def network_calls(self, levels: Sequence[Level]) -> None:
        return None

    def step(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        state: State,
        noise: StepNoise,
    ) -> tuple[Tensor, State]:
        end = level_s
        if at_data(level_s):
            lowest = min(denoiser.schedule.t_min, float(torch.as_tensor(level_t.t).min()))
            end = Level.of(denoiser.schedule, lowest, x_t)
        start_r, end_r = (
            (-0.5 * torch.as_tensor(level.log_snr, dtype=torch.float64)).reshape(-1).expand(len(x_t)).cpu()
            for level in (level_t, end)
        )

        def scale(r: Tensor) -> Tensor:
            return (denoiser.sigma_data**2 + (2.0 * r).exp()).sqrt()

        def field(rows: Tensor, r: Tensor, y: Tensor) -> Tensor:
            """dy/dr of the samples `rows`, from eps, less the change of the scale."""
            column = (-1, *[1] * (x_t.dim() - 1))
            like = x_t[: len(rows)]
            level = level_at_log_snr(denoiser.schedule, -2.0 * r, like)
            u, n = r.exp().view(column).to(y.device), scale(r).view(column).to(y.device)
            x = (y * n * level.alpha).to(x_t.dtype)
            chosen = None if cond is None else cond.expand(len(x_t)).map(lambda c: c[rows.to(c.device)])
            eps = denoiser(x, level, chosen).eps.to(y.dtype)
            return u * eps / n - y * (u / n) ** 2

        column = (-1, *[1] * (x_t.dim() - 1))
        y = (x_t / level_t.alpha).to(torch.float64) / scale(start_r).view(column).to(x_t.device)
        y = _solve_each(field, y, start_r, end_r, self.rtol, self.atol, self.max_steps)
        x_end = (y * scale(end_r).view(column).to(x_t.device) * end.alpha).to(x_t.dtype)
        prediction = denoiser(x_end, end, cond)
        x_s = scaled(prediction.x0, level_s.alpha) if at_data(level_s) else x_end
        return x_s, State(state.num_steps, prediction, index=state.index + 1)


class _Meeting:
    """Where solvers in threads hand in their points and get back their part of one batched evaluation."""

    def __init__(self, count: int) -> None:
        self.condition = threading.Condition()
        self.open = set(range(count))
        self.asked: dict[int, tuple[Tensor, Tensor]] = {}
        self.answers: dict[int, Tensor] = {}
        self.failure: BaseException | None = None

    def ask(self, index: int, r: Tensor, y: Tensor) -> Tensor:
        with self.condition:
            self.asked[index] = (r, y)
            self.condition.notify_all()
            self.condition.wait_for(lambda: index in self.answers or self.failure is not None)
            if self.failure is not None:
                raise RuntimeError("another solver failed") from self.failure
            return self.answers.pop(index)

    def leave(self, index: int, failure: BaseException | None = None) -> None:
        with self.condition:
            self.open.discard(index)
            self.failure = self.failure or failure
            self.condition.notify_all()

    def serve(self, field: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """Evaluate until every solver has left."""
        while True:
            with self.condition:
                self.condition.wait_for(lambda: self.failure is not None or set(self.asked) >= self.open)
                if self.failure is not None:
                    self.condition.notify_all()
                    return
                if not self.open:
                    return
                rows = sorted(self.asked)
                points = [self.asked.pop(row) for row in rows]
            try:
                values = field(
                    torch.tensor(rows), torch.stack([r for r, _ in points]), torch.stack([y for _, y in points])
                )
            except BaseException as error:
                with self.condition:
                    self.failure = error
                    self.condition.notify_all()
                return
            with self.condition:
                self.answers.update(zip(rows, values, strict=True))
                self.condition.notify_all()


def _solve_each(
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    start: Tensor,
    end: Tensor,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Tensor:
    odeint = need("torchdiffeq", extra="ode", what="the Adaptive sampler").odeint
    meeting = _Meeting(len(y))
    found: dict[int, Tensor] = {}

    def run(index: int) -> None:
        failure: BaseException | None = None
        try:
            with torch.no_grad():
                span = torch.stack([start[index], end[index]]).to(y.device)
                found[index] = (
                    y[index]
                    if span[0] == span[1]
                    else odeint(
                        lambda r, value: meeting.ask(index, r.cpu(), value),
                        y[index],
                        span,
                        rtol=rtol,
                        atol=atol,
                        method="dopri5",
                        options={"max_num_steps": max_steps},
                    )[-1]
                )
        except BaseException as error:
            failure = error
        meeting.leave(index, failure)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(y))]
    for thread in threads:
        thread.start()
    meeting.serve(field)
    for thread in threads:
        thread.join()
    if meeting.failure is not None:
        if isinstance(meeting.failure, AssertionError):
            raise ValueError(
                f"the adaptive solver gave up ({meeting.failure}); loosen rtol and atol, or use a sampler with a fixed "
                "number of steps"
            ) from meeting.failure
        raise meeting.failure
    return torch.stack([found[i] for i in range(len(y))])
