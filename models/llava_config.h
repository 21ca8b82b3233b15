/* config.json and preprocessor_config.json of a LLaVA-family directory -> the configs in model,
 * with the defaults that the files omit. */
#ifndef SQ_LLAVA_CONFIG_H
#define SQ_LLAVA_CONFIG_H

#include "models/model.h"

typedef struct llava_facts {
    bool tied;           /* lm_head shares embed_tokens */
    bool original;       /* haotian-liu/LLaVA naming: mm_* keys at the top level */
    bool text_only;      /* no vision part in the config */
    char family[32];     /* text model_type: "llama", "mistral", "qwen2" */
} llava_facts;

int llava_config_read(model *m, const char *dir, llava_facts *facts, sq_error *err);
int llava_preprocess_read(model *m, const char *dir, sq_error *err);

#endif
