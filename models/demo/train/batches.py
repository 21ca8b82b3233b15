"""Scenes as arrays: tokens and labels, what to draw, patch classes, which visual rows exist.

Nothing is drawn here: the processes that make batches send a few numbers per item, and render.py
draws on the device.
"""
from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import questions as qa
from demo_tokenizer import EOS, PromptCodec
from scenes import (BACKGROUNDS, COLOR_NAMES, COLORS, ITEM_KINDS, NAMES, SHAPES, VIEW, Box, Scene,
                    sample_clip, sample_scene)

PATCH = 14
GRID = VIEW // PATCH
N_PATCH = GRID * GRID
MAX_ITEMS, MAX_TEXTS = 6, 2
TEXT_W, TEXT_H = 160, 48
N_PICTOGRAMS, N_SHAPES, N_COLORS = len(NAMES), len(SHAPES), len(COLORS)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
FONT_FILES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono",
              "DejaVuSansMono-Bold", "cmss10", "STIXGeneral")
# Patch classes: pictograms, shapes, text, background.
CLASS_TEXT = N_PICTOGRAMS + N_SHAPES
CLASS_BACKGROUND = CLASS_TEXT + 1
N_CLASSES = CLASS_BACKGROUND + 1
# What CLS must tell: one, two, three of each pictogram, then the blocks below in this order.
_AT_SHAPE = 3 * N_PICTOGRAMS
_AT_COLOR = _AT_SHAPE + N_SHAPES
_AT_PAIR = _AT_COLOR + N_COLORS
_AT_CHARACTER = _AT_PAIR + N_SHAPES * N_COLORS
_AT_GROUND_COLOR = _AT_CHARACTER + len(ALPHABET)
_AT_GROUND = _AT_GROUND_COLOR + N_COLORS
_AT_CELL = _AT_GROUND + len(BACKGROUNDS)
N_TARGETS = _AT_CELL + 9 * len(ITEM_KINDS)


@dataclass(frozen=True)
class BatchKind:
    """Views, batch size and decoder bucket (most visual rows) of one sort of batch.

    `grid` is the tiles' columns and rows of an AnyRes picture; `p_all` the share of examples that
    keep every visual row.
    """
    name: str
    views: int
    batch: int
    bucket: int
    grid: tuple[int, int] = (1, 1)
    clip: bool = False
    p_all: float = 0.0

    @property
    def tiled(self) -> bool:
        return self.grid != (1, 1)

    @property
    def frames(self) -> int:
        return self.views if self.clip else 1

    @property
    def n_rows(self) -> int:
        """Visual rows there are: the patches of all views, then the newline vector."""
        return self.views * N_PATCH + 1

    def size(self, scale: float) -> int:
        return max(2, int(self.batch * scale))


BATCH_KINDS = {kind.name: kind for kind in (
    BatchKind("S576", 1, 256, 576, p_all=.6),
    BatchKind("S192", 1, 256, 192),
    BatchKind("X", 5, 64, 1024, grid=(2, 2)),
    BatchKind("W", 3, 64, 1024, grid=(2, 1)),
    BatchKind("T", 3, 64, 1024, grid=(1, 2)),
    BatchKind("V4", 4, 64, 1024, clip=True),
    BatchKind("V8", 8, 32, 1024, clip=True),
    BatchKind("XF", 5, 16, 2928, grid=(2, 2), p_all=.9),
    BatchKind("VF", 4, 16, 2928, clip=True, p_all=.9))}


class Batch(NamedTuple):
    """One example, or a batch of them with a leading dimension B."""
    ids: torch.Tensor           # [slots] the questions and answers, one after the other
    labels: torch.Tensor        # [slots] next token where it is an answer's, else -100
    segment: torch.Tensor       # [slots] number of the question, 0 for padding
    position: torch.Tensor      # [slots] position within the question
    kind: torch.Tensor          # [slots] index in questions.KINDS where a label is, else -1
    items: torch.Tensor         # [frames,6,11] kind, atlas row, r, g, b, x, y, w, h, turn, flip
    texts: torch.Tensor         # [2,48,160] written texts as masks
    patches: torch.Tensor       # [views,576] class of every patch
    targets: torch.Tensor       # [N_TARGETS] what CLS must tell
    background: torch.Tensor    # [12] kind, two colours, angle, content box x, y, w, h
    order: torch.Tensor         # [>= bucket] the visual rows in sequence order, then -1


@lru_cache
def fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(ImageFont.truetype(str(folder / f"{name}.ttf"), 36) for name in FONT_FILES)


def text_mask(text: str, font: int) -> np.ndarray:
    face = fonts()[font]
    x0, y0, x1, y1 = face.getbbox(text)
    image = Image.new("L", (TEXT_W, TEXT_H), 0)
    at = (TEXT_W / 2 - (x1 - x0) / 2 - x0, TEXT_H / 2 - (y1 - y0) / 2 - y0)
    ImageDraw.Draw(image).text(at, text, font=face, fill=255)
    return np.asarray(image)


def picture_targets(scene: Scene) -> np.ndarray:
    t = np.zeros(N_TARGETS, np.float32)
    seen: dict[int, int] = {}
    for item in scene.items:
        if item.kind == "pictogram":
            seen[item.index] = seen.get(item.index, 0) + 1
            t[(min(seen[item.index], 3) - 1) * N_PICTOGRAMS + item.index] = 1
        elif item.kind == "shape":
            t[_AT_SHAPE + item.index] = t[_AT_COLOR + item.color] = 1
            t[_AT_PAIR + item.index * N_COLORS + item.color] = 1
        else:
            for character in item.text:
                t[_AT_CHARACTER + ALPHABET.index(character)] = 1
        t[_AT_CELL + item.cell * len(ITEM_KINDS) + ITEM_KINDS.index(item.kind)] = 1
    if scene.background in ("solid", "grad"):
        t[_AT_GROUND_COLOR + COLOR_NAMES.index(scene.color)] = 1
    t[_AT_GROUND + BACKGROUNDS.index(scene.background)] = 1
    return t


Extent = tuple[int, float, float, float, float]     # class, x, y, half width, half height


def patch_classes(extents: list[Extent], x0: float = 0., y0: float = 0., scale_x: float = 1.,
                  scale_y: float = 1.) -> np.ndarray:
    """24 x 24 classes of the view that shows the canvas from (x0, y0), scaled; later items win."""
    classes = np.full((GRID, GRID), CLASS_BACKGROUND, np.int64)
    centres = np.arange(GRID) * PATCH + PATCH // 2
    for number, x, y, half_w, half_h in extents:
        rows = np.abs(centres - (y - y0) * scale_y) < max(half_h * scale_y, 7.5)
        columns = np.abs(centres - (x - x0) * scale_x) < max(half_w * scale_x, 7.5)
        classes[np.ix_(rows, columns)] = number
    return classes.reshape(-1)


def unpadded(w: int, h: int, columns: int, rows: int) -> tuple[range, range]:
    """Rows and columns of the tile mosaic that hold content (LLaVA-NeXT's unpad)."""
    mosaic_w, mosaic_h = GRID * columns, GRID * rows
    if w / h > mosaic_w / mosaic_h:
        pad = (mosaic_h - int(h * (mosaic_w / w))) // 2
        return range(pad, mosaic_h - pad), range(mosaic_w)
    pad = (mosaic_w - int(w * (mosaic_h / h))) // 2
    return range(mosaic_h), range(pad, mosaic_w - pad)


def row_order(kind: BatchKind, box: Box) -> np.ndarray:
    """The visual rows in the order LLaVA-NeXT packs them: whole view, then mosaic + newlines."""
    if kind.tiled:
        order = list(range(N_PATCH))
        columns, newline = kind.grid[0], kind.views * N_PATCH
        mosaic_rows, mosaic_columns = unpadded(box[2], box[3], *kind.grid)
        for r in mosaic_rows:
            order += [(1 + r // GRID * columns + c // GRID) * N_PATCH + r % GRID * GRID + c % GRID
                      for c in mosaic_columns] + [newline]
    else:
        order = list(range(kind.views * N_PATCH))
    padded = np.full(max(kind.bucket, kind.views * N_PATCH + GRID * kind.grid[1]), -1, np.int64)
    padded[:len(order)] = order
    return padded


def _tile_box(rng: random.Random, kind: BatchKind) -> Box:
    """Content of a tiled canvas: often shorter in one direction, centred, as unpadding needs."""
    canvas_w, canvas_h = VIEW * kind.grid[0], VIEW * kind.grid[1]
    share = rng.uniform(.55, 1) if rng.random() < .7 else 1
    if rng.random() < .5:
        w, h = canvas_w, max(200, int(canvas_h * share))
    else:
        w, h = max(200, int(canvas_w * share)), canvas_h
    return (canvas_w - w) // 2, (canvas_h - h) // 2, w, h


def _encode_text(codec: PromptCodec, triples: list[qa.Triple]) -> tuple[np.ndarray, ...]:
    """ids, labels, segment, position, kind of the questions that fit into the slots."""
    zero, minus = np.zeros(codec.slots, np.int64), np.full(codec.slots, -1, np.int64)
    ids, labels, segment, position, kinds = zero, minus * 100, zero.copy(), zero.copy(), minus
    end = 0
    for number, (question, answer, kind) in enumerate(triples, start=1):
        asked = codec.ask(question)
        whole = codec.encode("\n" + question + " ASSISTANT: " + answer) + [EOS]
        start = end
        # A merge across the border would show the answer's beginning in the question.
        if whole[:len(asked)] != asked or start + len(whole) > codec.slots:
            continue
        end = start + len(whole)
        ids[start:end], segment[start:end] = whole, number
        position[start:end] = np.arange(len(whole))
        answers = slice(start + len(asked) - 1, end - 1)
        labels[answers], kinds[answers] = whole[len(asked):], qa.KINDS.index(kind)
    return ids, labels, segment, position, kinds


def _item_rows(scene: Scene, frames: int) -> tuple[np.ndarray, np.ndarray, list[list[Extent]]]:
    """What render.py draws, the text masks, and per frame where each item lies."""
    rows = np.zeros((frames, MAX_ITEMS, 11), np.float32)
    masks = np.zeros((MAX_TEXTS, TEXT_H, TEXT_W), np.uint8)
    extents: list[list[Extent]] = [[] for _ in range(frames)]
    n_texts = 0
    for j, item in enumerate(scene.items):
        rgb = (0, 0, 0) if item.kind == "pictogram" else COLORS[COLOR_NAMES[item.color]]
        w = h = seen_w = item.size
        if item.kind == "pictogram":
            number, atlas_row = item.index, item.index * 2 + item.style
        elif item.kind == "shape":
            number, atlas_row = N_PICTOGRAMS + item.index, N_PICTOGRAMS * 2 + item.index
        else:
            number, atlas_row = CLASS_TEXT, -1 - n_texts
            masks[n_texts] = text_mask(item.text, item.font)
            inked = np.nonzero(masks[n_texts].max(0) > 64)[0]
            n_texts += 1
            k = item.size / 36 * .8
            w, h = TEXT_W * k, TEXT_H * k
            seen_w = (inked[-1] - inked[0] + 1) * k if len(inked) else w
        for f in range(frames):
            x, y, visible = item.track[f] if frames > 1 else (item.x, item.y, 1)
            if visible:
                rows[f, j] = (1 + ITEM_KINDS.index(item.kind), atlas_row, *rgb, x, y, w, h,
                              item.rotation, item.flip)
                extents[f].append((number, x, y, seen_w * .44, h * .42))
    return rows, masks, extents


def _view_classes(kind: BatchKind, box: Box, extents: list[list[Extent]]) -> np.ndarray:
    if not kind.tiled:
        return np.stack([patch_classes(frame) for frame in extents])
    whole = patch_classes(extents[0], box[0], box[1], VIEW / box[2], VIEW / box[3])
    tiles = [patch_classes(extents[0], VIEW * x, VIEW * y)
             for y in range(kind.grid[1]) for x in range(kind.grid[0])]
    return np.stack([whole] + tiles)


def make_example(rng: random.Random, kind: BatchKind, codec: PromptCodec,
                 n_questions: int = 8) -> Batch:
    """One scene with its questions; the members are numpy arrays."""
    box = _tile_box(rng, kind) if kind.tiled else (0, 0, VIEW, VIEW)
    if kind.clip:
        scene = sample_clip(rng, kind.frames, len(FONT_FILES))
        triples = qa.clip_questions(scene, rng, n_questions)
    else:
        shrink = rng.uniform(.4, 1) if kind.tiled else 1
        scene = sample_scene(rng, len(FONT_FILES), box, shrink)
        triples = qa.scene_questions(scene, rng, n_questions)
    rows, masks, extents = _item_rows(scene, kind.frames)
    background = np.array([BACKGROUNDS.index(scene.background), *COLORS[scene.color],
                           *COLORS[scene.color2], rng.random() * 2 * math.pi, *box], np.float32)
    return Batch(*_encode_text(codec, triples), rows, masks, _view_classes(kind, box, extents),
                 picture_targets(scene), background, row_order(kind, box))


def make_batch(rng: random.Random, kind: BatchKind, codec: PromptCodec, n: int) -> Batch:
    examples = [make_example(rng, kind, codec) for _ in range(n)]
    return Batch(*(torch.from_numpy(np.stack(member)) for member in zip(*examples)))


class BatchStream(torch.utils.data.IterableDataset):
    """Endless (kind's name, batch): batch i is of cycle[i % len(cycle)], whichever worker made it.

    The data depends on the number of workers: each has a random stream of its own.
    """

    def __init__(self, codec: PromptCodec, seed: int, cycle: list[str], scale: float = 1.):
        self.codec, self.seed, self.cycle, self.scale = codec, seed, cycle, scale

    def __iter__(self) -> Iterator[tuple[str, Batch]]:
        worker = torch.utils.data.get_worker_info()
        i, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = random.Random(self.seed * 1000 + i)
        while True:
            kind = BATCH_KINDS[self.cycle[i % len(self.cycle)]]
            yield kind.name, make_batch(rng, kind, self.codec, kind.size(self.scale))
            i += step
