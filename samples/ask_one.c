/* One question about one picture.
 *
 *     ask_one MODEL PICTURE QUESTION [METHOD KEEP]
 *     ask_one models/demo samples/frogs.jpg "What do you see?" fastervlm 144 */
#include "squint.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: %s MODEL PICTURE QUESTION [METHOD KEEP]\n", argv[0]);
        return 2;
    }
    sq_session_options opt = {0};
    if (argc == 6) {
        opt.prune = argv[4];
        opt.keep = argv[5];
    }

    sq_model *m = NULL;
    sq_session *s = NULL;
    sq_report r;
    int rc = sq_model_open(&m, argv[1], NULL);
    if (rc) {
        fprintf(stderr, "%s\n", sq_model_error(m));
        goto end;
    }
    rc = sq_session_open(&s, m, &opt);
    if (!rc) rc = sq_session_add_image(s, argv[2]);
    if (!rc) rc = sq_session_ask(s, argv[3], NULL, &r);
    if (rc) {
        fprintf(stderr, "%s\n", sq_session_error(s));
        goto end;
    }
    puts(r.answer);
    fprintf(stderr, "%d of %d tokens, %.0f ms\n", r.image[0].tokens_kept, r.image[0].tokens_in,
            r.ms.total);

end:
    sq_session_close(&s);
    sq_model_close(&m);
    return rc ? 1 : 0;
}
