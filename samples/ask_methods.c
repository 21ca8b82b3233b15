/* Every pruning method on one picture and question, at one budget: what is kept, how long the
 * answer took, what it was. A method that this model cannot run is named and left out.
 *
 *     ask_methods MODEL PICTURE QUESTION KEEP
 *     ask_methods models/demo samples/desk.jpg "Count the laptops." 72 */
#include "squint.h"

#include <stdio.h>
#include <string.h>

/* One line of the table; each method gets a session of its own on the same model. */
static int compare_one(sq_model *m, const char *method, char **arg)
{
    sq_session *s = NULL;
    sq_report r;
    /* "none" keeps everything and takes no budget. */
    const char *keep = strcmp(method, "none") ? arg[4] : NULL;
    sq_session_options opt = {.prune = method, .keep = keep};
    int rc = sq_session_open(&s, m, &opt);
    if (!rc) rc = sq_session_add_image(s, arg[2]);
    if (!rc) rc = sq_session_ask(s, arg[3], NULL, &r);
    if (rc == SQ_E_UNSUPPORTED)
        printf("%-12s %s\n", method, sq_session_error(s));
    else if (rc)
        fprintf(stderr, "%s: %s\n", method, sq_session_error(s));
    else
        printf("%-12s %6d %9.0f %11.0f %8zu  %s\n", method, r.image[0].tokens_kept,
               r.ms.vision + r.ms.score + r.ms.prune, r.ms.project + r.ms.prefill,
               r.kv_bytes / 1024, r.answer);
    sq_session_close(&s);
    return rc == SQ_E_UNSUPPORTED ? SQ_OK : rc;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL PICTURE QUESTION KEEP\n", argv[0]);
        return 2;
    }
    sq_model *m = NULL;
    sq_method method;
    int rc = sq_model_open(&m, argv[1], NULL);
    if (rc) {
        fprintf(stderr, "%s\n", sq_model_error(m));
        sq_model_close(&m);
        return 1;
    }
    printf("%-12s %6s %9s %11s %8s  %s\n", "method", "tokens", "vision ms", "prefill ms", "KV KiB",
           "answer");
    for (int i = 0; !rc && sq_method_get(i, &method) == SQ_OK; i++)
        rc = compare_one(m, method.name, argv);
    sq_model_close(&m);
    return rc ? 1 : 0;
}
