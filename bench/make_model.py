#!/usr/bin/env python3
"""Write a LLaVA checkpoint with random weights, for timing only.

The vision tower is CLIP ViT-L/14-336 (24 layers, of which 23 run), the language model a LLaMA of
width 2048, 5504, 8 layers, 16 heads and 32000 words. The tokenizer is a copy of TOKENIZER's.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

VISION = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
              num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768,
              model_type="clip_vision_model")
TEXT = dict(hidden_size=2048, intermediate_size=5504, num_hidden_layers=8, num_attention_heads=16,
            num_key_value_heads=16, vocab_size=32000, max_position_embeddings=4096,
            rms_norm_eps=1e-5, model_type="llama", bos_token_id=1, eos_token_id=2)


def vision_shapes():
    d, f = VISION["hidden_size"], VISION["intermediate_size"]
    top = "vision_tower.vision_model."
    yield top + "embeddings.class_embedding", (d,)
    yield top + "embeddings.patch_embedding.weight", (d, 3, 14, 14)
    yield top + "embeddings.position_embedding.weight", (577, d)
    for name in ("pre_layrnorm", "post_layernorm"):
        yield f"{top}{name}.weight", (d,)
        yield f"{top}{name}.bias", (d,)
    for i in range(VISION["num_hidden_layers"]):
        layer = f"{top}encoder.layers.{i}."
        for name, shape in (("layer_norm1", (d,)), ("layer_norm2", (d,)),
                            ("self_attn.q_proj", (d, d)), ("self_attn.k_proj", (d, d)),
                            ("self_attn.v_proj", (d, d)), ("self_attn.out_proj", (d, d)),
                            ("mlp.fc1", (f, d)), ("mlp.fc2", (d, f))):
            yield f"{layer}{name}.weight", shape
            yield f"{layer}{name}.bias", shape[:1]


def text_shapes():
    d, f, n = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["vocab_size"]
    top = "language_model.model."
    for i in range(TEXT["num_hidden_layers"]):
        layer = f"{top}layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}self_attn.{name}.weight", (d, d)
        yield layer + "mlp.gate_proj.weight", (f, d)
        yield layer + "mlp.up_proj.weight", (f, d)
        yield layer + "mlp.down_proj.weight", (d, f)
        yield layer + "input_layernorm.weight", (d,)
        yield layer + "post_attention_layernorm.weight", (d,)
    yield top + "embed_tokens.weight", (n, d)
    yield top + "norm.weight", (d,)
    yield "language_model.lm_head.weight", (n, d)


def random_tensor(name, shape):
    """Values of a trained model's size: rows keep the variance, norms are near one."""
    if len(shape) == 1:
        one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return (one + 0.02 * torch.randn(shape)).bfloat16()
    fan_in = torch.Size(shape[1:]).numel()
    return (torch.randn(shape) * fan_in ** -0.5).bfloat16()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--tokenizer", type=Path, required=True,
                        help="directory with tokenizer.json (tests/golden/tiny has one)")
    args = parser.parse_args()
    torch.manual_seed(1)
    args.out.mkdir(parents=True, exist_ok=True)
    shapes = list(vision_shapes()) + list(text_shapes())
    d, v = TEXT["hidden_size"], VISION["hidden_size"]
    for i, (rows, cols) in ((1, (d, v)), (2, (d, d))):
        shapes.append((f"multi_modal_projector.linear_{i}.weight", (rows, cols)))
        shapes.append((f"multi_modal_projector.linear_{i}.bias", (rows,)))
    save_file({name: random_tensor(name, shape) for name, shape in shapes},
              args.out / "model.safetensors", metadata={"format": "pt"})
    config = dict(architectures=["LlavaForConditionalGeneration"], model_type="llava",
                  image_token_index=31999, projector_hidden_act="gelu", torch_dtype="bfloat16",
                  vision_feature_layer=-2, vision_feature_select_strategy="default",
                  text_config=TEXT, vision_config=VISION)
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.out / name)
    preprocessor = dict(image_processor_type="CLIPImageProcessor", do_resize=True, resample=3,
                        size={"shortest_edge": 336}, do_center_crop=True,
                        crop_size={"height": 336, "width": 336}, do_rescale=True,
                        rescale_factor=1 / 255, do_normalize=True, do_convert_rgb=True,
                        image_mean=[0.48145466, 0.4578275, 0.40821073],
                        image_std=[0.26862954, 0.26130258, 0.27577711])
    (args.out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))


if __name__ == "__main__":
    main()
