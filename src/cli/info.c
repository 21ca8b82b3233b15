#include "cli/cli.h"

#include <string.h>

const char help_info[] =
    "squint info: what a model is made of, and what is missing\n\n"
    "usage: squint info MODEL [--tensors] [--json]\n"
    "       squint info --backends [--json]\n\n"
    "      --tensors       every tensor with its type, shape and size\n"
    "      --backends      what can compute here, or why not\n"
    "      --json          for programs\n"
    CLI_MODEL_HELP
    "\nexample:\n"
    "  squint info models/demo\n";

static void json_devices(int backend)
{
    sq_device_info d;
    fputs(", \"devices\": [", stdout);
    for (int k = 0; sq_backend_get_device(backend, k, &d) == SQ_OK; k++) {
        printf("%s{\"device\": %d, \"name\": ", k ? ", " : "", k);
        cli_json_string(stdout, d.name);
        printf(", \"memory_bytes\": %zu, \"compute_capability\": \"%d.%d\", \"state\": ",
               d.memory_bytes, d.major, d.minor);
        cli_json_string(stdout, d.state);
        putchar('}');
    }
    putchar(']');
}

static int json_backends(void)
{
    sq_backend_info b;
    for (int i = 0; sq_backend_get(i, &b) == SQ_OK; i++) {
        fputs(i ? ",\n  {\"name\": " : "[\n  {\"name\": ", stdout);
        cli_json_string(stdout, b.name);
        fputs(", \"state\": ", stdout);
        cli_json_string(stdout, b.state);
        json_devices(i);
        putchar('}');
    }
    puts("\n]");
    return EXIT_DONE;
}

static int print_backends(void)
{
    sq_backend_info b;
    sq_device_info d;
    for (int i = 0; sq_backend_get(i, &b) == SQ_OK; i++) {
        printf("%-6s %s\n", b.name, b.state);
        for (int k = 0; sq_backend_get_device(i, k, &d) == SQ_OK; k++)
            printf("       device %d: %s, %.1f GB, compute capability %d.%d, %s\n", k, d.name,
                   (double)d.memory_bytes / 1e9, d.major, d.minor, d.state);
    }
    return EXIT_DONE;
}

static void print_text(const sq_model_info *i)
{
    printf("model      %s (%s), %.1f million parameters, %.1f MB of weights\n", i->path, i->arch,
           (double)i->n_param / 1e6, (double)i->weight_bytes / 1e6);
    if (i->vit_layers) {
        printf("vision     %d px, patch %d, %d tokens; %d of %d layers in the file, width %d, "
               "%d heads; features from hidden state %d\n",
               i->image_size, i->patch_size, i->n_patch, i->vit_layers_loaded, i->vit_layers,
               i->vit_dim, i->vit_heads, i->feature_layer);
        printf("pictures   fit: %s%s\n", i->fit,
               i->tiled ? "; trained on tiles, shown one view (tiles off)" : "");
    }
    printf("language   %d layers, width %d, %d heads (%d for keys and values), %d words, context "
           "%d\n",
           i->dec_layers, i->dec_dim, i->dec_heads, i->dec_heads_kv, i->n_vocab, i->n_ctx);
    printf("memory     KV cache %.1f kB a token in f32, half in f16\n",
           (double)i->kv_bytes_per_token / 1e3);
    printf("prompt     template %s, tokenizer %s\n", i->template_name, i->tokenizer);
    printf("tensors    %d in the files, %d of them not used\n", i->n_tensor, i->n_unused);
    printf("missing    %s\n", *i->missing ? i->missing : "nothing");
    printf("backend    %s\n", i->backend);
}

static void print_json(const sq_model_info *i)
{
    const struct {
        const char *name;
        long long value;
    } number[] = {{"vit_layers", i->vit_layers},
                  {"vit_layers_loaded", i->vit_layers_loaded},
                  {"vit_dim", i->vit_dim},
                  {"vit_heads", i->vit_heads},
                  {"image_size", i->image_size},
                  {"patch_size", i->patch_size},
                  {"n_patch", i->n_patch},
                  {"feature_layer", i->feature_layer},
                  {"dec_layers", i->dec_layers},
                  {"dec_dim", i->dec_dim},
                  {"dec_heads", i->dec_heads},
                  {"dec_heads_kv", i->dec_heads_kv},
                  {"n_vocab", i->n_vocab},
                  {"n_ctx", i->n_ctx},
                  {"n_param", (long long)i->n_param},
                  {"weight_bytes", (long long)i->weight_bytes},
                  {"kv_bytes_per_token", (long long)i->kv_bytes_per_token},
                  {"n_tensor", i->n_tensor},
                  {"n_unused", i->n_unused}};
    const char *const name[] = {"path", "arch", "template", "tokenizer", "backend", "fit",
                                "missing"};
    const char *const value[] = {i->path,    i->arch, i->template_name, i->tokenizer,
                                 i->backend, i->fit,  i->missing};
    fputs("{", stdout);
    for (size_t k = 0; k < sizeof name / sizeof *name; k++) {
        printf("%s\n  \"%s\": ", k ? "," : "", name[k]);
        cli_json_string(stdout, value[k]);
    }
    for (size_t k = 0; k < sizeof number / sizeof *number; k++)
        printf(",\n  \"%s\": %lld", number[k].name, number[k].value);
    printf(",\n  \"tiled\": %s", i->tiled ? "true" : "false");
}

static void print_tensors(const sq_model *m, bool json)
{
    sq_tensor_info t;
    if (json) fputs(",\n  \"tensors\": [", stdout);
    for (int i = 0; sq_model_get_tensor(m, i, &t) == SQ_OK; i++) {
        char shape[96] = "";
        for (int d = 0; d < t.rank; d++)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%lld", d ? ", " : "",
                     (long long)t.shape[d]);
        if (!json) {
            printf("  %-5s %-20s %11zu  %s%s\n", t.type, shape, t.bytes, t.name,
                   t.used ? "" : "  (not used)");
            continue;
        }
        printf("%s\n    {\"name\": ", i ? "," : "");
        cli_json_string(stdout, t.name);
        fputs(", \"type\": ", stdout);
        cli_json_string(stdout, t.type);
        printf(", \"shape\": [%s], \"bytes\": %zu, \"used\": %s}", shape, t.bytes,
               t.used ? "true" : "false");
    }
    if (json) fputs("\n  ]", stdout);
}

int cmd_info(int argc, char **argv)
{
    cli_model cm = {0};
    cli_list rest = {0};
    bool tensors = false, backends = false, json = false;
    const cli_option opt[] = {CLI_MODEL_ROWS(cm),
                              {"--tensors", NULL, CLI_FLAG, &tensors},
                              {"--backends", NULL, CLI_FLAG, &backends},
                              {"--json", NULL, CLI_FLAG, &json},
                              {NULL}};
    int code = cli_parse(argc, argv, opt, &rest, help_info);
    if (code >= 0) return code;
    if (backends && (rest.n || cm.model))
        return cli_usage("info", "--backends goes without a MODEL, found \"%s\"",
                         rest.n ? rest.item[0] : cm.model);
    if (backends) return json ? json_backends() : print_backends();
    if (rest.n + !!cm.model != 1) return cli_usage("info", "expected one MODEL");
    if (!cm.model) cm.model = rest.item[0];
    sq_model *m = NULL;
    sq_model_info info;
    code = cli_model_open(&m, "info", &cm, true);
    if (!code && sq_model_get_info(m, &info) == SQ_OK) {
        if (json)
            print_json(&info);
        else
            print_text(&info);
        if (tensors) print_tensors(m, json);
        if (json) puts("\n}");
    }
    sq_model_close(&m);
    return code;
}
