"""The network as it is trained: CLIP ViT, two-layer projector, LLaMA decoder, two training heads.

Modules are made and initialised in a fixed order: a seed stands for one set of first weights.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from batches import N_CLASSES, N_PATCH, N_TARGETS, PATCH

NORM_EPS = 1e-5
ROPE_THETA = 10000.0


@dataclass(frozen=True)
class Shape:
    """Widths, layers and heads of the vision tower and of the decoder."""
    vision_dim: int = 256
    vision_layers: int = 9
    vision_heads: int = 4
    dim: int = 512
    layers: int = 6
    heads: int = 8
    ffn_dim: int = 1376


SMOKE_SHAPE = Shape(vision_dim=32, vision_layers=3, vision_heads=2, dim=64, layers=2, heads=2,
                    ffn_dim=128)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B,T,dim] -> [B,heads,T,head_dim]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class VisionLayer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS), nn.LayerNorm(dim, eps=NORM_EPS)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (split_heads(part(y), self.heads) for part in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.fc1(self.norm2(x))
        return x + self.fc2(y * torch.sigmoid(1.702 * y))       # quick_gelu


class VisionTower(nn.Module):
    def __init__(self, dim: int, layers: int, heads: int):
        super().__init__()
        self.cls = nn.Parameter(torch.randn(dim) * .02)
        self.position = nn.Parameter(torch.randn(N_PATCH + 1, dim) * .02)
        self.patch = nn.Conv2d(3, dim, PATCH, PATCH, bias=False)
        self.pre_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.post_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.layers = nn.ModuleList([VisionLayer(dim, heads) for _ in range(layers)])

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        cls = self.cls.expand(x.shape[0], 1, -1).to(x.dtype)
        return self.pre_norm(torch.cat([cls, x], 1) + self.position)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B,577,dim] of layer -2, and CLS [B,2,dim] after the last two layers."""
        x = self.embed(images)
        for layer in self.layers[:-1]:
            x = layer(x)
        last = self.layers[-1](x)
        return x, self.post_norm(torch.cat([last[:, :1], x[:, :1]], 1))


class RMSNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + NORM_EPS)
        return y.to(x.dtype) * self.weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class DecoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int, ffn_dim: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(dim, ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
                mask: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (split_heads(part(y), self.heads) for part in (self.q, self.k, self.v))
        dtype = cos.dtype
        q, k, v = rotate(q, cos, sin).to(dtype), rotate(k, cos, sin).to(dtype), v.to(dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, vocab: int, shape: Shape):
        super().__init__()
        head_dim = shape.dim // shape.heads
        self.embedding, self.norm = nn.Embedding(vocab, shape.dim), RMSNorm(shape.dim)
        self.head = nn.Linear(shape.dim, vocab, bias=False)
        self.layers = nn.ModuleList([DecoderLayer(shape.dim, shape.heads, shape.ffn_dim)
                                     for _ in range(shape.layers)])
        frequency = 1 / ROPE_THETA ** (torch.arange(0, head_dim, 2).float() / head_dim)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, x: torch.Tensor, position: torch.Tensor,
                mask: torch.Tensor) -> torch.Tensor:
        angle = position[..., None].float() * self.frequency
        angle = torch.cat([angle, angle], -1)[:, None]
        half = x.is_cuda and torch.is_autocast_enabled("cuda")
        dtype = torch.bfloat16 if half else torch.float32
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)


class DemoModel(nn.Module):
    """`codec` gives the vocabulary's size and the tokens before the picture."""

    def __init__(self, codec, shape: Shape = Shape()):
        super().__init__()
        self.shape = shape
        self.vision = VisionTower(shape.vision_dim, shape.vision_layers, shape.vision_heads)
        self.decoder = Decoder(codec.vocab, shape)
        self.project1 = nn.Linear(shape.vision_dim, shape.dim)
        self.project2 = nn.Linear(shape.dim, shape.dim)
        self.newline = nn.Parameter(torch.randn(shape.dim) * .02)
        # Training heads, not exported: the picture from CLS, the class of every patch.
        self.cls_head = nn.Linear(shape.vision_dim, N_TARGETS)
        self.patch_head = nn.Linear(shape.vision_dim, N_CLASSES)
        self.register_buffer("prefix", torch.tensor(codec.prefix), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for layer in self.decoder.layers:
            for linear in (layer.out, layer.down):
                nn.init.normal_(linear.weight, std=.02 / math.sqrt(2 * self.shape.layers))
        for layer in self.vision.layers:
            for linear in (layer.out, layer.fc2):
                nn.init.normal_(linear.weight, std=.02 / math.sqrt(2 * self.shape.vision_layers))

    def project(self, features: torch.Tensor, n: int) -> torch.Tensor:
        """[n*views,577,vision_dim] -> [n,views*576+1,dim]: every patch, then the newline."""
        rows = self.project2(F.gelu(self.project1(features[:, 1:])))
        rows = rows.reshape(n, -1, self.shape.dim)
        return torch.cat([rows, self.newline.to(rows.dtype).expand(n, 1, -1)], 1)

    def decode(self, rows: torch.Tensor, keep: torch.Tensor, n_keep: torch.Tensor,
               ids: torch.Tensor, segment: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Decoder states [B,slots,dim] of the text.

        Of the visual rows keep[B,K] the first n_keep[B] count. Positions are compact, and the
        questions of an example see the picture, but not each other.
        """
        device, (n, n_rows), n_text = keep.device, keep.shape, ids.shape[1]
        visual = torch.gather(rows, 1, keep[..., None].expand(-1, -1, rows.shape[-1]))
        prefix = self.decoder.embedding(self.prefix).expand(n, -1, -1).to(visual.dtype)
        text = self.decoder.embedding(ids).to(visual.dtype)
        x = torch.cat([prefix, visual, text], 1)
        n_prefix = len(self.prefix)
        before, total = n_prefix + n_rows, n_prefix + n_rows + n_text
        i = torch.arange(total, device=device)
        shown = n_prefix + n_keep[:, None]
        positions = torch.cat([i[:before].expand(n, -1), shown + position], 1)
        segments = torch.cat([torch.zeros(n, before, dtype=segment.dtype, device=device),
                              torch.where(segment == 0, -1, segment)], 1)
        picture = (i < n_prefix)[None] | ((i < before)[None] & (i[None] < shown))
        same = (i >= before)[None, None] & (segments[:, :, None] == segments[:, None, :])
        causal = i[None, :, None] >= i[None, None, :]
        own = torch.eye(total, dtype=torch.bool, device=device)[None]
        mask = (causal & (picture[:, None, :] | same)) | own    # `own`: no row is all masked
        return self.decoder(x, positions, mask[:, None])[:, before:]
