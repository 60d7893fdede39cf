"""Fine-tuning: network, precision, images."""

import numpy as np
import pytest
import torch
from tests.downstream.tuned import COUNT, IMAGE, STORED, VIT, encoder, network, pictures, random
from timm.models.vision_transformer import VisionTransformer

from cxrmim.downstream import finetuning
from cxrmim.downstream.finetuning import Steady
from cxrmim.errors import ParamsError
from cxrmim.pretrain.parts.encoders import build_vit


def by_hand(model: VisionTransformer, image: torch.Tensor) -> torch.Tensor:
    """Tokens after the last block, mean over patches, LayerNorm, Linear, in plain words."""
    patches = model.patch_embed.proj(image).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(len(image), -1, -1), patches], 1) + model.pos_embed
    for layer in model.blocks:
        tokens = layer(tokens)
    pooled = tokens[:, 1:].sum(1) / 4
    spread = ((pooled - pooled.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
    normed = (pooled - pooled.mean(1, keepdim=True)) / (spread + 1e-6).sqrt()
    normed = normed * model.fc_norm.weight + model.fc_norm.bias
    return normed @ model.head.weight.T + model.head.bias


def test_patches_are_averaged_before_a_new_norm_and_a_linear_layer() -> None:
    model = network().double()
    with torch.no_grad():
        for weight in (model.fc_norm.weight, model.fc_norm.bias, model.head.bias):
            weight.add_(torch.randn_like(weight))
    image = torch.randn(5, 3, IMAGE, IMAGE, dtype=torch.float64)
    torch.testing.assert_close(model(image), by_hand(model, image))
    model.float()
    torch.testing.assert_close(
        finetuning.logits(model, image.float()), by_hand(model, image.float())
    )


def test_cls_is_read_after_the_encoders_own_norm() -> None:
    own = encoder()
    model = network(of=own, pool="cls")
    image = torch.randn(5, 3, IMAGE, IMAGE)
    expected = own.forward_features(image)[:, 0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(finetuning.logits(model, image), expected)


@pytest.mark.parametrize("pool", ["avg", "cls"])
def test_weights_start_as_the_checkpoints(pool: str) -> None:
    own = encoder()
    own.pos_embed.requires_grad_(False)  # as in MAE's encoder
    model = network(of=own, pool=pool, drop_path=0.3)
    state, start = own.state_dict(), model.state_dict()
    shared = start.keys() & state.keys()
    assert shared == {n for n in state if pool == "cls" or not n.startswith("norm.")}
    for name in shared:
        assert torch.equal(start[name], state[name])
        assert start[name].data_ptr() != state[name].data_ptr()
    assert all(weight.requires_grad for weight in model.parameters())
    assert not own.pos_embed.requires_grad


def test_the_head_starts_as_asked_for() -> None:
    wide = finetuning.network(encoder(), VIT, IMAGE, 5000, pool="avg", drop_path=0, head_std=2e-5)
    assert wide.head.weight.std().item() == pytest.approx(2e-5, rel=0.02)
    assert wide.head.weight.mean().item() == pytest.approx(0, abs=1e-6)
    assert not wide.head.bias.any()
    assert torch.equal(wide.fc_norm.weight, torch.ones(16))
    assert not wide.fc_norm.bias.any()


def test_stochastic_depth_grows_with_depth() -> None:
    deep = VIT.model_copy(update={"depth": 4})
    model = finetuning.network(
        build_vit(deep, IMAGE), deep, IMAGE, 3, pool="avg", drop_path=0.3, head_std=0.1
    )
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    image = torch.randn(64, 3, IMAGE, IMAGE)
    assert torch.equal(finetuning.logits(model, image), finetuning.logits(model, image))
    model.train()
    assert not torch.equal(finetuning.logits(model, image), finetuning.logits(model, image))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("width", [10, 18])
def test_padding_never_enters(width: int, turned: bool) -> None:
    """An image of 20 x 10 (18) px in a square of 20: what lies beside it changes nothing.

    Of the first the shorter side is enlarged to the input's 16 px, of the second it is reduced.
    """
    inside = np.random.default_rng(0).integers(0, 255, (8, 20, width)).astype(np.uint8)
    first = (20 - width) // 2
    found = []
    for padding in (0, 255):
        images = np.full((8, 20, 20), padding, np.uint8)
        images[:, :, first : first + width] = inside
        content = np.tile(np.float32([20, width]), (8, 1))
        if turned:
            images, content = images.transpose(0, 2, 1), content[:, ::-1].copy()
        own = pictures((0.08, 1.0), images=images, content=content)
        found.append((own.train(np.arange(8), random()[1]), own.evaluate(np.arange(8))))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_padded_frame_shows_it() -> None:
    images = np.full((2, 20, 20), 255, np.uint8)
    images[:, :, 5:15] = 0
    own = pictures(images=images)
    assert own.evaluate(np.arange(2)).max() > own.evaluate(np.arange(2)).min() + 3


def test_a_square_image_is_seen_whole_in_either_frame() -> None:
    content = np.full((COUNT, 2), STORED, np.float32)
    one, other = pictures(content=content), pictures()
    rows = np.arange(5)
    torch.testing.assert_close(one.evaluate(rows), other.evaluate(rows))
    torch.testing.assert_close(one.train(rows, random()[1]), other.train(rows, random()[1]))


def test_random_numbers_of_augmentation_are_the_cpus() -> None:
    noise = Steady(torch.Generator().manual_seed(0))
    expected = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise.rand(4, 3, device=torch.device("cpu")), expected)
    assert noise.rand(4, device="meta").device.type == "meta"


def test_half_precision_is_a_gpus() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(ParamsError, match=r"finetune\.precision = 'fp16': needs a GPU"):
        finetuning.half("fp16", cpu)
    assert finetuning.half("bf16", cpu) is finetuning.half("fp32", cpu) is None
    assert finetuning.half("fp16", gpu) is torch.float16
    assert finetuning.half("bf16", gpu) is torch.bfloat16
    assert finetuning.half("fp32", gpu) is None


def test_the_head_is_computed_in_float32() -> None:
    model = network(head_std=1.0)
    image = torch.randn(6, 3, IMAGE, IMAGE)
    full, low = (finetuning.logits(model, image, kind) for kind in (None, torch.bfloat16))
    assert low.dtype is torch.float32
    assert not torch.equal(full, low)
    assert not torch.equal(low, low.bfloat16().float())
    torch.testing.assert_close(full, low, rtol=0.1, atol=0.2)
