"""A tiny fine-tuning: network, images, labels and training that the tests change."""

import math
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from cxrmim.downstream import finetuning
from cxrmim.downstream.finetuning import Pictures, Plan, Steady, Training
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.schema import Augment, Vit

VIT = Vit(patch=8, width=16, depth=2, heads=2, mlp=2.0, init="xavier")
IMAGE, STORED, COUNT = 16, 20, 30
TRAIN, VALID = np.arange(0, 20), np.arange(20, 30)
PLAIN = Training(
    batch=8,
    eval_batch=4,
    optimiser="sgd",
    momentum=0.9,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    layer_decay=1.0,
    clip=1.0,
    precision="fp32",
    validate_every="epoch",
    patience=0,
)


def changed(**over: Any) -> Training:
    return Training(**{**PLAIN.__dict__, **over})


def encoder() -> VisionTransformer:
    torch.manual_seed(3)
    model = build_vit(VIT, IMAGE)
    with torch.no_grad():  # norms start at 1 and 0, which would hide them
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def network(of: VisionTransformer | None = None, **over: Any) -> VisionTransformer:
    options = {"pool": "avg", "drop_path": 0.0, "head_std": 0.1} | over
    source = of or encoder()
    torch.manual_seed(4)
    return finetuning.network(source, VIT, IMAGE, 3, **options)


def pictures(area: tuple[float, float] = (0.5, 1.0), **over: Any) -> Pictures:
    images = np.random.default_rng(0).integers(0, 255, (COUNT, STORED, STORED)).astype(np.uint8)
    augment = Augment(resize=IMAGE, crop="resized", area=area, flip=0.5, mean=0.5, std=0.25)
    whole = {
        "name": "invented",
        "images": images,
        "content": None,
        "augment": augment,
        "size": IMAGE,
    }
    return Pictures(**{**whole, "device": torch.device("cpu"), **over})


def labels() -> np.ndarray:
    found = (np.random.default_rng(1).random((COUNT, 3)) < 0.5).astype(np.float32)
    found[:4, 0] = np.nan
    return found


def random(seed: int = 0) -> tuple[torch.Generator, Steady]:
    return torch.Generator().manual_seed(seed), Steady(torch.Generator().manual_seed(seed + 1))


def fit(
    training: Training = PLAIN, steps: int = 7, lr: float = 0.05, **over: Any
) -> finetuning.Course | None:
    rest = {"truth": labels(), "multiclass": False, "model": network()} | over
    return finetuning.fit(
        rest["model"],
        pictures(),
        rest["truth"],
        (TRAIN, VALID),
        Plan(2, steps, lr),
        training,
        random(),
        multiclass=rest["multiclass"],
    )


def rate(t: int, warmup: int, steps: int, lr: float) -> float:
    """Learning rate of step t, from 1."""
    if t < warmup:
        return lr * t / warmup
    return lr * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2
