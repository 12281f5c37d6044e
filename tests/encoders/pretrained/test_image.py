"""CLIP's image tower: pictures come to it as its folder says, vectors are the library's, gradients reach pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from PIL import Image

from kakusan.encoders.pretrained import PretrainedClipImage, open_pretrained
from kakusan.encoders.pretrained.image import Preparation
from kakusan.encoders.pretrained.place import look
from kakusan.specs import from_spec, to_spec

PREPARATION = {
    "crop_size": {"height": 16, "width": 16},
    "size": {"shortest_edge": 16},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.2, 0.25],
}
Folder = tuple[Path, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("encoders") / "whole"
    return folder, tiny_networks.whole_clip(folder, preparation=PREPARATION)


def pictures(num: int, *size: int) -> torch.Tensor:
    """Smooth pictures of 8 bits, in model units."""
    small = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.interpolate(small, size=size, mode="bicubic").clamp(0.0, 1.0)
    return (smooth * 255.0).round() / 127.5 - 1.0


def pil(x: torch.Tensor) -> Image.Image:
    return Image.fromarray(((x + 1.0) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (40, 40), (24, 60), (61, 33), (9, 7)])
def test_pictures_are_prepared_as_the_library_does(size: tuple[int, int], whole: Folder) -> None:
    import transformers

    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    theirs = kind(**PREPARATION)
    # Half the contrast: where a bicubic overshoots, the library cuts the values between its two passes already.
    x = (((pictures(2, *size) * 0.5) + 1.0) * 127.5).round() / 127.5 - 1.0
    wanted = torch.as_tensor(np.stack(theirs([pil(p) for p in x])["pixel_values"]))
    found = Preparation.read(look(whole[0], tokenizer=False, preprocessor=True))(x)
    assert found.shape == wanted.shape == (2, 3, 16, 16)
    # The library rounds to 8 bits after resizing, twice; a step of 8 bits is 1 / 255 / 0.2 here.
    assert float((found - wanted).abs().max()) < 1.6 / 255.0 / 0.2


def test_vectors_are_those_of_the_library(whole: Folder) -> None:
    folder, network = whole
    encoder = PretrainedClipImage.from_folder(folder)
    assert not encoder.loaded
    x = pictures(3, 16, 16)
    seen = ((x + 1.0) / 2.0 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.3, 0.2, 0.25]).view(
        3, 1, 1
    )
    with torch.no_grad():
        wanted = network.get_image_features(pixel_values=seen)
    wanted = getattr(wanted, "pooler_output", wanted)
    found = encoder(x)
    assert found.shape == (3, encoder.vector_width) == (3, 8)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(x[1:2]), found[1:2], atol=1e-5, rtol=1e-5)
    # The same space as the texts of the same folder.
    assert open_pretrained(folder).vector_width == encoder.vector_width


def test_gradients_reach_the_picture_and_nothing_else(whole: Folder) -> None:
    encoder = PretrainedClipImage.from_folder(whole[0]).train()
    x = (pictures(1, 24, 20) * 0.8).double().requires_grad_()
    assert list(encoder.parameters()) == []
    assert encoder.state_dict() == {}
    out = encoder(x)[0] @ torch.ones(8)
    (gradient,) = torch.autograd.grad(out, x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 1e-2
    with torch.no_grad():
        ahead, behind = (encoder(x + sign * step)[0] @ torch.ones(8) for sign in (1, -1))
    torch.testing.assert_close(float(ahead - behind) / 2, float((gradient * step).sum()), rtol=2e-2, atol=1e-4)
    assert not any(value.grad is not None for value in encoder._network.get().parameters())


def test_gray_pictures_and_others(whole: Folder) -> None:
    encoder = PretrainedClipImage.from_folder(whole[0])
    gray = pictures(1, 16, 16)[:, :1]
    torch.testing.assert_close(encoder(gray), encoder(gray.expand(-1, 3, -1, -1)))
    for wrong in (torch.zeros(1, 4, 16, 16), torch.zeros(3, 16, 16)):
        with pytest.raises(ValueError, match="gray or RGB"):
            encoder(wrong)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, Preparation()),
        ({"size": 16, "crop_size": 16}, Preparation(shortest=16, crop=(16, 16))),
        ({"size": {"height": 16, "width": 20}, "do_center_crop": False}, Preparation(None, (16, 20), None)),
        ({"do_resize": False, "resample": 2}, Preparation(None, None, (224, 224), "bilinear")),
        ({"do_normalize": False}, Preparation(mean=(0.0,) * 3, std=(1.0,) * 3)),
    ],
)
def test_what_a_folder_may_say(said: dict[str, Any], wanted: Preparation, tmp_path: Path) -> None:
    tiny_networks.whole_clip(tmp_path, preparation=said)
    assert Preparation.read(look(tmp_path, tokenizer=False, preprocessor=True)) == wanted


@pytest.mark.parametrize("said", [{"resample": 1}, {"size": "big"}, {"image_std": [0.0, 1.0, 1.0]}, {"size": {"x": 1}}])
def test_preparations_that_are_not_known_are_refused(said: dict[str, Any], tmp_path: Path) -> None:
    tiny_networks.whole_clip(tmp_path, preparation=said)
    with pytest.raises(ValueError, match="a preparation of pictures that kakusan does not know"):
        PretrainedClipImage.from_folder(tmp_path)


def test_the_hash_sees_the_preparation_and_folders_move(whole: Folder, tmp_path: Path) -> None:
    encoder = PretrainedClipImage.from_folder(whole[0])
    again = from_spec(json.loads(json.dumps(to_spec(encoder))), PretrainedClipImage)
    x = pictures(1, 16, 16)
    assert torch.equal(again(x), encoder(x))
    tiny_networks.whole_clip(tmp_path / "other", preparation={**PREPARATION, "resample": 2})
    other = encoder.moved(tmp_path / "other")
    with pytest.raises(ValueError, match="holds another one"):
        other(x)
    with pytest.raises(ValueError, match="is not there"):
        encoder.moved(tmp_path / "nowhere")(x)


def test_a_tower_without_its_head_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no visual_projection.weight"):
        PretrainedClipImage.from_folder(tmp_path)
