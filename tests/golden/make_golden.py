"""Tiny LLaVA checkpoints and what transformers computes with them, stage by stage.

    python tests/golden/make_golden.py [OUT]        (OUT: tests/golden/tiny)

Needs transformers 5.17, torch, safetensors, tokenizers, Pillow and numpy; it takes seconds on a CPU. The output is
committed; test_stages.c reads it. Weights come from numpy's PCG64 with a seed per variant and are representable in
float16, so that a file may hold them in 16 bits and still mean exactly what transformers computed in float32 (the bf16
variant is rounded to bfloat16 first). Every variant is saved under the tensor names it is meant to prove. Variants in
Hugging Face naming are then opened by from_pretrained and it is those models that give the expected values; only the
original repository's naming, which transformers does not read, is computed from the weights in memory.

OUT/picture.png, OUT/tokenizer.json and the weight files that several variants share are stored once (links). Each
variant is a model directory plus expected.safetensors, f32 unless said otherwise, batch dimension removed:

    pixels[3,s,s]            CLIPImageProcessor of picture.png
    hidden0[n_tok,dim]       hidden state 0: embeddings after pre_layrnorm
    cls_hidden[L+1,dim]      CLS row of hidden states 0..L
    cls_attention[L,H,n]     softmax CLS row of every layer, without the CLS key
    cls_logits[H,n]          the same before the softmax, last layer
    received[n], given[n]    column and row means of the attention of the last feature layer, without CLS
    features[m,dim*k]        what enters the projector
    projected[m,text_dim]
    prompt[p] i32            -200 stands for the picture's m rows, as in LLaVA
    logits[V]                last row of the prefill
    greedy[32] i32           32 greedy tokens
    last_logits[V]           logits that the last of them was chosen from

Each forward pass is cross-checked: the stages spliced by hand give the logits of the model's own forward, and the
greedy tokens those of generate (LLaVA only: LLaVA-NeXT's forward adds tiles that one view does not have).
"""
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaNextConfig,
                          LlavaNextForConditionalGeneration, MistralConfig, Qwen2Config)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny"
IMAGE_ID, N_GREEDY, MIN_GAP = 3, 32, 1e-3
WORDS = ["an", "at", "th", "the", "he", "in", "is", "it", "wh", "what"]

torch.set_grad_enabled(False)
torch.use_deterministic_algorithms(True)

# ---- shared files ----


def make_tokenizer(path):
    """SentencePiece-like BPE with byte fallback: 4 specials, 256 bytes, letters, a few merges."""
    tokens = ["<unk>", "<s>", "</s>", "<image>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581"]
    tokens += [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = []
    for w in WORDS:
        cut = max(i for i in range(1, len(w)) if w[:i] in tokens and w[i:] in tokens)
        merges.append((w[:cut], w[cut:]))
        tokens.append(w)
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True,
                             byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<unk>", "<s>", "</s>", "<image>"])
    t.save(str(path), pretty=False)
    return t, len(tokens)


def make_picture(path):
    """47 x 38, smooth colours with hard edges and some noise, so that resizing and cropping matter."""
    y, x = np.mgrid[0:38, 0:47].astype(np.float64)
    p = np.stack([127 + 120 * np.sin(x / 5 + y / 9), 127 + 120 * np.cos(y / 4 - x / 13), 5 * x + y], -1)
    p[8:20, 10:26] = 255 - p[8:20, 10:26]
    p += np.random.default_rng(7).normal(0, 8, p.shape)
    Image.fromarray(p.clip(0, 255).round().astype(np.uint8)).save(path)


# ---- weights ----


def draw(name, shape, rng):
    z = rng.standard_normal(shape)
    if "norm" in name:
        z = z * 0.1 + (1 if name.endswith("weight") else 0)
    elif "position_embedding" in name or "class_embedding" in name or name.endswith("bias"):
        z = z * 0.3
    elif "embed_tokens" not in name and "newline" not in name:
        z = z * 1.3 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(z.astype(np.float16).astype(np.float32))


def fill(model, seed, dtype):
    """Draws every weight in order of its name; returns the file's state dict."""
    rng, state = np.random.default_rng(seed), {}
    tied = model.config.tie_word_embeddings
    for name, p in sorted(model.state_dict().items()):
        if name.endswith("position_ids") or (tied and name == "lm_head.weight"):
            continue
        state[name] = draw(name, tuple(p.shape), rng).to(dtype)
        if tied and "embed_tokens" in name:
            state[name] /= 8  # else a token's own embedding makes it its own successor
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    if tied:
        model.tie_weights()
    return state


# Names of a file, from the names that transformers 5 has in memory.
LEGACY = [("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
          ("model.vision_tower.", "vision_tower.vision_model."), ("model.", "")]
V452 = [("model.vision_tower.", "model.vision_tower.vision_model.")]
V5 = []
ORIGINAL = [("model.language_model.", "model."),
            ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
            ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
            ("model.multi_modal_projector.linear_2.", "model.mm_projector.2.")]


def rename(name, rules):
    for old, new in rules:
        if name.startswith(old):
            return new + name[len(old):]
    return name


def save_weights(state, rules, at, shards):
    state = {rename(k, rules): v.contiguous() for k, v in state.items()}
    if shards == 1:
        return save_file(state, at / "model.safetensors", metadata={"format": "pt"})
    names, where = sorted(state), {}
    for i in range(shards):
        f = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]  # interleaved: a layer's tensors lie in several files
        save_file({k: state[k] for k in part}, at / f, metadata={"format": "pt"})
        where.update({k: f for k in part})
    total = sum(v.numel() * v.element_size() for v in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": {k: where[k] for k in names}}
    write_json(at / "model.safetensors.index.json", index)


# ---- configurations ----


def vision(**k):
    return CLIPVisionConfig(**{**dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
                                      image_size=28, patch_size=7, projection_dim=32), **k})


def text(cls=LlamaConfig, **k):
    return cls(**{**dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, bos_token_id=1,
                         eos_token_id=2, pad_token_id=0), **k})


def rope(kind, **k):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **k}}


def write_json(path, data):
    path.write_text(json.dumps(data, indent=1) + "\n")


# What a hub file leaves out: bookkeeping, and values that the classes fill in by themselves.
DROP = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "initializer_range",
        "initializer_factor", "attention_dropout", "pretraining_tp", "use_cache", "attribute_map", "chunk_size_feed_forward",
        "output_attentions", "output_hidden_states", "return_dict", "is_encoder_decoder", "id2label", "label2id",
        "problem_type", "layer_types", "projection_dim", "num_channels", "pad_token_id"}


def slim(d):
    return {k: slim(v) if isinstance(v, dict) else v for k, v in d.items() if k not in DROP}


def hf_config(config, edit):
    d = slim(config.to_dict())
    for part in ("text_config", "vision_config"):
        d[part] = {k: v for k, v in d[part].items() if v is not None or k == "sliding_window"}
    edit(d)
    return d


def original_config(config):
    t = slim(config.text_config.to_dict())
    t = {k: v for k, v in t.items() if v is not None and k != "rope_parameters"}
    v = {k: x for k, x in slim(config.vision_config.to_dict()).items() if x is not None}
    return {**t, "model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-tiny", "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 32,
            "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "tune_mm_mlp_adapter": False,
            "use_mm_proj": True, "rope_theta": 10000.0, "vision_config": v}


# ---- expected stages ----


def tower_stages(m, config, px):
    v = m.vision_tower(px, output_hidden_states=True, output_attentions=True)
    hidden = [h[0] for h in v.hidden_states]
    n_layer, heads = config.vision_config.num_hidden_layers, config.vision_config.num_attention_heads
    layers = config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else layers
    at = [x % (n_layer + 1) for x in layers]
    last = m.vision_tower.encoder.layers[-1]
    z = last.layer_norm1(hidden[-2])
    q, k = (w(z).view(len(z), heads, -1).transpose(0, 1) for w in (last.self_attn.q_proj, last.self_attn.k_proj))
    logits = (q[:, :1] @ k.transpose(1, 2) / k.shape[-1] ** 0.5)[:, 0]
    torch.testing.assert_close(logits.softmax(-1), v.attentions[-1][0, :, 0], rtol=1e-5, atol=1e-6)
    mean = v.attentions[max(at) - 1][0, :, 1:, 1:].mean(0)
    features = torch.cat([hidden[i] for i in at], -1)
    if config.vision_feature_select_strategy == "default":
        features = features[1:]
    return {"pixels": px[0], "hidden0": hidden[0], "cls_hidden": torch.stack([h[0] for h in hidden]),
            "cls_attention": torch.stack([a[0, :, 0, 1:] for a in v.attentions]), "cls_logits": logits[:, 1:],
            "received": mean.mean(0), "given": mean.mean(1), "features": features,
            "projected": m.multi_modal_projector(features)}


def forget(model):
    """Dynamic RoPE keeps the frequencies of the longest sequence it has seen; a new answer starts without."""
    r = model.model.language_model.rotary_emb
    r.inv_freq, r.max_seq_len_cached = r.original_inv_freq.clone(), r.original_max_seq_len


def decode(model, x):
    """Greedy with a KV cache; returns all tokens, the first and the last logits and the smallest gap."""
    lm, cache, ids, all_z = model.model.language_model, None, [], []
    forget(model)
    for _ in range(N_GREEDY):
        o = lm(inputs_embeds=x[None], past_key_values=cache, use_cache=True)
        cache = o.past_key_values
        all_z.append(model.lm_head(o.last_hidden_state[0, -1]))
        ids.append(int(all_z[-1].argmax()))
        x = lm.get_input_embeddings()(torch.tensor([ids[-1]]))
    gap = min(float(z.topk(2)[0].diff().abs()) for z in all_z)
    return ids, all_z[0], all_z[-1], gap


def expected(model, config, px, prompt):
    e = tower_stages(model.model, config, px)
    embed = model.model.language_model.get_input_embeddings()
    before, after = prompt[:prompt.index(-200)], prompt[prompt.index(-200) + 1:]
    x = torch.cat([embed(torch.tensor(before)), e["projected"], embed(torch.tensor(after))])
    ids, first, last, gap = decode(model, x)
    assert len(set(ids)) > 6, f"the answer repeats itself: {ids}"
    assert gap > MIN_GAP, f"two tokens are within {gap}"
    if not isinstance(config, LlavaNextConfig):
        whole = torch.tensor([before + [IMAGE_ID] * len(e["projected"]) + after])
        forget(model)
        z = model(input_ids=whole, pixel_values=px).logits[0, -1]
        torch.testing.assert_close(z, first, rtol=1e-5, atol=1e-5)
        model.generation_config.eos_token_id = None
        forget(model)
        g = model.generate(input_ids=whole, pixel_values=px, do_sample=False, max_new_tokens=N_GREEDY)
        assert g[0, whole.shape[1]:].tolist() == ids, (g[0, whole.shape[1]:].tolist(), ids)
    e.update(prompt=torch.tensor(prompt, dtype=torch.int32), logits=first, last_logits=last,
             greedy=torch.tensor(ids, dtype=torch.int32))
    return {k: v.contiguous().clone() for k, v in e.items()}, gap


# ---- variants ----


def variant(name, seed, t=None, v=None, *, rules=LEGACY, dtype=torch.float16, shards=1, next_=False, share=None,
            edit=lambda d: None, **top):
    """share: another variant's weight file is linked instead of stored again (same seed and shapes)."""
    at = OUT / name
    at.mkdir(parents=True)
    cls, kind = (LlavaNextForConditionalGeneration, LlavaNextConfig) if next_ else (LlavaForConditionalGeneration,
                                                                                   LlavaConfig)
    config = kind(vision_config=v or vision(), text_config=t or text(), image_token_index=IMAGE_ID, **top)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    state = fill(model, seed, dtype)
    if share:
        os.symlink(f"../{share}/model.safetensors", at / "model.safetensors")
    else:
        save_weights(state, rules, at, shards)
    os.symlink("../tokenizer.json", at / "tokenizer.json")
    write_json(at / "config.json", original_config(config) if rules is ORIGINAL else hf_config(config, edit))
    side = config.vision_config.image_size
    ip = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    d = ip.to_dict()
    write_json(at / "preprocessor_config.json",
               {k: d[k] for k in ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")}
               | {"image_processor_type": "CLIPImageProcessor"})
    if rules is not ORIGINAL:
        model, info = cls.from_pretrained(at, dtype=torch.float32, attn_implementation="eager",
                                          output_loading_info=True)
        assert not any(info.values()), info
        model.eval()
        config = model.config
    px = ip(Image.open(OUT / "picture.png").convert("RGB"), return_tensors="pt")["pixel_values"]
    e, gap = expected(model, config, px, PROMPT)
    save_file(e, at / "expected.safetensors")
    print(f"{name:12} gap {gap:.4f} tokens {e['greedy'].tolist()[:10]}")


def drop_text_defaults(d):
    """As hub files do: what equals the class's default is not written."""
    for k in ("num_key_value_heads", "tie_word_embeddings", "hidden_act", "rms_norm_eps", "rope_parameters"):
        d["text_config"].pop(k, None)
    for k in ("vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act",
              "multimodal_projector_bias", "image_seq_length"):
        d.pop(k, None)


def old_rope(kind, factor):
    """rope_scaling and rope_theta as files before version 5 have them."""
    def edit(d):
        t = d["text_config"]
        t.pop("rope_parameters")
        t.update(rope_theta=10000.0, rope_scaling={"type": kind, "factor": factor})
    return edit


def main():
    global VOCAB, PROMPT
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    make_picture(OUT / "picture.png")
    tok, VOCAB = make_tokenizer(OUT / "tokenizer.json")
    PROMPT = [1] + tok.encode("a q").ids + [-200] + tok.encode("what is in it").ids

    variant("mha", 104, dtype=torch.float32, edit=drop_text_defaults)
    variant("gelu", 104, v=vision(hidden_act="gelu"), share="mha")
    variant("full", 104, share="mha", vision_feature_select_strategy="full", vision_feature_layer=-1)
    variant("linear", 104, text(**rope("linear", factor=4.0)), share="mha", edit=old_rope("linear", 4.0))
    variant("dynamic", 104, text(max_position_embeddings=20, **rope("dynamic", factor=2.0)), share="mha")
    variant("llama3", 104, text(**rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=128)), share="mha")
    variant("gqa", 2, text(num_key_value_heads=2, rms_norm_eps=0.05), vision(layer_norm_eps=0.02), shards=3)
    variant("tied", 43, text(num_key_value_heads=1), tie_word_embeddings=True)
    variant("names452", 4, rules=V452)
    variant("names5", 5, rules=V5, dtype=torch.bfloat16, shards=2)
    variant("original", 26, rules=ORIGINAL)
    variant("mistral", 27, text(MistralConfig, num_key_value_heads=2, head_dim=16, sliding_window=9))
    variant("qwen2", 8, text(Qwen2Config, num_key_value_heads=2, use_sliding_window=True, sliding_window=7,
                             max_window_layers=1))
    variant("layers", 9, vision_feature_layer=[-3, 1, -1])
    variant("next", 10, text(num_key_value_heads=2), vision(image_size=42, patch_size=14, num_attention_heads=4),
            next_=True, image_grid_pinpoints=[[42, 84], [84, 42], [84, 84]])
    size = sum(f.stat().st_size for f in OUT.rglob("*") if not f.is_symlink() and f.is_file())
    print(f"{size} bytes in {OUT}")


if __name__ == "__main__":
    main()
