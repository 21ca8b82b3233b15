/* Question files of LLaVA: one JSON object a line with question_id, image and text, and here also
 * answer (or label) and category when they are known. */
#ifndef SQ_QUESTIONS_H
#define SQ_QUESTIONS_H

#include "core/error.h"

typedef struct question {
    char *id, *image, *text;
    char *answer, *kind; /* NULL when not known */
    int line;            /* of the file */
} question;

typedef struct question_list {
    question *q;
    int n, cap;
} question_list;

/* image paths are taken from dir (NULL: the file's folder). At most limit questions (0: all).
 * An id may stand for several questions, as a picture's does in TextVQA and MME, but the same
 * question twice is an error. Errors name the file, the line and the key. Close in every case. */
int questions_read(question_list *l, const char *path, const char *dir, int limit, sq_error *err);
void questions_close(question_list *l);

#endif
