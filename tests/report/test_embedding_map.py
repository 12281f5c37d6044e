import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.metrics.clip import ClipFigures, Retrieval
from kakusan.metrics.retrieval import Rate
from kakusan.report.clip import ClipPage, clip_page, similarity_curves
from kakusan.report.embedding_map import EmbeddingMap, neighbour_plane, principal_plane, sprite, unit_square


def test_the_principal_plane_keeps_a_plane_whole() -> None:
    flat = torch.randn(30, 2, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64)).Q
    found = principal_plane(flat @ basis.T + 3.0)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(flat, flat))
    assert torch.equal(found, principal_plane(flat @ basis.T + 3.0))


def test_neighbours_stay_neighbours() -> None:
    centres = torch.eye(4).repeat_interleave(15, 0) * 6.0
    points = torch.cat([centres, torch.zeros(60, 4)], 1) + 0.3 * torch.randn(60, 8)
    plane = neighbour_plane(points, perplexity=10.0, iterations=250)
    nearest = (torch.cdist(plane, plane) + 1e9 * torch.eye(60)).topk(5, largest=False).indices
    assert bool((nearest // 15 == (torch.arange(60) // 15)[:, None]).all())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_points_and_equal_points_are_mapped(count: int) -> None:
    for points in (torch.randn(count, 4), torch.ones(count, 4)):
        plane = unit_square(neighbour_plane(points, iterations=20))
        assert plane.shape == (count, 2)
        assert np.isfinite(plane).all()
        assert (plane >= -1e-9).all()
        assert (plane <= 1 + 1e-9).all()


def shown(count: int = 12) -> EmbeddingMap:
    pictures = [Image.new("RGB", (8, 8), (20 * k, 0, 200)) for k in range(count)]
    captions = [f"picture {k} </script><!-- 赤い花" for k in range(count)]
    groups = ["a" if k % 2 else "b" for k in range(count)]
    return EmbeddingMap.of(torch.randn(count, 5), torch.randn(count, 5), pictures, captions, groups)


def test_the_picture_holds_every_thumbnail() -> None:
    found = shown()
    sheet = np.asarray(found.picture(size=(600, 500), thumbnail=16, captions=3))
    assert sheet.shape == (500, 600, 3)
    for k in range(12):
        assert (sheet == (20 * k, 0, 200)).all(2).sum() > 20


def test_thumbnails_lie_in_the_sprite_in_order() -> None:
    sheet, columns = sprite(shown().thumbnails, 8)
    assert columns == 4
    assert [sheet.getpixel((k % 4 * 8 + 4, k // 4 * 8 + 4)) for k in range(12)] == [(20 * k, 0, 200) for k in range(12)]


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        EmbeddingMap(np.zeros((2, 2)), [Image.new("RGB", (2, 2))], ["a", "b"])


def figures() -> ClipFigures:
    rate = {k: Rate(0.5, 0.1, 0.01 * k, 25) for k in (1, 5, 10)}
    return ClipFigures(25, Retrieval(rate, rate, 20), {}, torch.rand(25), torch.rand(600) - 0.5, None)


def test_the_page_holds_the_map_and_the_figures_and_fetches_nothing() -> None:
    page = clip_page(
        title="CLIP",
        facts={"pictures": 25},
        history=[{"step": 0.0, "loss": 2.0}, {"step": 1.0, "loss": 1.0, "held_out_loss": 1.5}],
        figures={"en": figures()},
        measured_on="held-out",
        shown=shown(),
        notes=["one note"],
    ).html()
    held = re.search(r'id="map-data">(.*?)</script>', page)
    assert held is not None
    data = json.loads(held.group(1))
    assert len(data["places"]) == len(data["captions"]) == len(data["texts"]) == 12
    assert "</script><!--" in data["captions"][0]
    assert "0.500 +- 0.100" in page
    assert "script-src 'sha256-" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_a_map_may_do_without_groups_and_texts() -> None:
    plain = EmbeddingMap.of(torch.randn(4, 5), None, [Image.new("L", (4, 4))] * 4, ["", "a", "b" * 500, "🌹"])
    assert plain.picture(size=(400, 300)).size == (400, 300)
    assert '"texts":null' in ClipPage("map").map(plain).html()


def test_similarity_curves_are_densities() -> None:
    assert "<svg" in similarity_curves(figures()).svg()
