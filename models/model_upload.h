/* Weights on a device that cannot read the mapped files. */
#ifndef SQ_MODEL_UPLOAD_H
#define SQ_MODEL_UPLOAD_H

#include "models/model.h"

/* Copies every bound weight into one block of the backend's memory and points the model there.
 * Matrices become be->act, whatever the file holds (a Q8_0 block is expanded: products of many rows
 * want 16-bit operands, and two copies would cost more memory than the one); vectors and the
 * position table become F32. Weights that ops take together (q k v, gate up) lie side by side; the
 * patch embedding's rows end in zeros, so that they are whole multiples of 16 bytes.
 * Does nothing for a backend that reads host memory. *block is what model_unload frees. After a
 * failure it is NULL and the model as before (SQ_E_NOMEM), or set and the model useless. */
int model_upload(model *m, sq_backend *be, void **block, sq_error *err);
void model_unload(sq_backend *be, void **block);

#endif
