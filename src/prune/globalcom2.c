/* GlobalCom2 (arXiv 2501.05179): the whole picture decides how much each tile may keep.
 *
 * g = head mean of the last layer's CLS row BEFORE softmax, patches only, of the whole picture;
 * l_j the same of tile j; R the share to keep (count / n_tok for a budget given as a count).
 *     whole picture: the floor(n_tok R) largest of g
 *     tile share:    S_j = sum of g over the tile's block of the picture's grid
 *                    s_j = exp((S_j - max S) / 10) / (sum of exp + 1e-8)
 *                    r_j = min(1, R (1 + s_j - mean s))
 *     tile tokens:   the floor(N_j r_j) largest of l_j / |l_j| + G_j / |G_j| over the tile's N_j
 *                    patches that are not padding, G = g resized (bilinear) to the unpadded mosaic
 * This is the `fixed` variant: kept tile tokens stay at their true place and the whole picture's
 * tokens are in raster order. The authors' code places tile tokens by their index among the
 * unpadded ones, sends the whole picture's by falling score, does not prune a picture of one view,
 * mixes up the pictures of a batch and lets go of tokens even at R = 1 (here R = 1 keeps all that
 * is not padding). Newline rows belong to the assembler. A tile may keep none. Logits matter: with
 * softmax rows S_j <= 1 and every tile would get the same share. Golden:
 * tests/golden/prune_golden.json by prune_reference.py. */
#include "prune/policies.h"

#include <math.h>

static const double TEMPERATURE = 10;

/* One picture's tiles while they are planned. */
typedef struct mosaic {
    const prune_input *in;
    double share;     /* R */
    const float *map; /* g[view 0's n_tok] */
    int x0, y0;       /* first patch of the mosaic that is not padding */
    int w, h;         /* size without padding */
} mosaic;

void globalcom2_needs(const prune_tower *t, const prune_options *o, prune_needs *out)
{
    (void)t;
    (void)o;
    out->cls_logits = true;
}

static double share_of(const prune_input *in)
{
    if (in->keep.count > 0) return fmin(1, (double)in->keep.count / in->view[0].n_tok);
    return in->keep.percent > 0 ? fmin(1, in->keep.percent / 100) : 1;
}

static bool tile_is_sound(const prune_input *in, const prune_view *w)
{
    const prune_view *whole = &in->view[0];
    return w->grid_w == whole->grid_w && w->grid_h == whole->grid_h && w->tile_x >= 0 &&
           w->tile_x < in->mosaic_w && w->tile_y >= 0 && w->tile_y < in->mosaic_h &&
           w->valid_x0 >= 0 && w->valid_x1 <= w->grid_w && w->valid_y0 >= 0 &&
           w->valid_y1 <= w->grid_h;
}

static int input_check(const prune_input *in, sq_error *err)
{
    for (int v = 0; v < in->n_view; v++)
        if (!in->view[v].cls_logits)
            return error_set(err, SQ_E_ARG, "globalcom2: view %d: no CLS logits captured", v);
    if (in->n_view == 1) return SQ_OK;
    if (in->mosaic_w < 1 || in->mosaic_h < 1 || in->mosaic_w > in->view[0].grid_w ||
        in->mosaic_h > in->view[0].grid_h || in->mosaic_w * in->mosaic_h != in->n_view - 1)
        return error_set(err, SQ_E_ARG, "globalcom2: mosaic: expected %d tiles, found %d x %d",
                         in->n_view - 1, in->mosaic_w, in->mosaic_h);
    for (int v = 1; v < in->n_view; v++)
        if (!tile_is_sound(in, &in->view[v]))
            return error_set(err, SQ_E_ARG, "globalcom2: view %d: not a tile of the mosaic", v);
    return SQ_OK;
}

static bool tile_is_empty(const prune_view *w)
{
    return w->valid_x1 <= w->valid_x0 || w->valid_y1 <= w->valid_y0;
}

/* The rectangle of the mosaic that holds all patches that are not padding. */
static void mosaic_measure(mosaic *m)
{
    int x0 = INT32_MAX, y0 = INT32_MAX, x1 = 0, y1 = 0;
    for (int v = 1; v < m->in->n_view; v++) {
        const prune_view *w = &m->in->view[v];
        if (tile_is_empty(w)) continue;
        int ox = w->tile_x * w->grid_w, oy = w->tile_y * w->grid_h;
        if (ox + w->valid_x0 < x0) x0 = ox + w->valid_x0;
        if (oy + w->valid_y0 < y0) y0 = oy + w->valid_y0;
        if (ox + w->valid_x1 > x1) x1 = ox + w->valid_x1;
        if (oy + w->valid_y1 > y1) y1 = oy + w->valid_y1;
    }
    m->x0 = x0;
    m->y0 = y0;
    m->w = x1 > x0 ? x1 - x0 : 0;
    m->h = y1 > y0 ? y1 - y0 : 0;
}

/* Where destination patch i of n_out falls on n_in source patches, as align_corners=False does. */
static void resize_position(int i, int n_out, int n_in, int *low, int *high, double *t)
{
    double at = (i + 0.5) * n_in / n_out - 0.5;
    if (at < 0) at = 0;
    *low = (int)at;
    if (*low > n_in - 1) *low = n_in - 1;
    *high = *low + (*low < n_in - 1);
    *t = at - *low;
}

/* G at patch (x, y) of the mosaic without padding. */
static double map_at(const mosaic *m, int x, int y)
{
    int gw = m->in->view[0].grid_w, gh = m->in->view[0].grid_h, xa, xb, ya, yb;
    double tx, ty;
    resize_position(x, m->w, gw, &xa, &xb, &tx);
    resize_position(y, m->h, gh, &ya, &yb, &ty);
    double top = m->map[ya * gw + xa] * (1 - tx) + m->map[ya * gw + xb] * tx;
    double bottom = m->map[yb * gw + xa] * (1 - tx) + m->map[yb * gw + xb] * tx;
    return top * (1 - ty) + bottom * ty;
}

/* S_j: the picture's grid is cut into equal blocks, what is left over goes to the last ones. */
static double block_sum(const mosaic *m, const prune_view *w)
{
    int gw = w->grid_w, gh = w->grid_h, bw = gw / m->in->mosaic_w, bh = gh / m->in->mosaic_h;
    int x1 = w->tile_x == m->in->mosaic_w - 1 ? gw : (w->tile_x + 1) * bw;
    int y1 = w->tile_y == m->in->mosaic_h - 1 ? gh : (w->tile_y + 1) * bh;
    double sum = 0;
    for (int y = w->tile_y * bh; y < y1; y++)
        for (int x = w->tile_x * bw; x < x1; x++)
            sum += m->map[y * gw + x];
    return sum;
}

/* ratio[n_view]: r_j of view j; ratio[0] is not used. */
static void tile_ratios(const mosaic *m, double *ratio)
{
    int n = m->in->n_view;
    double top = -INFINITY, sum = 0, mean = 0;
    for (int v = 1; v < n; v++) {
        ratio[v] = block_sum(m, &m->in->view[v]);
        top = fmax(top, ratio[v]);
    }
    for (int v = 1; v < n; v++) {
        ratio[v] = exp((ratio[v] - top) / TEMPERATURE);
        sum += ratio[v];
    }
    for (int v = 1; v < n; v++) {
        ratio[v] /= sum + 1e-8;
        mean += ratio[v] / (n - 1);
    }
    for (int v = 1; v < n; v++)
        ratio[v] = m->share < 1 ? fmin(1, m->share * (1 + ratio[v] - mean)) : 1;
}

/* combined[n]: local plus global score of a tile's patches that are not padding. */
static int tile_score(const mosaic *m, const prune_view *w, const float *local, float *combined,
                      sq_error *err)
{
    double local_norm = 0, map_norm = 0;
    int left = w->tile_x * w->grid_w - m->x0, top = w->tile_y * w->grid_h - m->y0;
    for (int y = w->valid_y0; y < w->valid_y1; y++)
        for (int x = w->valid_x0; x < w->valid_x1; x++) {
            double l = local[y * w->grid_w + x], g = map_at(m, left + x, top + y);
            local_norm += l * l;
            map_norm += g * g;
        }
    local_norm = fmax(sqrt(local_norm), 1e-12); /* as torch's normalize; zero stays zero */
    map_norm = fmax(sqrt(map_norm), 1e-12);
    int n = 0;
    for (int y = w->valid_y0; y < w->valid_y1; y++)
        for (int x = w->valid_x0; x < w->valid_x1; x++)
            combined[n++] = (float)(local[y * w->grid_w + x] / local_norm +
                                    map_at(m, left + x, top + y) / map_norm);
    return score_check(combined, n, err);
}

static int plan_tile(const mosaic *m, const prune_view *w, double ratio, int base, prune_plan *plan,
                     sq_error *err)
{
    if (tile_is_empty(w)) return SQ_OK;
    int vw = w->valid_x1 - w->valid_x0, n = vw * (w->valid_y1 - w->valid_y0);
    int n_keep = (int)floor(n * ratio + 1e-9); /* equal shares must not lose one to rounding */
    arena *mem = m->in->scratch;
    float *local = arena_calloc(mem, (size_t)w->n_tok, sizeof *local);
    float *combined = arena_calloc(mem, (size_t)n, sizeof *combined);
    int *pick = arena_calloc(mem, (size_t)n, sizeof *pick);
    if (!local || !combined || !pick) return SQ_E_NOMEM;
    TRY(score_head_mean(local, w->cls_logits, w->n_head, w->n_tok, err));
    TRY(tile_score(m, w, local, combined, err));
    TRY(pick_top(combined, n, n_keep, pick, mem, err));
    for (int i = 0; i < n_keep; i++) {
        int x = w->valid_x0 + pick[i] % vw, y = w->valid_y0 + pick[i] / vw;
        TRY(plan_add_token(plan, base + y * w->grid_w + x));
    }
    return SQ_OK;
}

int globalcom2_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    TRY(input_check(in, err));
    const prune_view *whole = &in->view[0];
    float *map = arena_calloc(in->scratch, (size_t)whole->n_tok, sizeof *map);
    double *ratio = arena_calloc(in->scratch, (size_t)in->n_view, sizeof *ratio);
    if (!map || !ratio) return SQ_E_NOMEM;
    TRY(score_head_mean(map, whole->cls_logits, whole->n_head, whole->n_tok, err));
    int n_keep = prune_n_keep(in->keep, whole->n_tok, PRUNE_FLOOR);
    TRY(plan_keep_top(plan, 0, map, whole->n_tok, n_keep, in->scratch, err));
    if (in->n_view == 1) return SQ_OK;

    mosaic m = {.in = in, .share = share_of(in), .map = map};
    mosaic_measure(&m);
    tile_ratios(&m, ratio);
    for (int v = 1, base = whole->n_tok; v < in->n_view; base += in->view[v++].n_tok)
        TRY(plan_tile(&m, &in->view[v], ratio[v], base, plan, err));
    return SQ_OK;
}
