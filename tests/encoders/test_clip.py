import json
from pathlib import Path

import pytest
import torch

from kakusan.data.spec import DataSpec
from kakusan.encoders import load
from kakusan.encoders.clip import BRIDGES, LARGEST_LOG_SCALE, Clip, Gap
from kakusan.encoders.contrastive import LOSSES
from kakusan.encoders.folder import save
from kakusan.encoders.image import TOWERS, ConvolutionalTower, ImageTower, VisionTransformer
from kakusan.encoders.opening import open_encoder
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.model_folder import CorruptModel
from kakusan.specs import from_spec, to_spec

TEXTS = ["a red rose", "a blue rose", "赤いバラ", ""]
TOKENIZER = Tokenizer.train(TEXTS * 2, size=300)


def tower(width: int = 6) -> TextTower:
    return TextTower(tokenizer=TOKENIZER.json, width=8, depth=1, heads=2, length=16, vector_width=width)


def small(loss: str = "softmax") -> Clip:
    image = ConvolutionalTower(channels=3, vector_width=6, width=4, multipliers=(1, 2), patch=1)
    return Clip(image=image, text=tower(), loss=LOSSES[loss]).eval()


@pytest.mark.parametrize("kind", list(TOWERS))
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (5, 7)])
def test_towers_read_pictures_of_any_size(kind: str, size: tuple[int, int]) -> None:
    image = TOWERS[kind](3, size, width=8, depth=1, vector_width=6)
    x = torch.randn(2, 3, *size)
    assert image(x).shape == (2, 6)
    torch.testing.assert_close(image(x[:1])[0], image(x)[0], atol=1e-5, rtol=1e-5)
    assert not torch.equal(image(x)[0], image(x)[1])
    again = from_spec(to_spec(image), ImageTower)
    again.load_state_dict(image.state_dict())
    assert torch.equal(again(x), image(x))


def test_towers_refuse_what_is_no_picture_of_theirs() -> None:
    with pytest.raises(ValueError, match="takes pictures"):
        VisionTransformer(channels=3, width=8, depth=1, heads=1)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        ConvolutionalTower(channels=0)
    with pytest.raises(ValueError, match="one width"):
        Clip(image=ConvolutionalTower(channels=3, vector_width=5, width=4), text=tower(6))


def test_vectors_are_directions_and_logits_their_scaled_cosines() -> None:
    clip = small("sigmoid")
    images, texts = clip.embed_images(torch.randn(3, 3, 8, 8)), clip.embed_texts(TEXTS)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(4))
    expected = 10.0 * torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1) - 5.0
    torch.testing.assert_close(clip.logits(images, texts), expected)


def test_the_scale_stays_in_its_bounds() -> None:
    clip = small()
    clip.log_scale.data.fill_(9.0)
    assert float(clip.scale.detach()) == pytest.approx(100.0, rel=1e-3)
    clip.clamp()
    assert float(clip.log_scale.detach()) == pytest.approx(LARGEST_LOG_SCALE)


def test_a_gap_that_is_a_shift_or_a_turn_is_closed_by_its_bridge() -> None:
    clip = small()
    draw = torch.Generator().manual_seed(1)
    texts = torch.randn(400, 6, generator=draw) * 0.1
    moved = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    clip.measure_gap(texts + moved, texts)
    torch.testing.assert_close(clip.image_mean - clip.text_mean, moved, atol=1e-5, rtol=0)
    there = torch.nn.functional.normalize(texts + moved, dim=-1)
    torch.testing.assert_close(BRIDGES["shift"](clip, texts), there, atol=1e-4, rtol=0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    clip.measure_gap(texts @ turn + moved, texts)
    there = torch.nn.functional.normalize(texts @ turn + moved, dim=-1)
    torch.testing.assert_close(BRIDGES["linear"](clip, texts), there, atol=5e-3, rtol=0)
    assert torch.equal(BRIDGES["none"](clip, texts), texts)
    assert float((BRIDGES["shift"](clip, texts) - there).norm(dim=1).mean()) > 0.05


def test_gap_by_hand() -> None:
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    gap = Gap.between(images, texts)
    assert gap.distance == pytest.approx(0.5**0.5)
    assert (gap.cosine, gap.others) == (pytest.approx(0.5), pytest.approx(0.5))


def test_an_unknown_bridge_is_refused() -> None:
    with pytest.raises(ValueError, match="none, shift, linear"):
        small().embed_texts(["a"], bridge="tunnel")


def spec() -> DataSpec:
    stored = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    return DataSpec.measure(stored.numpy(), mode="RGB")


def test_a_folder_gives_the_same_model_back(tmp_path: Path) -> None:
    clip = small("sigmoid")
    clip.measure_gap(torch.randn(20, 6), torch.randn(20, 6))
    identity = save(tmp_path, clip, spec(), {"steps": 3})
    again = load(tmp_path)
    x = torch.randn(2, 3, 8, 8)
    assert again.model_hash == identity
    assert again.training["steps"] == 3
    assert torch.equal(again.clip.embed_images(x), clip.embed_images(x))
    for bridge in BRIDGES:
        assert torch.equal(again.clip.embed_texts(TEXTS, bridge=bridge), clip.embed_texts(TEXTS, bridge=bridge))
    assert not any(p.requires_grad for p in again.clip.parameters())
    assert isinstance(open_encoder(tmp_path), TextTower)
    stored = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(again.embed_stored(stored), clip.embed_images(again.data.to_model(stored)))


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train-clip"):
        load(tmp_path / "none")
    save(tmp_path, small(), spec(), {})
    facts = json.loads((tmp_path / "model.json").read_text())
    facts["clip"]["text"]["width"] = 10
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(CorruptModel):
        load(tmp_path)
    facts["denoiser"] = {}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(CorruptModel, match="kakusan.load"):
        load(tmp_path)
