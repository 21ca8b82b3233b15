#!/usr/bin/env python3
"""Pruning methods in float64 numpy, written from the formulas alone, and the golden file they make.

    python3 prune_reference.py --model DIR PICTURE... -o prune_golden.json

The golden file holds attention (random with many ties, and captured from the demo model by
transformers, eager, f32) and which tokens each method keeps of it. tests/prune/test_prune_golden.c
runs squint's policies on the same attention. Nothing here is shared with the C code.

Where this reference differs from the authors' code:
  all         float64 scores and a stable sort, lower index first; they have fp16 scores and an
              unstable torch.topk, so equal scores are kept in no certain order there.
  fastervlm   they project all tokens and then drop; the kept rows are the same.
  vtc-cls     they accept a batch of one picture with 576 patches only.
  fopru       no official code. hydrainfer's copy takes attention before softmax ("logits" here) and
              the given (row) mean on an exact tie of the variances; here softmax is the default and
              a tie takes the received (column) mean. A budget is a share; a count is count / N.
  globalcom2  the `fixed` variant: kept tile tokens keep their true place in the tile (theirs: the
              index among the unpadded tokens is used as a raw index) and the whole picture's tokens
              are in raster order (theirs: falling score). A picture of one view is pruned like the
              whole-picture view (theirs: not at all). R = 1 keeps every unpadded token (theirs:
              tiles below the mean share lose some).
"""
import argparse
import json
import math

import numpy as np

FLOOR_SLACK = 1e-9  # 28.7 % of 1000 is 287 although 0.287 * 1000 may be 286.99999999999994


def top(score, n_keep):
    """Indices of the n_keep largest scores, ties to the lower index, ascending."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    return sorted(int(i) for i in order[:n_keep])


def cut_gap(score, n_keep):
    """Smallest relative distance, other than 0, of any score from the last one that is kept."""
    s = np.sort(np.asarray(score, np.float64))[::-1]
    if n_keep <= 0 or n_keep >= len(s):
        return math.inf
    cut = s[n_keep - 1]
    far = np.abs(s - cut) / max(abs(cut), 1e-300)
    return far[far > 0].min() if (far > 0).any() else math.inf


def budget(keep, n, nearest):
    """A count of tokens out of '144' or '25%'."""
    if keep.endswith("%"):
        exact = n * float(keep[:-1]) / 100
        count = math.floor(exact + (0.5 if nearest else 0) + FLOOR_SLACK)
    else:
        count = int(keep)
    return min(max(count, 1), n)


def share(keep, n):
    return min(1.0, float(keep[:-1]) / 100 if keep.endswith("%") else int(keep) / n)


def fastervlm(view, keep):
    score = view["cls_rows"][-1].mean(0)
    n_keep = budget(keep, len(score), nearest=True)
    return top(score, n_keep), cut_gap(score, n_keep)


def vtc_cls(view, keep, ensemble):
    layers = view["cls_rows"].mean(1)
    score = {"sum": np.sum, "min": np.min, "max": np.max}[ensemble](layers, axis=0)
    n_keep = budget(keep, len(score), nearest=True)
    return top(score, n_keep), cut_gap(score, n_keep)


def variance(x):
    """Unbiased; 0 for a single token."""
    return x.var(ddof=1) if len(x) > 1 else 0.0


def fopru(view, keep, strategy, scores):
    received, given = ((view["received"], view["given"]) if scores == "softmax" else
                       (view["received_logits"], view["given_logits"]))
    sig = given if variance(given) > variance(received) else received
    if strategy == "rank":
        n_keep = budget(keep, len(sig), nearest=False)
        return top(sig, n_keep), cut_gap(sig, n_keep)
    rows = sig.reshape(view["grid_h"], view["grid_w"]).sum(1)
    n_row = int(keep) // view["grid_w"] if keep[-1] != "%" else math.floor(
        view["grid_h"] * float(keep[:-1]) / 100 + FLOOR_SLACK)
    n_row = min(n_row, view["grid_h"])
    kept = [r * view["grid_w"] + x for r in top(rows, n_row) for x in range(view["grid_w"])]
    return kept, cut_gap(rows, n_row)


def resize_bilinear(m, h, w):
    """torch's interpolate(mode='bilinear', align_corners=False)."""
    def axis(n_in, n_out):
        at = np.maximum((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0)
        low = np.minimum(np.floor(at).astype(int), n_in - 1)
        return low, np.minimum(low + 1, n_in - 1), at - low
    ya, yb, ty = axis(m.shape[0], h)
    xa, xb, tx = axis(m.shape[1], w)
    rows = m[ya] * (1 - ty)[:, None] + m[yb] * ty[:, None]
    return rows[:, xa] * (1 - tx) + rows[:, xb] * tx


def unit(x):
    return x / max(np.sqrt((x * x).sum()), 1e-12)


def tile_ratios(g, mosaic_w, mosaic_h, r):
    """r_j of every tile, row-major; leftovers of the block grid go to the last blocks."""
    bh, bw = g.shape[0] // mosaic_h, g.shape[1] // mosaic_w
    s = []
    for ty in range(mosaic_h):
        for tx in range(mosaic_w):
            y1 = g.shape[0] if ty == mosaic_h - 1 else (ty + 1) * bh
            x1 = g.shape[1] if tx == mosaic_w - 1 else (tx + 1) * bw
            s.append(g[ty * bh:y1, tx * bw:x1].sum())
    e = np.exp((np.array(s) - max(s)) / 10)
    sigma = e / (e.sum() + 1e-8)
    return np.minimum(1, r * (1 + sigma - sigma.mean())) if r < 1 else np.ones(len(s))


def globalcom2(case, keep):
    """Kept indices over the concatenated views, and the smallest gap at any cut."""
    views, mw, mh = case["views"], case.get("mosaic_w", 0), case.get("mosaic_h", 0)
    gh, gw = views[0]["grid_h"], views[0]["grid_w"]
    g = views[0]["cls_logits"].mean(0)
    k0 = budget(keep, len(g), nearest=False)
    kept, gap = top(g, k0), cut_gap(g, k0)
    if len(views) == 1:
        return kept, gap
    g = g.reshape(gh, gw)
    ratio = tile_ratios(g, mw, mh, share(keep, g.size))
    mask = np.zeros((mh * gh, mw * gw), bool)
    for v in views[1:]:
        x0, y0, x1, y1 = v["valid"]
        oy, ox = v["tile_y"] * gh, v["tile_x"] * gw
        mask[oy + y0:oy + y1, ox + x0:ox + x1] = True
    ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    unpadded = np.zeros(mask.shape)
    unpadded[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1] = resize_bilinear(
        g, ys[-1] - ys[0] + 1, xs[-1] - xs[0] + 1)
    for n, v in enumerate(views[1:], 1):
        oy, ox = v["tile_y"] * gh, v["tile_x"] * gw
        valid = mask[oy:oy + gh, ox:ox + gw].reshape(-1)
        if not valid.any():
            continue
        local = v["cls_logits"].mean(0)[valid]
        combined = unit(local) + unit(
            unpadded[oy:oy + gh, ox:ox + gw].reshape(-1)[valid])
        j = v["tile_y"] * mw + v["tile_x"]
        k = math.floor(valid.sum() * ratio[j] + FLOOR_SLACK)
        place = np.nonzero(valid)[0]
        kept += [n * gh * gw + int(place[i]) for i in top(combined, k)]
        gap = min(gap, cut_gap(combined, k))
    return kept, gap


def run_all(case, keeps):
    """Every method and option on one case."""
    out = []

    def add(policy, options, keep, result):
        kept, gap = result
        # A cut closer than f32 can tell would test rounding, not the method; ties are exact.
        if gap < 1e-6:
            print(f"{case['name']}: {policy} {options} {keep}: gap {gap:.1e}, left out")
            return
        out.append({"policy": policy, "options": options, "keep": keep, "kept": kept})

    for keep in keeps:
        if len(case["views"]) == 1:
            v = case["views"][0]
            add("fastervlm", "", keep, fastervlm(v, keep))
            for e in ("sum", "min", "max"):
                add("vtc-cls", f"ensemble={e}", keep, vtc_cls(v, keep, e))
            for scores in ("softmax", "logits"):
                add("fopru", f"strategy=rank,scores={scores}", keep,
                    fopru(v, keep, "rank", scores))
                rows = fopru(v, keep, "row", scores)
                if rows[0]:  # a budget below one grid row is an error in squint
                    add("fopru", f"strategy=row,scores={scores}", keep, rows)
        add("globalcom2", "", keep, globalcom2(case, keep))
    return out


# ---- cases ----

def random_view(rng, w, h, heads, layers, levels):
    """Multiples of 1/64 with few levels: many ties, which stay exact when heads is 2^n."""
    def draw(*shape):
        return rng.integers(0, levels, shape) / 64.0
    n = w * h
    return {"grid_w": w, "grid_h": h, "tile_x": -1, "tile_y": -1, "valid": [0, 0, w, h],
            "n_head": heads, "row_count": layers, "cls_rows": draw(layers, heads, n),
            "cls_logits": draw(heads, n) - levels / 128, "received": draw(n), "given": draw(n),
            "received_logits": draw(n) - levels / 128, "given_logits": draw(n) - levels / 128}


def random_cases():
    rng = np.random.default_rng(20241202)
    cases = []
    for w, h, heads, layers, levels in ((1, 1, 1, 1, 4), (7, 1, 2, 1, 3), (1, 9, 1, 3, 2),
                                        (5, 7, 4, 2, 4), (8, 6, 4, 3, 6), (16, 16, 2, 2, 12)):
        v = random_view(rng, w, h, heads, layers, levels)
        cases.append({"name": f"random {w}x{h}", "views": [v]})
    equal = random_view(rng, 6, 4, 2, 2, 1)
    cases.append({"name": "all equal 6x4", "views": [equal]})
    tie = random_view(rng, 8, 4, 2, 2, 8)  # 32 tokens: means and variances are exact
    tie["given"] = tie["received"][::-1].copy()
    tie["given_logits"] = tie["received_logits"][::-1].copy()
    cases.append({"name": "variance tie 8x4", "views": [tie]})
    return cases


def mosaic_case(rng, name, side, mw, mh, unpadded):
    """A mosaic of tiles; unpadded = x0, y0, x1, y1 in mosaic patches."""
    views = [random_view(rng, side, side, 2, 1, 16)]
    for ty in range(mh):
        for tx in range(mw):
            v = random_view(rng, side, side, 2, 1, 64)
            v["tile_x"], v["tile_y"] = tx, ty
            cut = [min(max(a - o * side, 0), side)
                   for a, o in zip(unpadded, (tx, ty, tx, ty))]
            v["valid"] = cut
            views.append(v)
    return {"name": name, "views": views, "mosaic_w": mw, "mosaic_h": mh}


def mosaic_cases():
    rng = np.random.default_rng(7)
    return [mosaic_case(rng, "tiles 2x2", 8, 2, 2, (0, 0, 16, 16)),
            mosaic_case(rng, "tiles 2x2, wide", 8, 2, 2, (0, 3, 16, 13)),
            mosaic_case(rng, "tiles 2x2, tall", 8, 2, 2, (2, 0, 14, 16)),
            mosaic_case(rng, "tiles 3x1, leftover block", 8, 3, 1, (0, 1, 24, 7)),
            mosaic_case(rng, "tiles 1x3, first empty", 6, 1, 3, (0, 6, 6, 18))]


def captured_case(model, processor, torch, path):
    """Attention of the demo model's tower on one picture, as the policies get it."""
    from PIL import Image
    pixels = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True, output_attentions=True)
        n_layer = model.config.num_hidden_layers
        feature, start = n_layer - 2, 2 * n_layer // 3

        def logits(layer):
            tower = getattr(model, "vision_model", model)
            block = tower.encoder.layers[layer]
            x = block.layer_norm1(out.hidden_states[layer])
            heads, dim = block.self_attn.num_heads, block.self_attn.head_dim
            q, k = (f(x)[0].view(-1, heads, dim).transpose(0, 1)
                    for f in (block.self_attn.q_proj, block.self_attn.k_proj))
            return (q @ k.transpose(1, 2)) * dim ** -0.5

        soft, raw = out.attentions[feature][0], logits(feature)
        patches, raw_patches = soft[:, 1:, 1:].mean(0), raw[:, 1:, 1:].mean(0)
        rows = torch.stack([out.attentions[i][0, :, 0, 1:] for i in range(start, feature + 1)])
        last = logits(n_layer - 1)[:, 0, 1:]
        err = (raw.softmax(-1) - soft).abs().max().item()
        assert err < 1e-5, f"{path}: logits do not give the attention: {err}"
    side = model.config.image_size // model.config.patch_size
    as64 = {k: v.numpy().astype(np.float64) for k, v in (
        ("cls_rows", rows), ("cls_logits", last), ("received", patches.mean(0)),
        ("given", patches.mean(1)), ("received_logits", raw_patches.mean(0)),
        ("given_logits", raw_patches.mean(1)))}
    view = {"grid_w": side, "grid_h": side, "tile_x": -1, "tile_y": -1,
            "valid": [0, 0, side, side], "n_head": rows.shape[1], "row_count": rows.shape[0]}
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return {"name": f"captured {name}", "views": [dict(view, **as64)]}


def captured_cases(model_dir, pictures):
    import torch
    from transformers import CLIPImageProcessor, LlavaNextForConditionalGeneration
    model = LlavaNextForConditionalGeneration.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 336},
                                   crop_size={"height": 336, "width": 336})
    return [captured_case(model.model.vision_tower, processor, torch, p) for p in pictures]


# ---- the file ----

ARRAYS = ("cls_rows", "cls_logits", "received", "given", "received_logits", "given_logits")


def number(x):
    """The shortest text that reads back as the same f32."""
    text = np.format_float_positional(np.float32(x), unique=True, trim="-")
    return text if len(text) < 16 else np.format_float_scientific(np.float32(x), unique=True,
                                                                  trim="-")


def write_view(v, multi):
    """Views of a mosaic keep only what globalcom2 reads."""
    fields = [f'"{k}": {json.dumps(v[k])}' for k in v if k not in ARRAYS]
    for k in ARRAYS:
        if multi and k != "cls_logits":
            continue
        fields.append(f'"{k}": [' + ",".join(number(x) for x in v[k].reshape(-1)) + "]")
    return "{" + ",\n  ".join(fields) + "}"


def write_golden(path, cases):
    with open(path, "w", encoding="ascii", newline="\n") as f:
        f.write('{"made_by": "tests/golden/prune_reference.py",\n"cases": [\n')
        for i, (case, runs) in enumerate(cases):
            multi = len(case["views"]) > 1
            f.write(f'{"," if i else ""}{{"name": {json.dumps(case["name"])},'
                    f' "mosaic_w": {case.get("mosaic_w", 0)},'
                    f' "mosaic_h": {case.get("mosaic_h", 0)},\n "views": [\n  ')
            f.write(",\n  ".join(write_view(v, multi) for v in case["views"]))
            f.write('],\n "runs": [\n  ')
            f.write(",\n  ".join(json.dumps(r, separators=(",", ":")) for r in runs))
            f.write("]}\n")
        f.write("]}\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", help="directory of the demo model (Hugging Face files)")
    p.add_argument("picture", nargs="*", help="pictures for captured attention")
    p.add_argument("-o", "--out", default="prune_golden.json")
    a = p.parse_args()
    keeps = ("1", "5", "25%", "10%", "12.5%", "100%", "1000")
    cases = [(c, run_all(c, keeps)) for c in random_cases()]
    cases += [(c, run_all(c, ("25%", "60%", "20", "4%", "100%"))) for c in mosaic_cases()]
    if a.model:
        demo_keeps = ("288", "144", "72", "36", "29", "18", "25%", "10%", "5%")
        cases += [(c, run_all(c, demo_keeps)) for c in captured_cases(a.model, a.picture)]
    write_golden(a.out, cases)
    print(f"{a.out}: {len(cases)} cases, {sum(len(r) for _, r in cases)} runs")


if __name__ == "__main__":
    main()
