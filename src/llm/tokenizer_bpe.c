#include "llm/tokenizer_impl.h"

void bpe_encode(const tokenizer *t, const char *text, size_t size, id_list *out)
{
    (void)t, (void)text, (void)size;
    out->failed = true;
}
