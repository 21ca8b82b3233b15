"""Draws batches of scenes on the device: backgrounds, items, views and tiles.

A training step needs hundreds of new pictures, more than the CPU could draw; here they are a few
sampling operations per item. Draws from torch's global random stream, in a fixed order.
"""
from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from batches import BatchKind
from scenes import BACKGROUNDS, ITEM_KINDS, NAMES, SHAPES, VIEW

SPRITE = 96
PHOTO = 448
STYLES = 2
CLIP_MEAN = (.48145466, .4578275, .40821073)
CLIP_STD = (.26862954, .26130258, .27577711)
# Where the Python packages keep their sample photographs.
PHOTO_PACKAGES = {"skimage": "data", "sklearn": "datasets/images"}


def _polygon(points: int, inner: float = 0.) -> list[tuple[float, float]]:
    """A regular polygon of the sprite sheet, or a star when an inner radius is given."""
    n = points * 2 if inner else points
    radii = [inner if inner and i % 2 else 184 for i in range(n)]
    return [(192 + r * math.sin(2 * math.pi * i / n), 192 - r * math.cos(2 * math.pi * i / n))
            for i, r in enumerate(radii)]


def _heart() -> list[tuple[float, float]]:
    return [(192 + 11.2 * 16 * math.sin(t) ** 3,
             192 - 10.5 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)
                           - math.cos(4 * t)) - 20) for t in np.linspace(0, 2 * math.pi, 200)]


def _draw_shape(draw: ImageDraw.ImageDraw, name: str) -> None:
    corners = {"triangle": 3, "pentagon": 5, "hexagon": 6}
    if name in corners:
        draw.polygon(_polygon(corners[name]), fill=255)
    elif name == "circle":
        draw.ellipse((8, 8, 376, 376), fill=255)
    elif name == "square":
        draw.rectangle((30, 30, 354, 354), fill=255)
    elif name == "rectangle":
        draw.rectangle((8, 96, 376, 288), fill=255)
    elif name == "star":
        draw.polygon(_polygon(5, inner=75), fill=255)
    elif name == "heart":
        draw.polygon(_heart(), fill=255)
    elif name == "cross":
        draw.rectangle((130, 10, 254, 374), fill=255)
        draw.rectangle((10, 130, 374, 254), fill=255)
    elif name == "ring":
        draw.ellipse((8, 8, 376, 376), fill=255)
        draw.ellipse((90, 90, 294, 294), fill=0)
    elif name == "diamond":
        draw.polygon([(192, 4), (340, 192), (192, 380), (44, 192)], fill=255)
    else:
        raise ValueError(f"no drawing for the shape {name}")


def shape_masks() -> np.ndarray:
    """[11,96,96] coverage of every shape, drawn four times too large for smooth edges."""
    masks = []
    for name in SHAPES:
        image = Image.new("L", (384, 384), 0)
        _draw_shape(ImageDraw.Draw(image), name)
        masks.append(np.asarray(image.resize((SPRITE, SPRITE), Image.BOX)))
    return np.stack(masks)


def load_sprites(path: Path) -> np.ndarray:
    """[206*2,96,96,4] RGBA pictograms as atlas.py wrote them."""
    if not path.exists():
        raise SystemExit(f"{path}: not there; make it with atlas.py")
    sprites = np.load(path)["sprites"]
    expected = (len(NAMES), STYLES, SPRITE, SPRITE, 4)
    if sprites.shape != expected:
        raise SystemExit(f"{path}: sprites: expected {expected}, found {sprites.shape}")
    return sprites.reshape(-1, SPRITE, SPRITE, 4)


def stand_in_sprites() -> np.ndarray:
    """Coloured noise discs, for trying the recipe without the pictograms."""
    rng = np.random.default_rng(0)
    n = len(NAMES) * STYLES
    sprites = rng.integers(0, 256, (n, 4, 4, 4), np.uint8).repeat(24, 1).repeat(24, 2)
    axis = np.arange(SPRITE) - SPRITE / 2 + .5
    sprites[..., 3] = 255 * (np.hypot(axis[:, None], axis) < SPRITE / 2)
    return sprites


def photo_folders() -> list[Path]:
    """The folders of sample photographs in scikit-image and scikit-learn."""
    folders = []
    for package, folder in PHOTO_PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            raise SystemExit(f"{package}: not installed; install it or name folders by --photos")
        folders.append(Path(spec.origin).parent / folder)
    return folders


def load_photos(folders: list[Path]) -> np.ndarray:
    """[n,448,448,3] every jpg, jpeg and png of at least 200 pixels, squeezed to a square."""
    photos = []
    for folder in folders:
        files = [f for f in folder.iterdir() if f.suffix in (".jpg", ".jpeg", ".png")]
        for file in sorted(files, key=str):
            with Image.open(file) as image:
                rgb = image.convert("RGB")
            if min(rgb.size) >= 200:
                photos.append(np.asarray(rgb.resize((PHOTO, PHOTO))))
    if not photos:
        raise SystemExit(f"{', '.join(map(str, folders))}: no photographs found")
    return np.stack(photos)


def stand_in_photos() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (4, 16, 16, 3), np.uint8).repeat(28, 1).repeat(28, 2)


class Renderer:
    """Holds sprites and photographs on the device; calling it draws a batch."""

    def __init__(self, device: str, sprites: np.ndarray, photos: np.ndarray):
        self.device = device
        self.dtype = torch.float16 if device.startswith("cuda") else torch.float32
        colored = sprites.astype(np.float32)
        colored[..., :3] *= colored[..., 3:] / 255      # premultiplied: no dark seams
        masks = shape_masks()
        shapes = np.zeros((len(masks), SPRITE, SPRITE, 4), np.float32)
        shapes[..., 3] = masks
        self.atlas = self._planes(np.concatenate([colored, shapes]))
        self.photos = self._planes(photos)
        self.mean = torch.tensor(CLIP_MEAN, device=device)[None, :, None, None]
        self.std = torch.tensor(CLIP_STD, device=device)[None, :, None, None]

    def _planes(self, images: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255).to(self.device, self.dtype)

    def _pixel_grid(self, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.arange(w, device=self.device)[None, None, :] + .5
        y = torch.arange(h, device=self.device)[None, :, None] + .5
        return x, y

    def _photo_crops(self, n: int, h: int, w: int) -> torch.Tensor:
        which = torch.randint(len(self.photos), (n,), device=self.device)
        scale = .35 + .4 * torch.rand(n, device=self.device)
        theta = torch.zeros(n, 2, 3, device=self.device)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = (torch.rand(n, 2, device=self.device) * 2 - 1) * (1 - scale)[:, None]
        grid = F.affine_grid(theta, (n, 3, h, w), align_corners=False).to(self.dtype)
        return F.grid_sample(self.photos[which], grid, align_corners=False,
                             padding_mode="reflection").float()

    def backgrounds(self, ground: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """[B,3,h,w]. Every sort is drawn for every picture, so the stream does not depend on it."""
        n = ground.shape[0]
        x, y = self._pixel_grid(h, w)
        kind = ground[:, 0].long()[:, None, None, None]
        color = (ground[:, 1:4] / 255)[:, :, None, None]
        color2 = (ground[:, 4:7] / 255)[:, :, None, None]
        angle = ground[:, 7][:, None, None]
        ramp = ((x - w / 2) / w * angle.cos() + (y - h / 2) / h * angle.sin()) + .5
        ramp = ramp.clamp(0, 1)[:, None]
        image = color.expand(n, 3, h, w) * 1.
        grad = color * (1 - ramp) + color2 * ramp
        image = torch.where(kind == BACKGROUNDS.index("grad"), grad, image)
        noise = F.interpolate(torch.rand(n, 3, 8, 8, device=self.device), size=(h, w),
                              mode="bicubic").clamp(0, 1)
        image = torch.where(kind == BACKGROUNDS.index("noise"), noise * .5 + .25, image)
        photo = self._photo_crops(n, h, w)
        return torch.where(kind == BACKGROUNDS.index("photo"), photo, image)

    def draw_items(self, image: torch.Tensor, items: torch.Tensor,
                   texts: torch.Tensor) -> torch.Tensor:
        """Puts items[n,6,11] on image[n,3,h,w], one after the other; texts[n,2,48,160]."""
        n, _, h, w = image.shape
        x, y = self._pixel_grid(h, w)
        each = torch.arange(n, device=self.device)
        is_pictogram, is_text = 1 + ITEM_KINDS.index("pictogram"), 1 + ITEM_KINDS.index("text")
        for item in items.unbind(1):
            px, py, item_w, item_h, turn, flip = (item[:, c][:, None, None] for c in range(5, 11))
            kind, source = item[:, 0].long()[:, None, None, None], item[:, 1].long()
            dx, dy, cos, sin = x - px, y - py, turn.cos(), turn.sin()
            u = (dx * cos + dy * sin) / (item_w.clamp(min=1) / 2)
            v = (-dx * sin + dy * cos) / (item_h.clamp(min=1) / 2)
            grid = torch.stack([torch.where(flip > 0, -u, u), v], -1).to(self.dtype)
            sprite = F.grid_sample(self.atlas[source.clamp(min=0)], grid,
                                   align_corners=False).float()
            mask = texts[each, (-1 - source).clamp(0, 1)].to(self.dtype) / 255
            text = F.grid_sample(mask[:, None], grid, align_corners=False).float()
            alpha = torch.where(kind == is_text, text, sprite[:, 3:]) * (kind > 0)
            flat = (item[:, 2:5] / 255)[:, :, None, None] * alpha
            image = image * (1 - alpha) + torch.where(kind == is_pictogram, sprite[:, :3], flat)
        return image

    def _augment(self, image: torch.Tensor, frames: int) -> torch.Tensor:
        """Brightness and pixel noise; the same strength in all frames of a clip."""
        n = image.shape[0] // frames
        gain = 1 + .15 * (torch.rand(n, 1, 1, 1, device=self.device) - .5)
        strength = .03 * torch.rand(n, 1, 1, 1, device=self.device)
        noise = strength.repeat_interleave(frames, 0) * torch.randn_like(image)
        return (image * gain.repeat_interleave(frames, 0) + noise).clamp(0, 1)

    def _tiles(self, canvas: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
        """The whole picture squeezed into one view, then the canvas' tiles: [B*views,3,336,336]."""
        n, _, h, w = canvas.shape
        low = F.avg_pool2d(canvas, (h // VIEW, w // VIEW))
        x0, y0, box_w, box_h = ground[:, 8:12].unbind(1)
        theta = torch.zeros(n, 2, 3, device=self.device)
        theta[:, 0, 0], theta[:, 1, 1] = box_w / w, box_h / h
        theta[:, 0, 2] = (2 * x0 + box_w) / w - 1
        theta[:, 1, 2] = (2 * y0 + box_h) / h - 1
        grid = F.affine_grid(theta, (n, 3, VIEW, VIEW), align_corners=False)
        whole = F.grid_sample(low, grid, align_corners=False, padding_mode="border")
        tiles = canvas.view(n, 3, h // VIEW, VIEW, w // VIEW, VIEW)
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat([whole[:, None], tiles], 1).flatten(0, 1)

    def __call__(self, kind: BatchKind, items: torch.Tensor, texts: torch.Tensor,
                 ground: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [B*views,3,336,336] in [0,1], and the canvas [B,3,H,W] (of clips the frames)."""
        frames = items.shape[1]
        w, h = VIEW * kind.grid[0], VIEW * kind.grid[1]
        image = self.backgrounds(ground, h, w)
        if frames > 1:
            image = image.repeat_interleave(frames, 0)
            texts = texts.repeat_interleave(frames, 0)
        image = self.draw_items(image, items.flatten(0, 1), texts)
        image = self._augment(image, frames)
        if not kind.tiled:
            return image, image
        x0, y0, box_w, box_h = (ground[:, 8 + i][:, None, None, None] for i in range(4))
        x = torch.arange(w, device=self.device)[None, None, None, :]
        y = torch.arange(h, device=self.device)[None, None, :, None]
        inside = (x >= x0) & (x < x0 + box_w) & (y >= y0) & (y < y0 + box_h)
        canvas = image * inside         # black outside the content, as AnyRes pads
        return self._tiles(canvas, ground), canvas

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std
