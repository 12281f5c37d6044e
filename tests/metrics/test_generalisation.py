import json

import pytest
import torch

from kakusan.metrics.generalisation import GeneralisationReport


def errors(seed: int, n: int, factor: float = 1.0) -> torch.Tensor:
    """(3, n): a picture is hard or easy at every level alike."""
    generator = torch.Generator().manual_seed(seed)
    hard = torch.randn(n, generator=generator).mul(0.4).exp()
    level = torch.randn(3, n, generator=generator).mul(0.1).exp()
    return factor * torch.tensor([0.01, 0.1, 0.4])[:, None] * hard * level


def test_means_and_their_errors_level_by_level() -> None:
    training, held_out = errors(0, 50), errors(1, 30, 1.5)
    report = GeneralisationReport.of([6.0, 0.0, -4.0], training, held_out)
    for k, level in enumerate(report.levels):
        assert level.training == pytest.approx(float(training[k].mean()), rel=1e-6)
        assert level.held_out_stderr == pytest.approx(float(held_out[k].std() / 30**0.5), rel=1e-5)
        assert level.gap == pytest.approx(level.held_out - level.training)
    scaled = 1 - training.mean(1) / held_out.mean(1)
    assert report.excess == pytest.approx(float(scaled.mean()), rel=1e-5)
    assert report.pictures == (50, 30)
    assert json.loads(json.dumps(report.record()))["beyond_noise"] == report.beyond_noise


def test_pictures_of_one_kind_rarely_show_a_gap() -> None:
    reports = [GeneralisationReport.of([1.0, 0.0, -1.0], errors(2 * s, 48), errors(2 * s + 1, 48)) for s in range(100)]
    # One in a hundred is allowed; six would come once in two thousand times.
    assert sum(report.beyond_noise for report in reports) <= 5
    z = torch.tensor([report.z for report in reports])
    assert abs(float(z.mean())) < 0.35
    assert 0.75 < float(z.std()) < 1.25


def test_a_gap_is_seen_and_said() -> None:
    report = GeneralisationReport.of([1.0, 0.0, -1.0], errors(0, 96), errors(1, 96, 1.6))
    assert report.beyond_noise
    assert "knows pictures of its training" in report.text()
    none = GeneralisationReport.of([1.0, 0.0, -1.0], errors(0, 96), errors(1, 96))
    assert "as well as" in none.text()


def test_one_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two pictures"):
        GeneralisationReport.of([0.0], torch.ones(1, 1), torch.ones(1, 5))
