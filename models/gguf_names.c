#include "models/gguf_names.h"

#include <stddef.h>

#define TEXT(field) offsetof(decoder_model, field)
const gguf_name gguf_text_names[] = {
    {"token_embd.weight", TEXT(tok_embd), GGUF_DIM_VOCAB, GGUF_DIM_MODEL, 0},
    {"output_norm.weight", TEXT(norm), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"output.weight", TEXT(head), GGUF_DIM_VOCAB, GGUF_DIM_MODEL, GGUF_OPTIONAL},
    {NULL, 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0},
};

#define LAYER(field) offsetof(decoder_layer, field)
const gguf_name gguf_text_layer_names[] = {
    {"attn_norm.weight", LAYER(attn_norm), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"attn_q.weight", LAYER(q_w), GGUF_DIM_Q, GGUF_DIM_MODEL, GGUF_ROPE_Q},
    {"attn_k.weight", LAYER(k_w), GGUF_DIM_KV, GGUF_DIM_MODEL, GGUF_ROPE_K},
    {"attn_v.weight", LAYER(v_w), GGUF_DIM_KV, GGUF_DIM_MODEL, 0},
    {"attn_q.bias", LAYER(q_b), GGUF_DIM_Q, GGUF_DIM_NONE, GGUF_OPTIONAL | GGUF_ROPE_Q},
    {"attn_k.bias", LAYER(k_b), GGUF_DIM_KV, GGUF_DIM_NONE, GGUF_OPTIONAL | GGUF_ROPE_K},
    {"attn_v.bias", LAYER(v_b), GGUF_DIM_KV, GGUF_DIM_NONE, GGUF_OPTIONAL},
    {"attn_output.weight", LAYER(o_w), GGUF_DIM_MODEL, GGUF_DIM_Q, 0},
    {"ffn_norm.weight", LAYER(ffn_norm), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"ffn_gate.weight", LAYER(gate_w), GGUF_DIM_FFN, GGUF_DIM_MODEL, 0},
    {"ffn_up.weight", LAYER(up_w), GGUF_DIM_FFN, GGUF_DIM_MODEL, 0},
    {"ffn_down.weight", LAYER(down_w), GGUF_DIM_MODEL, GGUF_DIM_FFN, 0},
    {NULL, 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0},
};

#define VISION(field) offsetof(vit_model, field)
const gguf_name gguf_vision_names[] = {
    {"v.class_embd", VISION(class_embd), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"v.patch_embd.weight", VISION(patch_w), GGUF_DIM_MODEL, GGUF_DIM_PATCH, GGUF_CONV},
    {"v.patch_embd.bias", VISION(patch_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, GGUF_OPTIONAL},
    {"v.position_embd.weight", VISION(pos_embd), GGUF_DIM_POS, GGUF_DIM_MODEL, GGUF_KEEP_F32},
    {"v.pre_ln.weight", VISION(pre_ln_w), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"v.pre_ln.bias", VISION(pre_ln_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {NULL, 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0},
};

#define VIT(field) offsetof(vit_layer, field)
const gguf_name gguf_vision_layer_names[] = {
    {"ln1.weight", VIT(ln1_w), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"ln1.bias", VIT(ln1_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"attn_q.weight", VIT(q_w), GGUF_DIM_MODEL, GGUF_DIM_MODEL, 0},
    {"attn_q.bias", VIT(q_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"attn_k.weight", VIT(k_w), GGUF_DIM_MODEL, GGUF_DIM_MODEL, 0},
    {"attn_k.bias", VIT(k_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"attn_v.weight", VIT(v_w), GGUF_DIM_MODEL, GGUF_DIM_MODEL, 0},
    {"attn_v.bias", VIT(v_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"attn_out.weight", VIT(o_w), GGUF_DIM_MODEL, GGUF_DIM_MODEL, 0},
    {"attn_out.bias", VIT(o_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"ln2.weight", VIT(ln2_w), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"ln2.bias", VIT(ln2_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {"ffn_up.weight", VIT(fc1_w), GGUF_DIM_FFN, GGUF_DIM_MODEL, 0},
    {"ffn_up.bias", VIT(fc1_b), GGUF_DIM_FFN, GGUF_DIM_NONE, 0},
    {"ffn_down.weight", VIT(fc2_w), GGUF_DIM_MODEL, GGUF_DIM_FFN, 0},
    {"ffn_down.bias", VIT(fc2_b), GGUF_DIM_MODEL, GGUF_DIM_NONE, 0},
    {NULL, 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0},
};

#define PROJ(field) offsetof(projector_model, field)
const gguf_name gguf_projector_names[] = {
    {"mm.0.weight", PROJ(fc1_w), GGUF_DIM_MID, GGUF_DIM_IN, 0},
    {"mm.0.bias", PROJ(fc1_b), GGUF_DIM_MID, GGUF_DIM_NONE, GGUF_OPTIONAL},
    {"mm.2.weight", PROJ(fc2_w), GGUF_DIM_OUT, GGUF_DIM_MID, 0},
    {"mm.2.bias", PROJ(fc2_b), GGUF_DIM_OUT, GGUF_DIM_NONE, GGUF_OPTIONAL},
    {"v.image_newline", PROJ(newline), GGUF_DIM_OUT, GGUF_DIM_NONE, GGUF_OPTIONAL},
    {NULL, 0, GGUF_DIM_NONE, GGUF_DIM_NONE, 0},
};

int64_t gguf_dim_text(const model *m, gguf_dim d)
{
    const decoder_config *c = &m->dec.cfg;
    switch (d) {
    case GGUF_DIM_MODEL: return c->dim;
    case GGUF_DIM_FFN: return c->ffn_dim;
    case GGUF_DIM_Q: return (int64_t)c->n_head * c->head_dim;
    case GGUF_DIM_KV: return (int64_t)c->n_head_kv * c->head_dim;
    case GGUF_DIM_VOCAB: return c->n_vocab;
    default: return 0;
    }
}

int64_t gguf_dim_vision(const model *m, gguf_dim d)
{
    const vit_config *c = &m->vit.cfg;
    int grid = c->patch_size ? c->image_size / c->patch_size : 0;
    switch (d) {
    case GGUF_DIM_MODEL: return c->dim;
    case GGUF_DIM_FFN: return c->ffn_dim;
    case GGUF_DIM_PATCH: return (int64_t)3 * c->patch_size * c->patch_size;
    case GGUF_DIM_POS: return (int64_t)grid * grid + 1;
    case GGUF_DIM_IN: return m->proj.in_dim;
    case GGUF_DIM_MID: return m->proj.mid_dim;
    case GGUF_DIM_OUT: return m->proj.out_dim;
    default: return 0;
    }
}
