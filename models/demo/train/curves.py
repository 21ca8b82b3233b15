"""Accuracy of a trained demo model by visual tokens kept and by how they are chosen."""
from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from batches import N_PATCH, Batch
from demo_tokenizer import PromptCodec
from network import DemoModel, split_heads
from render import Renderer
from scoring import Tally, shares, tally_answers
from train import add_material, find_place, make_renderer
from trained import draw, load_model

BUDGETS = (288, 144, 72, 36, 18)
SEED = 4242


class Attention(NamedTuple):
    """Of one layer, over the patches: [B,576] each."""
    cls: torch.Tensor           # softmax row of CLS, mean of the heads
    received: torch.Tensor      # mean over queries and heads
    cls_logits: torch.Tensor    # CLS row before the softmax, mean of the heads


# From the attention of every layer to scores [B,576]; the highest are kept.
METHODS: dict[str, Callable[[list[Attention]], torch.Tensor]] = {
    "fastervlm": lambda layers: layers[-2].cls,
    "vtc-cls": lambda layers: sum(layer.cls for layer in layers[len(layers) // 2:-1]),
    "fopru-received": lambda layers: layers[-2].received,
    "last-logits": lambda layers: layers[-1].cls_logits,
    "random": lambda layers: torch.rand_like(layers[0].cls)}


def attention(model: DemoModel, images: torch.Tensor) -> list[Attention]:
    tower, found = model.vision, []
    x = tower.embed(images)
    for layer in tower.layers:
        y = layer.norm1(x)
        q, k = split_heads(layer.q(y), layer.heads), split_heads(layer.k(y), layer.heads)
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = logits.softmax(-1)
        found.append(Attention(weights[:, :, 0, 1:].mean(1), weights[:, :, 1:, 1:].mean((1, 2)),
                               logits[:, :, 0, 1:].mean(1)))
        x = layer(x)
    return found


@torch.no_grad()
def accuracy(model: DemoModel, renderer: Renderer, batch: Batch, views: torch.Tensor, n_keep: int,
             method: str) -> dict[str, float]:
    """Shares of whole answers that are right, by kind of question, at one budget."""
    tally: Tally = {}
    for i in range(0, len(batch.ids), 16):
        part = Batch(*(x[i:i + 16].to(renderer.device) for x in batch))
        images = renderer.normalise(views[i:i + 16].to(renderer.device).float() / 255)
        n = len(images)
        if n_keep < N_PATCH:
            score = METHODS[method](attention(model, images))
            keep = score.topk(n_keep, 1).indices.sort(1).values
        else:
            keep = torch.arange(N_PATCH, device=renderer.device).expand(n, -1)
        count = torch.full((n,), n_keep, device=renderer.device)
        states = model.decode(model.project(model.vision(images)[0], n), keep, count, part.ids,
                              part.segment, part.position)
        labelled = part.labels >= 0
        hit = torch.zeros_like(labelled)
        best = model.decoder.head(states[labelled]).argmax(-1)
        hit[labelled] = best == part.labels[labelled]
        tally_answers(part, hit, tally)
    return shares(tally)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that train.py wrote")
    parser.add_argument("--pictures", type=int, default=512, help="how many to draw")
    parser.add_argument("--budgets", type=int, nargs="*", default=list(BUDGETS))
    add_material(parser)
    args = parser.parse_args()
    device = find_place(args.device).device
    codec = PromptCodec(args.model / "tokenizer.json")
    config = json.loads((args.model / "config.json").read_text())
    model = load_model(args.model, codec, config, device)
    renderer = make_renderer(args, device)
    torch.manual_seed(5)
    n = min(args.pictures, 8) if args.smoke else args.pictures
    batch, views, _ = draw(renderer, codec, "S576", n, SEED)
    print(N_PATCH, "all", accuracy(model, renderer, batch, views, N_PATCH, ""), flush=True)
    for n_keep in args.budgets[:1] if args.smoke else args.budgets:
        for method in METHODS:
            print(n_keep, method, accuracy(model, renderer, batch, views, n_keep, method),
                  flush=True)


if __name__ == "__main__":
    main()
