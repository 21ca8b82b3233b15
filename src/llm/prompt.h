/* Prompt templates: conversation turns -> token ids with places for pictures. */
#ifndef SQ_PROMPT_H
#define SQ_PROMPT_H

#include "llm/tokenizer.h"

enum { PROMPT_IMAGE = -200 }; /* stands in the ids where a picture's tokens go, as in LLaVA */

typedef struct prompt_template {
    const char *name;        /* "vicuna_v1" */
    const char *system;      /* text before the first turn, separators included */
    const char *user_prefix; /* in front of a question: "USER: " */
    const char *user_suffix; /* after it, up to where the answer starts: " ASSISTANT:" */
    const char *turn_end;    /* after an answer, before the next user_prefix: "</s>" */
    const char *stop[4];     /* strings that end an answer besides EOS; NULL ends the list */
} prompt_template;

extern const prompt_template prompt_templates[]; /* vicuna_v1 llava_v1 mistral_instruct chatml
                                                    llama3 plain; ends with name NULL */
const prompt_template *prompt_find(const char *name);

/* Ids of one turn; *ids is malloc'ed. first: BOS and system text come in front; otherwise the
 * previous answer is closed first. `text` may hold "<image>" marks; when it has none and n_image
 * > 0, that many marks and a newline are put in front (LLaVA's "<image>\n" + text). Text chunks
 * around a picture are tokenised on their own, without BOS, as LLaVA's tokenizer_image_token
 * does. SQ_E_ARG when the marks are neither 0 nor n_image, or not in the first turn. */
int prompt_turn(const prompt_template *p, const tokenizer *t, bool first, const char *text,
                int n_image, int32_t **ids, int *n, sq_error *err);

#endif
