"""Which visual rows the decoder sees while training, and exact-match scores by kind of question."""
from __future__ import annotations

import torch

from batches import CLASS_BACKGROUND, GRID, N_PATCH, Batch, BatchKind
from questions import KINDS

Tally = dict[str, list[int]]        # kind: [right, asked]


def choose_rows(kind: BatchKind, order: torch.Tensor, patches: torch.Tensor,
                n_fixed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual rows to keep, in sequence order: keep[B,K] (padded by repeats) and counts n[B].

    By uniform scores, by scores that favour items, or by whole rows of the grid, so that no way of
    pruning is foreign to the decoder. `n_fixed` sets the count instead of drawing it.
    """
    n, device = order.shape[0], order.device

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, device=device)

    present = (order >= 0).sum(1)
    no_newline = torch.zeros(n, 1, dtype=torch.bool, device=device)
    on_item = torch.cat([patches.flatten(1) != CLASS_BACKGROUND, no_newline], 1)
    rows = order.clamp(min=0)
    flat = uniform(n) < .45
    favour = torch.where(flat, torch.zeros(n, device=device), .3 + 1.7 * uniform(n))[:, None]
    score = uniform(*order.shape) + favour * torch.gather(on_item, 1, rows)
    per_grid_row = uniform(n, on_item.shape[1] // GRID + 2)
    by_grid_row = torch.gather(per_grid_row, 1, rows // GRID)
    score = torch.where((uniform(n) < .15)[:, None], by_grid_row, score)
    keeps_newlines = (uniform(n) < .5).float()[:, None]
    score = score + 10. * keeps_newlines * (rows == kind.views * N_PATCH)
    score = score.masked_fill(order < 0, -1)
    most = present.clamp(max=kind.bucket)
    if n_fixed is not None:
        count = most.clamp(max=n_fixed)
    else:
        least = 12 * kind.views ** .5
        count = (least + (most - least) * uniform(n)).long()
        if kind.p_all:
            count = torch.where(uniform(n) < kind.p_all, most, count)
    best = score.topk(min(kind.bucket, score.shape[1]), 1).indices
    counted = torch.arange(best.shape[1], device=device)[None] < count[:, None]
    best = torch.where(counted, best, order.shape[1]).sort(1).values
    return torch.gather(rows, 1, best.clamp(max=order.shape[1] - 1)), count


def tally_answers(batch: Batch, hit: torch.Tensor, tally: Tally) -> None:
    """Adds whole-answer exact matches under teacher forcing; hit[B,slots] says which labels are."""
    labels, segment, kind, hit = (x.cpu() for x in (batch.labels, batch.segment, batch.kind, hit))
    asked = labels >= 0
    good = hit | ~asked
    for number in range(1, int(segment.max()) + 1):
        member = (segment == number) & asked
        right = (good | (segment != number)).all(1)
        kinds = torch.where(member, kind, -1).max(1).values
        for row in member.any(1).nonzero()[:, 0].tolist():
            counts = tally.setdefault(KINDS[int(kinds[row])], [0, 0])
            counts[0] += bool(right[row])
            counts[1] += 1


def shares(tally: Tally) -> dict[str, float]:
    """Share of right answers of every kind and of all."""
    right, asked = (sum(counts[i] for counts in tally.values()) for i in (0, 1))
    by_kind = {kind: round(a / b, 3) for kind, (a, b) in sorted(tally.items())}
    return by_kind | {"all": round(right / asked, 4)}
