#include "llm/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VICUNA_SYSTEM                                                                              \
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives " \
    "helpful, detailed, and polite answers to the user's questions. "
#define LLAVA_SYSTEM                                                                               \
    "A chat between a curious human and an artificial intelligence assistant. The assistant "      \
    "gives helpful, detailed, and polite answers to the human's questions. "
#define LLAMA3_SYSTEM                                                                              \
    "You are a helpful language and vision assistant. You are able to understand the visual "      \
    "content that the user provides, and assist the user with a variety of tasks using natural "   \
    "language."

/* Texts of haotian-liu/LLaVA conversation.py and, for llama3, of LLaVA-VL/LLaVA-NeXT. */
const prompt_template prompt_templates[] = {
    {"vicuna_v1", VICUNA_SYSTEM, "USER: ", " ASSISTANT:", "</s>", {NULL}},
    {"llava_v1", LLAVA_SYSTEM, "USER: ", " ASSISTANT:", "</s>", {NULL}},
    {"mistral_instruct", "", "[INST] ", " [/INST]", "</s>", {NULL}},
    {"chatml", "<|im_start|>system\nAnswer the questions.<|im_end|>", "<|im_start|>user\n",
     "<|im_end|><|im_start|>assistant\n", "<|im_end|>", {"<|im_end|>", NULL}},
    {"llama3",
     "<|start_header_id|>system<|end_header_id|>\n\n" LLAMA3_SYSTEM "<|eot_id|>",
     "<|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>",
     {"<|eot_id|>", NULL}},
    {"plain", "", "", "", "", {NULL}},
    {NULL, NULL, NULL, NULL, NULL, {NULL}},
};

const prompt_template *prompt_find(const char *name)
{
    for (const prompt_template *p = prompt_templates; p->name; p++)
        if (strcmp(p->name, name) == 0) return p;
    return NULL;
}

static const char image_mark[] = "<image>";

static int count_marks(const char *text)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, image_mark)); at += sizeof image_mark - 1)
        n++;
    return n;
}

typedef struct turn_text {
    char *text;
    size_t size, cap;
} turn_text;

static bool put(turn_text *t, const char *text)
{
    size_t n = strlen(text);
    if (t->size + n + 1 > t->cap) {
        size_t cap = (t->size + n + 1) * 2;
        char *grown = realloc(t->text, cap);
        if (!grown) return false;
        t->text = grown;
        t->cap = cap;
    }
    memcpy(t->text + t->size, text, n + 1);
    t->size += n;
    return true;
}

static bool build_text(turn_text *out, const prompt_template *p, bool first, const char *text,
                       int n_mark)
{
    bool ok = put(out, first ? p->system : p->turn_end) && put(out, p->user_prefix);
    for (int i = 0; ok && i < n_mark; i++)
        ok = put(out, image_mark);
    if (ok && n_mark) ok = put(out, "\n");
    return ok && put(out, text) && put(out, p->user_suffix);
}

static int append(int32_t **ids, int *n, const int32_t *more, int m, sq_error *err)
{
    int32_t *grown = realloc(*ids, (size_t)(*n + m + 1) * sizeof *grown);
    if (!grown) return error_set(err, SQ_E_NOMEM, "prompt: out of memory");
    memcpy(grown + *n, more, (size_t)m * sizeof *grown);
    *ids = grown;
    *n += m;
    return SQ_OK;
}

/* Each chunk between pictures is tokenised on its own; only the very first may begin with BOS. */
static int encode_chunks(const tokenizer *t, const char *text, bool bos, int32_t **ids, int *n,
                         sq_error *err)
{
    static const int32_t image = PROMPT_IMAGE;
    for (unsigned flags = TOKENIZE_SPECIAL | (bos ? TOKENIZE_BOS : 0);; flags = TOKENIZE_SPECIAL) {
        const char *mark = strstr(text, image_mark);
        size_t size = mark ? (size_t)(mark - text) : strlen(text);
        int32_t *chunk;
        int m;
        TRY(tokenizer_encode(t, text, size, flags, &chunk, &m, err));
        int rc = append(ids, n, chunk, m, err);
        free(chunk);
        if (rc || !mark) return rc;
        TRY(append(ids, n, &image, 1, err));
        text = mark + sizeof image_mark - 1;
    }
}

int prompt_turn(const prompt_template *p, const tokenizer *t, bool first, const char *text,
                int n_image, int32_t **ids, int *n, sq_error *err)
{
    int marks = count_marks(text);
    turn_text turn = {0};
    *ids = NULL;
    *n = 0;
    if (marks && !first)
        return error_set(err, SQ_E_ARG,
                         "the question has an <image> mark, but pictures are shown with the first "
                         "question only");
    if (marks && marks != n_image)
        return error_set(err, SQ_E_ARG, "the question has %d <image> marks, but there are %d "
                                        "pictures",
                         marks, n_image);
    int rc = build_text(&turn, p, first, text, marks ? 0 : n_image)
                 ? encode_chunks(t, turn.text, first, ids, n, err)
                 : error_set(err, SQ_E_NOMEM, "prompt: out of memory");
    free(turn.text);
    if (rc) {
        free(*ids);
        *ids = NULL;
    }
    return rc;
}
