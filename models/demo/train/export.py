"""Writes a trained network as a Hugging Face LLaVA-NeXT folder (legacy names, bf16 shards)."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from batches import GRID, PATCH
from demo_tokenizer import BOS, EOS, IMAGE, PAD, PromptCodec
from network import NORM_EPS, ROPE_THETA, DemoModel, Shape
from render import CLIP_MEAN, CLIP_STD
from scenes import VIEW

SHARD_BYTES = 15 * 2 ** 20
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
VISION, TEXT = "vision_tower.vision_model.", "language_model.model."
VISION_LAYER = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v",
    "self_attn.out_proj": "out", "layer_norm1": "norm1", "layer_norm2": "norm2",
    "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
TEXT_LAYER = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v",
    "self_attn.o_proj": "out", "mlp.gate_proj": "gate", "mlp.up_proj": "up",
    "mlp.down_proj": "down", "input_layernorm": "norm1", "post_attention_layernorm": "norm2"}


def tensor_names(shape: Shape) -> dict[str, str]:
    """Hugging Face's name of every exported tensor, and ours; in the order of the files."""
    names = {VISION + "embeddings.class_embedding": "vision.cls",
             VISION + "embeddings.patch_embedding.weight": "vision.patch.weight",
             VISION + "embeddings.position_embedding.weight": "vision.position"}

    def both(theirs: str, ours: str) -> None:
        for part in ("weight", "bias"):
            names[f"{theirs}.{part}"] = f"{ours}.{part}"

    both(VISION + "pre_layrnorm", "vision.pre_norm")        # sic, in every CLIP checkpoint
    both(VISION + "post_layernorm", "vision.post_norm")
    for i in range(shape.vision_layers):
        for theirs, ours in VISION_LAYER.items():
            both(f"{VISION}encoder.layers.{i}.{theirs}", f"vision.layers.{i}.{ours}")
    both("multi_modal_projector.linear_1", "project1")
    both("multi_modal_projector.linear_2", "project2")
    names["image_newline"] = "newline"
    names[TEXT + "embed_tokens.weight"] = "decoder.embedding.weight"
    names[TEXT + "norm.weight"] = "decoder.norm.weight"
    names["language_model.lm_head.weight"] = "decoder.head.weight"
    for i in range(shape.layers):
        for theirs, ours in TEXT_LAYER.items():
            names[f"{TEXT}layers.{i}.{theirs}.weight"] = f"decoder.layers.{i}.{ours}.weight"
    return names


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _write_weights(tensors: dict[str, torch.Tensor], out: Path) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if filled + n_bytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += n_bytes
    where = {}
    for old in out.glob("model-*-of-*.safetensors"):
        old.unlink()            # a smaller model's shards would otherwise mix with a larger's
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, str(out / file), metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _write_json(out / "model.safetensors.index.json",
                {"metadata": {"total_size": total}, "weight_map": where})


def model_config(codec: PromptCodec, shape: Shape) -> dict:
    return {
        "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next",
        "image_token_index": codec.image, "pad_token_id": codec.pad,
        "projector_hidden_act": "gelu", "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "image_seq_length": GRID * GRID,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "image_grid_pinpoints": PINPOINTS, "use_image_newline_parameter": True,
        "text_config": {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"],
            "hidden_size": shape.dim, "intermediate_size": shape.ffn_dim,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads, "max_position_embeddings": 4096,
            "rms_norm_eps": NORM_EPS, "rope_theta": ROPE_THETA, "vocab_size": codec.vocab,
            "hidden_act": "silu", "bos_token_id": BOS, "eos_token_id": EOS,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": shape.vision_dim,
            "intermediate_size": 4 * shape.vision_dim, "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads, "image_size": VIEW, "patch_size": PATCH,
            "projection_dim": shape.dim, "hidden_act": "quick_gelu",
            "layer_norm_eps": NORM_EPS}}


def tokenizer_config() -> dict:
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
            "unk_token": "<unk>", "pad_token": PAD, "add_bos_token": True, "add_eos_token": False,
            "additional_special_tokens": [IMAGE], "clean_up_tokenization_spaces": False,
            "model_max_length": 4096}


def preprocessor_config() -> dict:
    return {"crop_size": {"height": VIEW, "width": VIEW}, "do_center_crop": True,
            "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
            "do_resize": True, "image_grid_pinpoints": PINPOINTS, "image_mean": list(CLIP_MEAN),
            "image_processor_type": "LlavaNextImageProcessor", "image_std": list(CLIP_STD),
            "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": VIEW}}


def export(model: DemoModel, codec: PromptCodec, out: Path) -> None:
    """Everything of the folder but tokenizer.json."""
    state = model.state_dict()
    tensors = {theirs: state[ours].detach().to("cpu", torch.bfloat16).contiguous()
               for theirs, ours in tensor_names(model.shape).items()}
    _write_weights(tensors, out)
    _write_json(out / "config.json", model_config(codec, model.shape))
    _write_json(out / "tokenizer_config.json", tokenizer_config())
    _write_json(out / "preprocessor_config.json", preprocessor_config())
