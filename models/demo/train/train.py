"""Trains the demo vision-language model from scratch on generated scenes.

Writes a Hugging Face LLaVA-NeXT folder, and last.pt (f32 with the training heads) beside it. Run it
under torchrun for several GPUs. The schedule follows the clock: the same minutes on other hardware
are another number of steps.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from batches import BATCH_KINDS, N_TARGETS, Batch, BatchStream, make_batch
from demo_tokenizer import PromptCodec, train_tokenizer
from export import export
from network import SMOKE_SHAPE, DemoModel, Shape
from render import (Renderer, load_photos, load_sprites, photo_folders, stand_in_photos,
                    stand_in_sprites)
from scoring import Tally, choose_rows, shares, tally_answers

# Single views first, then everything: tiles (X, W, T), clips (V), long sequences (F).
STAGE_1 = ["S576", "S192"]
STAGE_2 = ["S576", "X", "V4", "S192", "W", "V8", "S576", "XF", "V4", "S192", "T", "X", "VF", "V8"]
HELD_OUT = {"S576": (576, 288, 144, 72), "X": (1024, 512, 256), "V4": (1024, 512, 256)}
CLS_WEIGHT, PATCH_WEIGHT = .05, .3
WEIGHT_DECAY, BETAS = .05, (.9, .98)


@dataclass(frozen=True)
class Place:
    """This process among those of torchrun, and its device."""
    rank: int
    world: int
    device: str

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def several(self) -> bool:
        return dist.is_initialized()


@dataclass
class Losses:
    text: torch.Tensor
    cls: torch.Tensor
    patch: torch.Tensor
    logits: torch.Tensor        # [n,vocab] where labels are
    labelled: torch.Tensor      # [B,slots]

    def total(self) -> torch.Tensor:
        return self.text + CLS_WEIGHT * self.cls + PATCH_WEIGHT * self.patch


def find_place(device: str) -> Place:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not device:
        gpu = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
        device = gpu if torch.cuda.is_available() else "cpu"
    place = Place(rank, world, device)
    if place.cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if place.cuda else "gloo")
    return place


def compute_losses(model: DemoModel, renderer: Renderer, place: Place, name: str, batch: Batch,
                   n_fixed: int | None = None) -> Losses:
    kind, n = BATCH_KINDS[name], batch.ids.shape[0]
    with torch.no_grad():
        views, _ = renderer(kind, batch.items, batch.texts, batch.background)
        images = renderer.normalise(views)
        keep, n_keep = choose_rows(kind, batch.order, batch.patches, n_fixed)
    with torch.autocast(place.device.split(":")[0], torch.bfloat16, enabled=place.cuda):
        features, cls = model.vision(images)
        told, classes = model.cls_head(cls), model.patch_head(features[:, 1:])
        states = model.decode(model.project(features, n), keep, n_keep, batch.ids, batch.segment,
                              batch.position)
        labelled = batch.labels >= 0
        logits = model.decoder.head(states[labelled])
    told = told.view(n, kind.views, 2, N_TARGETS)
    if kind.tiled:
        told = told[:, :1]      # only the whole view shows everything
    targets = batch.targets[:, None, None].expand_as(told)
    cls_loss = F.binary_cross_entropy_with_logits(told.float(), targets, reduction="sum")
    return Losses(F.cross_entropy(logits.float(), batch.labels[labelled]),
                  cls_loss / (told.numel() // N_TARGETS),
                  F.cross_entropy(classes.float().flatten(0, 1), batch.patches.flatten()),
                  logits, labelled)


def average_gradients(model: DemoModel, place: Place) -> None:
    """One all-reduce of all gradients; a parameter this rank did not use counts as zero."""
    params = list(model.parameters())
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= place.world
    for p, grad in zip(params, flat.split([p.numel() for p in params])):
        p.grad = grad.view_as(p).clone()


class Trainer:
    def __init__(self, args: argparse.Namespace, place: Place, codec: PromptCodec):
        self.args, self.place, self.codec = args, place, codec
        torch.manual_seed(0)
        self.model = DemoModel(codec, SMOKE_SHAPE if args.smoke else Shape()).to(place.device)
        if place.several:
            for p in self.model.parameters():
                dist.broadcast(p.data, 0)
        torch.manual_seed(1 + place.rank)
        self.renderer = make_renderer(args, place.device)
        if args.compile:
            torch._dynamo.config.cache_size_limit = 64      # one graph for each kind of batch
            for layer in [*self.model.vision.layers, *self.model.decoder.layers]:
                layer.compile(dynamic=False)
        params = list(self.model.parameters())
        self.optimiser = torch.optim.AdamW(
            [{"params": [p for p in params if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
             {"params": [p for p in params if p.ndim < 2], "weight_decay": 0}],
            lr=args.lr, betas=BETAS, fused=place.cuda)
        self.held = self._held_out() if place.rank == 0 else {}
        self.step = self.seen = 0

    def _held_out(self) -> dict[str, list[Batch]]:
        held = {}
        for name in HELD_OUT:
            rng, kind = random.Random(999), BATCH_KINDS[name]
            n = kind.size(self.args.scale)
            held[name] = [make_batch(rng, kind, self.codec, n) for _ in range(2)]
        return held

    def _batches(self, cycle: list[str], seed: int) -> Iterator[tuple[str, Batch]]:
        stream = BatchStream(self.codec, seed + self.place.rank, cycle, self.args.scale)
        workers = self.args.workers
        return iter(torch.utils.data.DataLoader(
            stream, batch_size=None, num_workers=workers, pin_memory=self.place.cuda,
            prefetch_factor=4 if workers else None))

    def _losses(self, name: str, batch: Batch, n_fixed: int | None = None) -> Losses:
        return compute_losses(self.model, self.renderer, self.place, name, batch, n_fixed)

    @torch.no_grad()
    def evaluate(self, name: str, n_keep: int) -> dict[str, float]:
        self.model.eval()
        tally: Tally = {}
        for batch in self.held[name]:
            batch = Batch(*(x.to(self.place.device) for x in batch))
            losses = self._losses(name, batch, n_keep)
            hit = torch.zeros_like(losses.labelled)
            hit[losses.labelled] = losses.logits.argmax(-1) == batch.labels[losses.labelled]
            tally_answers(batch, hit, tally)
        self.model.train()
        return shares(tally)

    def _learn(self, name: str, batch: Batch, rate: float) -> Losses:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self._losses(name, batch)
        losses.total().backward()
        if self.place.several:
            average_gradients(self.model, self.place)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.seen += len(batch.ids) * self.place.world
        return losses

    def _done_share(self, start: float) -> float:
        """How much of the time or of the steps is used; rank 0's clock counts."""
        args = self.args
        share = self.step / args.steps if args.steps else (time.time() - start) / args.minutes / 60
        if not self.place.several:
            return share
        shared = torch.tensor(share, device=self.place.device)
        dist.broadcast(shared, 0)
        return shared.item()

    def _rate(self, share: float) -> float:
        warm_up = 5 if self.args.steps else 200
        cosine = .02 + .98 * .5 * (1 + math.cos(math.pi * min(1, share)))
        return self.args.lr * min(1, (self.step + 1) / warm_up) * cosine

    def run(self) -> None:
        """Both stages. Stage 2's workers start at once, so that they are warm when needed."""
        stages = [self._batches(STAGE_1, 7), self._batches(STAGE_2, 107)]
        start = last_look = time.time()
        share, stage = 0., 0
        while True:
            if self.step % 10 == 0:
                share = self._done_share(start)
            if share >= 1:
                break
            stage = max(stage, int(share >= self.args.stage2))
            name, batch = next(stages[stage])
            batch = Batch(*(x.to(self.place.device, non_blocking=True) for x in batch))
            rate = self._rate(share)
            losses = self._learn(name, batch, rate)
            if self.place.rank == 0:
                self._report(name, losses, rate, stage, time.time() - start)
                if time.time() - last_look > self.args.look_every:
                    last_look = time.time()
                    self._look(stage)
        if self.place.rank == 0:
            self.save()

    def _report(self, name: str, losses: Losses, rate: float, stage: int, elapsed: float) -> None:
        shown = 7 if stage else 1       # in stage 2 the kinds differ: show several in a row
        if self.step % 100 < shown or self.step in (1, 5, 20) or self.args.steps:
            print(f"step {self.step} {elapsed:.0f}s {name} lm {losses.text.item():.3f} "
                  f"cls {losses.cls.item():.2f} patch {losses.patch.item():.3f} lr {rate:.1e} "
                  f"scenes/s {self.seen / elapsed:.0f}", flush=True)

    def _look(self, stage: int) -> None:
        print("eval", self.step, "single", self.evaluate("S576", 576), flush=True)
        if stage:
            print("eval", self.step, "tiles", self.evaluate("X", 1024)["all"], "clips",
                  self.evaluate("V4", 1024)["all"], flush=True)
        self.save()

    def save(self) -> None:
        out = Path(self.args.out)
        torch.save({"shape": asdict(self.model.shape), "state": self.model.state_dict()},
                   out / "last.pt")
        export(self.model, self.codec, out)

    def final_report(self) -> None:
        for name, budgets in HELD_OUT.items():
            for n_keep in budgets:
                print("final", name, n_keep, json.dumps(self.evaluate(name, n_keep)), flush=True)
        n = sum(p.numel() for p in self.model.parameters())
        print(f"parameters {n} with the training heads, vocabulary {self.codec.vocab}, prefix "
              f"{len(self.codec.prefix)}, text {self.codec.slots}, {self.step} steps, {self.seen} "
              "scenes", flush=True)


def make_renderer(args: argparse.Namespace, device: str) -> Renderer:
    """Sprites and photographs from --atlas and --photos, or stand-ins when trying the recipe."""
    if args.smoke and not args.atlas.exists():
        sprites = stand_in_sprites()
    else:
        sprites = load_sprites(args.atlas)
    if args.smoke and not args.photos:
        photos = stand_in_photos()
    else:
        photos = load_photos(args.photos or photo_folders())
    return Renderer(device, sprites, photos)


def add_material(parser: argparse.ArgumentParser) -> None:
    """Options on what pictures are drawn from, shared by the scripts of the recipe."""
    parser.add_argument("--atlas", type=Path, default=Path(__file__).with_name("atlas.npz"),
                        help="pictograms made by atlas.py (default: beside this script)")
    parser.add_argument("--photos", type=Path, action="append", metavar="DIR",
                        help="folder of background photographs; may repeat (default: the samples "
                        "of scikit-image and scikit-learn)")
    parser.add_argument("--device", default="", help="cpu, cuda:0, ... (default: a GPU if any)")
    parser.add_argument("--smoke", action="store_true",
                        help="toy sizes on any machine; stand-ins for missing pictures")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=26., help="time to train")
    parser.add_argument("--steps", type=int, default=0, help="train by steps instead of minutes")
    parser.add_argument("--stage2", type=float, default=.58, help="share of stage 1")
    parser.add_argument("--scale", type=float, default=1., help="factor on the batch sizes")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=14, help="batch makers per process and "
                        "stage; the data depends on their number")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="compile the layers")
    parser.add_argument("--look-every", type=float, default=270., metavar="SECONDS",
                        help="how often to evaluate and save")
    add_material(parser)
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.scale, args.workers, args.compile = args.steps or 30, .001, 0, False
        args.stage2 = .3        # ten steps of stage 1, then every kind of batch
    return args


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")    # the batch makers fork
    torch.set_float32_matmul_precision("high")
    place = find_place(args.device)
    vocabulary = Path(args.out) / "tokenizer.json"
    if place.rank == 0 and not vocabulary.exists():
        vocabulary.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(300 if args.smoke else 12000).save(str(vocabulary))
    if place.several:
        dist.barrier()
    trainer = Trainer(args, place, PromptCodec(vocabulary))
    trainer.run()
    if place.rank == 0:
        trainer.final_report()
    if place.several:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
