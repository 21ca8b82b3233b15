"""Loads an exported folder with transformers and compares its logits with the recipe's network."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import LlavaNextForConditionalGeneration

from batches import BATCH_KINDS, row_order
from demo_tokenizer import PromptCodec
from network import DemoModel
from scenes import VIEW
from trained import load_model

QUESTION = "What do you see?"
BOX = (0, 66, 2 * VIEW, 540)        # a 672 x 540 picture on 2 x 2 tiles: rows to unpad
# Of the largest logit. f32 rounding gives 4e-7 trained and 3e-7 untrained; in an untrained toy
# network a wrong rope_theta moves the logits by only 6e-5.
TOLERANCE = 1e-5


def our_logits(model: DemoModel, tiles: torch.Tensor, order: torch.Tensor,
               question: list[int]) -> torch.Tensor:
    ids = torch.tensor([question])
    rows = model.project(model.vision(tiles)[0], 1)
    count = torch.tensor([order.shape[1]])
    states = model.decode(rows, order, count, ids, torch.ones_like(ids),
                          torch.arange(len(question))[None])
    return model.decoder.head(states[0, -1])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that train.py wrote")
    args = parser.parse_args()
    codec = PromptCodec(args.model / "tokenizer.json")
    config = json.loads((args.model / "config.json").read_text())
    ours = load_model(args.model, codec, config, "cpu")
    theirs, info = LlavaNextForConditionalGeneration.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    wrong = {key: list(value) for key, value in info.items() if value}
    if wrong:
        raise SystemExit(f"{args.model}: transformers reports {wrong}")
    torch.manual_seed(0)
    tiles = torch.randn(5, 3, VIEW, VIEW)
    order = torch.from_numpy(row_order(BATCH_KINDS["XF"], BOX))[None]
    order = order[:, :int((order >= 0).sum())]
    question = codec.ask(QUESTION)
    prompt = codec.prefix + [codec.image] * order.shape[1] + question
    expected = theirs.eval()(input_ids=torch.tensor([prompt]), pixel_values=tiles[None],
                             image_sizes=torch.tensor([[BOX[3], BOX[2]]])).logits[0, -1]
    difference = float((our_logits(ours, tiles, order, question) - expected).abs().max())
    largest = float(expected.abs().max())
    print(f"{order.shape[1]} visual tokens, largest logit {largest:.3f}, "
          f"largest difference {difference:.2e}")
    if not difference <= TOLERANCE * largest:
        raise SystemExit(f"{args.model}: logits differ by more than {TOLERANCE} of the largest")


if __name__ == "__main__":
    main()
