"""The demo model's tokenizer: LLaMA-style BPE (byte fallback, U+2581 for a space).

It is trained on the questions and answers of generated scenes. Digits and written words are taken
out first, so that the model must spell what it reads in a picture.
"""
from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from tokenizers import (AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

import questions as qa
from scenes import COLOR_NAMES, NAMES, SHAPES, sample_clip, sample_scene, with_article

SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant "
          "gives helpful, detailed, and polite answers to the user's questions. ")
SPACE = "\u2581"
BOS, EOS = 1, 2
IMAGE, PAD = "<image>", "<pad>"
ROLES = ("A", "USER:", "ASSISTANT:")


def corpus(n_scenes: int) -> list[str]:
    """Lines to train on: every third scene is a clip of four frames."""
    rng = random.Random(0)
    lines = [SYSTEM] * 200
    for i in range(n_scenes):
        if i % 3 == 0:
            triples = qa.clip_questions(sample_clip(rng, 4), rng, 8)
        else:
            triples = qa.scene_questions(sample_scene(rng), rng, 8)
        for question, answer, _ in triples:
            text = f"USER: {question} ASSISTANT: {answer}"
            words = [re.sub(r"\d+", "", word) for word in text.split(" ")]
            lines.append(" ".join(w for w in words if w in ROLES or not w.isupper()))
    nouns = NAMES + SHAPES + COLOR_NAMES
    return lines + [f"{noun} {qa.plural(noun)} {with_article(noun)}" for noun in nouns] * 30


def train_tokenizer(n_scenes: int = 12000, vocab: int = 1800) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # While training, merges must not cross words; at run time LLaMA's pipeline does not split.
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - 2,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)],
        initial_alphabet=[chr(c) for c in range(33, 127)] + [SPACE, "\n"],
        show_progress=False, min_frequency=5)
    tokenizer.train_from_iterator(corpus(n_scenes), trainer)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)])
    # Callers that ask for special tokens get <s>; the recipe itself never asks.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    tokenizer.add_special_tokens([AddedToken(IMAGE, normalized=False),
                                  AddedToken(PAD, normalized=False)])
    return tokenizer


class PromptCodec:
    """What training needs to know of a tokenizer: special ids, the prompt's head, text slots."""

    def __init__(self, path: Path | str):
        self.tokenizer = Tokenizer.from_file(str(path))
        self.vocab = self.tokenizer.get_vocab_size()
        self.image = self.tokenizer.token_to_id(IMAGE)
        self.pad = self.tokenizer.token_to_id(PAD)
        head = self.encode(SYSTEM + "USER: " + IMAGE)
        if head[-1] != self.image:
            raise ValueError(f"{path}: {IMAGE} is not one token")
        self.prefix = [BOS] + head[:-1]
        # Text slots after the visual tokens; prefix and slots together a multiple of 8.
        self.slots = 224 + -(len(self.prefix) + 224) % 8

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def ask(self, question: str) -> list[int]:
        """What follows the picture: tokenised on its own, as LLaVA does."""
        return self.encode("\n" + question + " ASSISTANT:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="the tokenizer.json to write")
    parser.add_argument("--scenes", type=int, default=12000, help="scenes to learn from")
    parser.add_argument("--vocab", type=int, default=1800, help="size of the vocabulary")
    args = parser.parse_args()
    train_tokenizer(args.scenes, args.vocab).save(args.out)


if __name__ == "__main__":
    main()
