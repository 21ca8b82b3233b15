/* Several questions about one picture: it is decoded, encoded and pruned once, and its place in the
 * KV cache is kept. After each answer the conversation is forgotten, so that the questions do not
 * influence each other.
 *
 *     ask_many MODEL PICTURE QUESTION... */
#include "squint.h"

#include <stdio.h>

static int print_token(void *user, const char *text, size_t size)
{
    (void)user;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    return 0;
}

static int ask_all(sq_session *s, char **question, int n)
{
    sq_ask_options opt = {.on_token = print_token};
    for (int i = 0; i < n; i++) {
        sq_report r;
        printf("%s\n    ", question[i]);
        int rc = sq_session_ask(s, question[i], &opt, &r);
        if (rc) return rc;
        printf("\n    (%.0f ms; %d rows computed, %d reused)\n", r.ms.total, r.prompt_tokens,
               r.cached_tokens);
        rc = sq_session_rewind(s);
        if (rc) return rc;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL PICTURE QUESTION...\n", argv[0]);
        return 2;
    }
    sq_model *m = NULL;
    sq_session *s = NULL;
    int rc = sq_model_open(&m, argv[1], NULL);
    if (rc) {
        fprintf(stderr, "%s\n", sq_model_error(m));
    } else {
        rc = sq_session_open(&s, m, NULL);
        if (!rc) rc = sq_session_add_image(s, argv[2]);
        if (!rc) rc = ask_all(s, argv + 3, argc - 3);
        if (rc) fprintf(stderr, "%s\n", sq_session_error(s));
    }
    sq_session_close(&s);
    sq_model_close(&m);
    return rc ? 1 : 0;
}
