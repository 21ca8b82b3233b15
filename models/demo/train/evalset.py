"""Draws pictures and clips with questions and answers: an evaluation set for a trained model."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from batches import BATCH_KINDS, Batch
from demo_tokenizer import EOS, PromptCodec
from questions import KINDS
from train import add_material, find_place, make_renderer
from trained import draw

# kind of batch, how many, seed, name
SETS = (("S576", 160, 777, "single"), ("X", 48, 778, "tiles"), ("W", 12, 779, "wide"),
        ("T", 12, 780, "tall"), ("V8", 40, 781, "clip"), ("V4", 20, 782, "clip4"))
ROLE = "ASSISTANT:"


def questions_of(batch: Batch, row: int, codec: PromptCodec) -> list[dict[str, str]]:
    """The questions of an example, read back from its tokens: exactly those that fitted."""
    found = []
    for number in range(1, int(batch.segment[row].max()) + 1):
        member = batch.segment[row] == number
        if not member.any():
            continue
        ids, answers = batch.ids[row][member].tolist(), batch.labels[row][member] >= 0
        split = int(answers.nonzero()[0]) + 1
        assert ids[-1] == EOS
        question = codec.tokenizer.decode(ids[:split]).strip()
        found.append({"question": question.removesuffix(ROLE).strip(),
                      "answer": codec.tokenizer.decode(ids[split:-1]).strip(),
                      "kind": KINDS[int(batch.kind[row][member][answers][0])]})
    return found


def save_jpeg(pixels: torch.Tensor, path: Path) -> None:
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that train.py wrote (its tokenizer.json)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_material(parser)
    args = parser.parse_args()
    codec = PromptCodec(args.model / "tokenizer.json")
    renderer = make_renderer(args, find_place(args.device).device)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    entries = []
    for name, n, seed, prefix in SETS:
        kind, n = BATCH_KINDS[name], 2 if args.smoke else n
        batch, _, canvases = draw(renderer, codec, name, n, seed)
        for i in range(n):
            stem = f"{prefix}{i:03d}"
            if kind.clip:
                files = [f"{stem}_{f}.jpg" for f in range(kind.frames)]
                for f, file in enumerate(files):
                    save_jpeg(canvases[i * kind.frames + f], args.out / file)
            else:
                files = [f"{stem}.jpg"]
                x, y, w, h = (int(v) for v in batch.background[i][8:12])
                save_jpeg(canvases[i][:, y:y + h, x:x + w], args.out / files[0])
            entries.append({"name": stem, "frames": kind.frames, "files": files,
                            "qa": questions_of(batch, i, codec)})
    (args.out / "questions.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
