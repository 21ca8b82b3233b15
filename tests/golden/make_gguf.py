"""Writes a tiny LLaVA as GGUF files into gguf/ with the `gguf` package, and what numpy makes of it in float64.

    python make_gguf.py          (in this folder; needs numpy and gguf)

tiny.gguf          text model: Q8_0, F16 and BF16 matrices, grouped heads, rope_freqs
mmproj-tiny.gguf   vision file with today's names, all four layers, feature_layer 3
legacy/mmproj.gguf the same tower as older converters wrote it: fc1 called ffn_down, the last
                   layer left out, model.image_newline, no feature_layer
gguf_golden.json   logits, projected features, token ids, and Q8_0 blocks of the package
"""
import json
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

DIM, FFN, HEADS, HEADS_KV, LAYERS, VOCAB, HEAD = 32, 64, 4, 2, 2, 48, 8
VDIM, VFFN, VHEADS, VLAYERS, FEATURE, IMAGE, PATCH = 32, 64, 4, 4, 3, 28, 14
rng = np.random.default_rng(11)


def matrix(*shape):
    return (rng.standard_normal(shape) * 0.3).astype(np.float32)


def norm(n):
    return (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)


class File:
    """Adds tensors and remembers their values as stored."""

    def __init__(self, path, arch):
        self.w, self.value = gguf.GGUFWriter(path, arch), {}

    def add(self, name, x, kind=T.F32):
        data = x if kind == T.F32 else gguf.quantize(x, kind)
        if kind == T.F16:
            data = x.astype(np.float16)
        self.w.add_tensor(name, data, raw_dtype=None if kind in (T.F32, T.F16) else kind)
        self.value[name] = (data.astype(np.float64) if kind in (T.F32, T.F16)
                            else gguf.dequantize(data, kind).astype(np.float64))

    def close(self):
        self.w.write_header_to_file()
        self.w.write_kv_data_to_file()
        self.w.write_tensors_to_file()
        self.w.close()


# ---- text ----

PIECES = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("\u2581", -40, 1)]
PIECES += [(c, -41 - i, 1) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")]
PIECES += [("he", -1, 1), ("\u2581t", -2, 1), ("\u2581the", -3, 1), ("at", -4, 1),
           ("\u2581c", -5, 1), ("\u2581cat", -6, 1), ("th", -7, 1), ("ca", -8, 1), ("<0x21>", 0, 6)]
PIECES += [(f"[PAD{i}]", 0, 5) for i in range(len(PIECES), VOCAB)]


def write_text(path):
    f = File(path, "llama")
    w = f.w
    w.add_name("tiny")
    w.add_context_length(128)
    w.add_embedding_length(DIM)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(HEADS_KV)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(5000.0)
    w.add_rope_dimension_count(HEAD)
    w.add_tokenizer_model("llama")
    w.add_token_list([p[0] for p in PIECES])
    w.add_token_scores([float(p[1]) for p in PIECES])
    w.add_token_types([p[2] for p in PIECES])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_chat_template("{% for m in messages %}USER: {{ m }} ASSISTANT:{% endfor %}")
    f.add("token_embd.weight", matrix(VOCAB, DIM), T.F16)
    f.add("output_norm.weight", norm(DIM))
    f.add("output.weight", matrix(VOCAB, DIM), T.BF16)
    f.add("rope_freqs.weight", np.array([1, 1, 2.5, 8], np.float32))
    for i in range(LAYERS):
        b = f"blk.{i}."
        f.add(b + "attn_norm.weight", norm(DIM))
        f.add(b + "attn_q.weight", matrix(HEADS * HEAD, DIM), T.Q8_0)
        f.add(b + "attn_k.weight", matrix(HEADS_KV * HEAD, DIM), T.Q8_0)
        f.add(b + "attn_v.weight", matrix(HEADS_KV * HEAD, DIM), T.Q8_0)
        f.add(b + "attn_output.weight", matrix(DIM, HEADS * HEAD), T.F16)
        f.add(b + "ffn_norm.weight", norm(DIM))
        f.add(b + "ffn_gate.weight", matrix(FFN, DIM), T.Q8_0)
        f.add(b + "ffn_up.weight", matrix(FFN, DIM), T.F16)
        f.add(b + "ffn_down.weight", matrix(DIM, FFN), T.BF16)
    f.close()
    return f.value


def rms(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotate(x, factors):
    """Pairs (2i, 2i + 1), as rows are stored in files of architecture llama."""
    freq = 5000.0 ** (-np.arange(0, HEAD, 2) / HEAD) / factors
    angle = np.arange(x.shape[0])[:, None, None] * freq
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * np.cos(angle) - x[..., 1::2] * np.sin(angle)
    out[..., 1::2] = x[..., 0::2] * np.sin(angle) + x[..., 1::2] * np.cos(angle)
    return out


def text_logits(v, ids):
    x = v["token_embd.weight"][ids]
    n = len(ids)
    mask = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(LAYERS):
        w = {k[len(f"blk.{i}."):]: t for k, t in v.items() if k.startswith(f"blk.{i}.")}
        h = rms(x, w["attn_norm.weight"])
        q = rotate((h @ w["attn_q.weight"].T).reshape(n, HEADS, HEAD), v["rope_freqs.weight"])
        k = rotate((h @ w["attn_k.weight"].T).reshape(n, HEADS_KV, HEAD), v["rope_freqs.weight"])
        u = (h @ w["attn_v.weight"].T).reshape(n, HEADS_KV, HEAD)
        k, u = (np.repeat(t, HEADS // HEADS_KV, 1) for t in (k, u))
        p = softmax(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HEAD) + mask)
        x = x + np.einsum("hij,jhd->ihd", p, u).reshape(n, -1) @ w["attn_output.weight"].T
        h = rms(x, w["ffn_norm.weight"])
        g = h @ w["ffn_gate.weight"].T
        x = x + (g / (1 + np.exp(-g)) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T
    return rms(x, v["output_norm.weight"]) @ v["output.weight"].T


def encode(text):
    """SentencePiece BPE: the best-scored pair first, the leftmost of equals."""
    score = {p[0]: p[1] for p in PIECES if p[2] == 1}
    sym = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        best = max(((score[a + b], -i) for i, (a, b) in enumerate(zip(sym, sym[1:]))
                    if a + b in score), default=None)
        if best is None:
            break
        i = -best[1]
        sym[i:i + 2] = [sym[i] + sym[i + 1]]
    index = {p[0]: i for i, p in enumerate(PIECES)}
    return [index.get(s, index["<0x21>"] if s == "!" else 0) for s in sym]


# ---- vision ----

def vision_tensors():
    n = (IMAGE // PATCH) ** 2
    t = {"v.class_embd": matrix(VDIM), "v.patch_embd.weight": matrix(VDIM, 3, PATCH, PATCH) * 0.1,
         "v.position_embd.weight": matrix(n + 1, VDIM), "v.pre_ln.weight": norm(VDIM),
         "v.pre_ln.bias": matrix(VDIM)}
    for i in range(VLAYERS):
        b = f"v.blk.{i}."
        for k in ("ln1", "ln2"):
            t[b + k + ".weight"], t[b + k + ".bias"] = norm(VDIM), matrix(VDIM)
        for k in ("attn_q", "attn_k", "attn_v", "attn_out"):
            t[b + k + ".weight"], t[b + k + ".bias"] = matrix(VDIM, VDIM), matrix(VDIM)
        t[b + "ffn_up.weight"], t[b + "ffn_up.bias"] = matrix(VFFN, VDIM), matrix(VFFN)
        t[b + "ffn_down.weight"], t[b + "ffn_down.bias"] = matrix(VDIM, VFFN), matrix(VDIM)
    t["mm.0.weight"], t["mm.0.bias"] = matrix(DIM, VDIM), matrix(DIM)
    t["mm.2.weight"], t["mm.2.bias"] = matrix(DIM, DIM), matrix(DIM)
    t["v.image_newline"] = matrix(DIM)
    return t


def legacy_name(name):
    swap = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    if name == "v.image_newline":
        return "model.image_newline"
    return ".".join(swap.get(p, p) for p in name.split("."))


def write_vision(path, tensors, legacy):
    f = File(path, "clip")
    w = f.w
    layers = VLAYERS - 1 if legacy else VLAYERS
    w.add_bool("clip.has_text_encoder", False)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_bool("clip.has_llava_projector", True)
    w.add_string("clip.projector_type", "mlp")
    w.add_bool("clip.use_gelu", False)
    for key, value in (("image_size", IMAGE), ("patch_size", PATCH), ("embedding_length", VDIM),
                       ("feed_forward_length", VFFN), ("projection_dim", 768 if legacy else DIM),
                       ("attention.head_count", VHEADS), ("block_count", layers)):
        w.add_uint32("clip.vision." + key, value)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    w.add_array("clip.vision.image_mean", [0.5, 0.4, 0.3])
    w.add_array("clip.vision.image_std", [0.25, 0.2, 0.3])
    if not legacy:
        w.add_array("clip.vision.feature_layer", [FEATURE])
    for name, x in tensors.items():
        if legacy and name.startswith(f"v.blk.{VLAYERS - 1}."):
            continue
        kind = T.F16 if x.ndim > 1 and "position" not in name else T.F32
        f.add(legacy_name(name) if legacy else name, x, kind)
    f.close()
    return f.value


def layer_norm(x, w, b):
    m = x.mean(-1, keepdims=True)
    return (x - m) / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5) * w + b


def vision_features(v, pixels):
    """erf-gelu projector on hidden state FEATURE, CLS left out."""
    from math import erf
    grid, head = IMAGE // PATCH, VDIM // VHEADS
    patches = [pixels[:, y:y + PATCH, x:x + PATCH].reshape(-1)
               for y in range(0, IMAGE, PATCH) for x in range(0, IMAGE, PATCH)]
    x = np.stack(patches) @ v["v.patch_embd.weight"].reshape(VDIM, -1).T
    x = np.concatenate([v["v.class_embd"][None], x]) + v["v.position_embd.weight"]
    x = layer_norm(x, v["v.pre_ln.weight"], v["v.pre_ln.bias"])
    for i in range(FEATURE):
        w = {k[len(f"v.blk.{i}."):]: t for k, t in v.items() if k.startswith(f"v.blk.{i}.")}
        h = layer_norm(x, w["ln1.weight"], w["ln1.bias"])
        q, k, u = ((h @ w[f"attn_{s}.weight"].T + w[f"attn_{s}.bias"]).reshape(-1, VHEADS, head)
                   for s in "qkv")
        p = softmax(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(head))
        o = np.einsum("hij,jhd->ihd", p, u).reshape(grid * grid + 1, -1)
        x = x + o @ w["attn_out.weight"].T + w["attn_out.bias"]
        h = layer_norm(x, w["ln2.weight"], w["ln2.bias"]) @ w["ffn_up.weight"].T + w["ffn_up.bias"]
        x = x + (h / (1 + np.exp(-1.702 * h))) @ w["ffn_down.weight"].T + w["ffn_down.bias"]
    h = x[1:] @ v["mm.0.weight"].T + v["mm.0.bias"]
    h = h * 0.5 * (1 + np.vectorize(erf)(h / np.sqrt(2)))
    return h @ v["mm.2.weight"].T + v["mm.2.bias"]


# ---- Q8_0 ----

def q8_0_cases():
    x = np.zeros((8, 32), np.float32)
    x[1] = np.arange(32) - 16
    x[2] = (np.arange(32) - 15.5) / 127
    x[3] = rng.standard_normal(32) * 1e-6
    x[4] = rng.standard_normal(32) * 1e4
    x[5, 7] = -127
    x[5, 8:20] = np.arange(12) + 0.5
    x[6:] = rng.standard_normal((2, 32))
    return x, gguf.quantize(x, T.Q8_0)


def main():
    os.makedirs("gguf/legacy", exist_ok=True)
    os.chdir("gguf")
    text = write_text("tiny.gguf")
    tensors = vision_tensors()
    vision = write_vision("mmproj-tiny.gguf", tensors, False)
    write_vision("legacy/mmproj.gguf", tensors, True)
    ids = [1, 33, 35, 9, 40, 11, 5, 22]
    pixels = ((np.arange(3 * IMAGE * IMAGE) * 37 % 101) / 50 - 1).reshape(3, IMAGE, IMAGE)
    x, q = q8_0_cases()
    texts = ["the cat", "that cat!", "hethecat th", "xyz", "  a"]
    golden = {"ids": ids, "logits": text_logits(text, ids).round(7).tolist(),
              "features": vision_features(vision, pixels).round(7).tolist(),
              "texts": [{"text": t, "ids": encode(t)} for t in texts],
              "q8_0_from": x.astype(float).tolist(), "q8_0": q.reshape(8, -1).tolist()}
    with open("gguf_golden.json", "w") as f:
        json.dump(golden, f)
        f.write("\n")


main()
