"""A trained network back from its folder, and pictures drawn to test it with."""
from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from batches import BATCH_KINDS, Batch, make_batch
from demo_tokenizer import PromptCodec
from export import tensor_names
from network import DemoModel, Shape
from render import Renderer


def shape_of(config: dict) -> Shape:
    vision, text = config["vision_config"], config["text_config"]
    return Shape(vision["hidden_size"], vision["num_hidden_layers"],
                 vision["num_attention_heads"], text["hidden_size"], text["num_hidden_layers"],
                 text["num_attention_heads"], text["intermediate_size"])


def load_model(folder: Path, codec: PromptCodec, config: dict, device: str) -> DemoModel:
    """The exported weights, in f32. The training heads are not exported and stay as they fall."""
    theirs: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        theirs |= load_file(str(shard))
    model = DemoModel(codec, shape_of(config))
    state = {ours: theirs[name].float() for name, ours in tensor_names(model.shape).items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    unset = [key for key in missing if not key.startswith(("cls_head", "patch_head"))]
    if unset:
        raise SystemExit(f"{folder}: no weights for {unset}")
    return model.to(device).eval()


@torch.no_grad()
def draw(renderer: Renderer, codec: PromptCodec, name: str, n: int,
         seed: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """n examples, their views and their canvases as bytes; 16 at a time."""
    kind = BATCH_KINDS[name]
    batch = make_batch(random.Random(seed), kind, codec, n)
    views, canvases = [], []
    for i in range(0, n, 16):
        part = [x[i:i + 16].to(renderer.device)
                for x in (batch.items, batch.texts, batch.background)]
        view, canvas = renderer(kind, *part)
        views.append((view * 255).round().byte().cpu())
        canvases.append((canvas * 255).round().byte().cpu())
    return batch, torch.cat(views), torch.cat(canvases)
