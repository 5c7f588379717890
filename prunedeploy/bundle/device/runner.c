/* Runs a sparse engine: computes inputs, compares with recorded outputs, takes its time.
 *
 *     ./runner --check ../check/tensors.txt --rounds 100
 *     ./runner --input image.npy --output out
 *
 * Inputs are .npy files, or raw bytes in C order; more samples than the engine's batch are computed
 * one batch after the other. Prints one JSON document. Exit status: 0 done; 1 the outputs are not
 * the recorded ones; 2 a mistake, told in one line. Needs the C library and model.so beside it. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "pd_engine.h"

#define MAX_TENSORS 64 /* inputs, outputs */
#define PATH 4096

static void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("runner: error: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(2);
}

static void *reserve(size_t bytes) {
    void *match = NULL;
    if (posix_memalign(&match, 64, bytes + 64)) fail("no memory for %zu bytes", bytes);
    memset(match, 0, bytes + 64); /* touched before it is timed */
    return match;
}

/* -- types ------------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *code;
    size_t bytes;
} dtype;

static const dtype dtypes[] = {
    {"float32", "<f4", 4}, {"float64", "<f8", 8}, {"float16", "<f2", 2}, {"int64", "<i8", 8},
    {"int32", "<i4", 4},   {"int16", "<i2", 2},   {"int8", "|i1", 1},    {"uint8", "|u1", 1},
    {"uint16", "<u2", 2},  {"uint32", "<u4", 4},  {"uint64", "<u8", 8},  {"bool", "|b1", 1},
};

static const dtype *dtype_of(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name)) return &dtypes[i];
    fail("elements of type %s are not known here", name);
    return NULL;
}

/* Element i as a number. */
static double element(const dtype *type, const void *data, size_t i) {
    const char *at = (const char *)data + i * type->bytes;
    switch (type->code[1] * 16 + (int)type->bytes) {
#define CASE(letter, bytes, kind)  \
    case letter * 16 + bytes: {    \
        kind value;                \
        memcpy(&value, at, bytes); \
        return (double)value;      \
    }
        CASE('f', 4, float)
        CASE('f', 8, double)
        CASE('i', 8, int64_t)
        CASE('i', 4, int32_t)
        CASE('i', 2, int16_t)
        CASE('i', 1, int8_t)
        CASE('u', 8, uint64_t)
        CASE('u', 4, uint32_t)
        CASE('u', 2, uint16_t)
        CASE('u', 1, uint8_t)
        CASE('b', 1, uint8_t)
#undef CASE
    }
    fail("%s outputs cannot be compared here", type->name);
    return 0;
}

/* -- tensors and files ------------------------------------------------------------------------- */

typedef struct {
    const pd_tensor *is;
    const dtype *type;
    size_t one;         /* elements of one run */
    size_t count;       /* elements of all runs */
    char *data;         /* of all runs */
    char *wanted;       /* the recorded output, or null */
    char file[PATH];    /* where the input or the recorded output is */
} tensor;

static char *slurp(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    struct stat about;
    if (!file) fail("cannot read %s: %s", path, strerror(errno));
    if (fstat(fileno(file), &about)) fail("cannot read %s: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode)) fail("cannot read %s: it is not a file", path);
    *size = (size_t)about.st_size;
    char *data = reserve(*size);
    if (fread(data, 1, *size, file) != *size) fail("cannot read %s: it is too short", path);
    fclose(file);
    return data;
}

/* The array in a file: of .npy its data, type checked; of any other file all of it. */
static char *array(const char *path, const tensor *t, size_t *count) {
    size_t size, skip = 0;
    char *data = slurp(path, &size);
    if (size >= 10 && !memcmp(data, "\x93NUMPY", 6)) {
        const unsigned char *u = (const unsigned char *)data;
        size_t header = u[8] | u[9] << 8, from = 10;
        if (u[6] > 1) {
            if (size < 12) fail("%s is damaged", path);
            header |= (size_t)u[10] << 16 | (size_t)u[11] << 24;
            from = 12;
        }
        skip = from + header;
        if (skip > size || !header) fail("%s is damaged", path);
        data[skip - 1] = 0;
        const char *said = data + from;
        char quoted[16];
        snprintf(quoted, sizeof quoted, "'%s'", t->type->code);
        if (!strstr(said, quoted)) fail("%s is not %s, which %s is", path, t->type->name, t->is->name);
        if (strstr(said, "'fortran_order': True")) fail("%s is not in C order", path);
    }
    size -= skip;
    if (!size || size % (t->one * t->type->bytes))
        fail("%s holds %zu bytes for %s, not a multiple of %zu", path, size, t->is->name,
             t->one * t->type->bytes);
    *count = size / t->type->bytes;
    char *match = reserve(size); /* aligned, which what follows a header need not be */
    memcpy(match, data + skip, size);
    free(data);
    return match;
}

static void write_npy(const char *path, const tensor *t, size_t parts, int batch) {
    char shape[1024] = "", header[1400];
    for (int i = 0; i < t->is->rank; i++) {
        long long dim = t->is->shape[i] == -1 ? (long long)batch * (long long)parts
                                              : (long long)t->is->shape[i];
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%lld,", dim);
    }
    int length = snprintf(header, sizeof header,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                          t->type->code, shape);
    int padded = (length + 1 + 10 + 63) / 64 * 64 - 10;
    FILE *file = fopen(path, "wb");
    if (!file) fail("cannot write %s: %s", path, strerror(errno));
    fwrite("\x93NUMPY\x01", 1, 7, file);
    fputc(0, file);
    fputc(padded & 255, file);
    fputc(padded >> 8, file);
    fprintf(file, "%s%*s\n", header, padded - 1 - length, "");
    size_t wrote = fwrite(t->data, t->type->bytes, t->count, file);
    if (fclose(file) || wrote != t->count) fail("cannot write %s: %s", path, strerror(errno));
}

/* -- options ----------------------------------------------------------------------------------- */

typedef struct {
    const char *check, *output;
    int threads, rounds, warmup, batch;
    double tolerance;
} options;

static int find(const tensor *tensors, int count, const char *name, size_t length) {
    for (int i = 0; i < count; i++)
        if (strlen(tensors[i].is->name) == length && !strncmp(tensors[i].is->name, name, length))
            return i;
    return -1;
}

/* FILE for the only input, or NAME=FILE. */
static void take_input(tensor *inputs, int count, const char *given) {
    const char *file = given;
    int index = -1;
    for (const char *at = strchr(given, '='); at && index < 0; at = strchr(at + 1, '=')) {
        index = find(inputs, count, given, (size_t)(at - given));
        file = index < 0 ? given : at + 1;
    }
    if (index < 0 && count > 1) fail("--input %s: write NAME=FILE, there are %d inputs", given, count);
    snprintf(inputs[index < 0 ? 0 : index].file, PATH, "%s", file);
}

/* Lines "input<TAB>name<TAB>file"; files are beside it. */
static void take_check(tensor *in, int inputs, tensor *out, int outputs, const char *path) {
    size_t size;
    char *text = slurp(path, &size), *rest = text, *line;
    text[size] = 0;
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    while ((line = strsep(&rest, "\n")))
        if (*line) {
            char *what = strsep(&line, "\t"), *name = strsep(&line, "\t");
            if (!name || !line) fail("%s is damaged", path);
            int is_input = !strcmp(what, "input");
            tensor *list = is_input ? in : out;
            int index = find(list, is_input ? inputs : outputs, name, strlen(name));
            if (index < 0) fail("the engine has no %s %s", what, name);
            snprintf(list[index].file, PATH, "%.*s%s", folder, path, line);
        }
    free(text);
}

static double number(const char *text, const char *option, double minimum) {
    char *end;
    double match = strtod(text, &end);
    if (!*text || *end || !(match >= minimum)) fail("%s %s: give a number from %g", option, text, minimum);
    return match;
}

/* -- the difference ---------------------------------------------------------------------------- */

typedef struct {
    double abs, rel;
    const char *where;
    long changed;
} difference;

/* The larger one; NaN is the worst of all. */
static double worse(double a, double b) { return isnan(a) || a >= b ? a : b; }

/* As prunedeploy.reference.verify: relative to the range of the recorded output, or to its size where it does
 * not vary; rows of two dimensions are predictions. */
static void compare(const tensor *t, difference *worst) {
    double low = INFINITY, high = -INFINITY, size = 0, maximum = 0;
    for (size_t i = 0; i < t->count; i++) {
        double left = element(t->type, t->wanted, i), right = element(t->type, t->data, i);
        int same = left == right || (isnan(left) && isnan(right));
        double distance = same ? 0 : fabs(left - right);
        maximum = worse(maximum, distance);
        if (!isfinite(left)) continue;
        low = fmin(low, left);
        high = fmax(high, left);
        size = fmax(size, fabs(left));
    }
    double span = high - low, scale = span > ldexp(1, -18) * size ? span : size;
    if (!isfinite(scale) || scale <= 0) scale = 1;
    if (worse(worst->rel, maximum / scale) != worst->rel) worst->where = t->is->name;
    worst->abs = worse(worst->abs, maximum);
    worst->rel = worse(worst->rel, maximum / scale);
    if (t->is->rank != 2 || t->is->shape[1] < 2) return;
    size_t classes = (size_t)t->is->shape[1];
    long changed = 0;
    for (size_t row = 0; row + classes <= t->count; row += classes) {
        size_t best[2] = {0, 0};
        for (size_t i = 1; i < classes; i++) {
            if (element(t->type, t->wanted, row + i) > element(t->type, t->wanted, row + best[0]))
                best[0] = i;
            if (element(t->type, t->data, row + i) > element(t->type, t->data, row + best[1]))
                best[1] = i;
        }
        changed += best[0] != best[1];
    }
    if (changed > worst->changed) worst->changed = changed;
}

/* -- the run ----------------------------------------------------------------------------------- */

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t run(pd_session *session, int batch, const tensor *in, int inputs, const tensor *out,
                   int outputs, size_t piece) {
    const void *from[MAX_TENSORS];
    void *to[MAX_TENSORS];
    for (int i = 0; i < inputs; i++) from[i] = in[i].data + piece * in[i].one * in[i].type->bytes;
    for (int i = 0; i < outputs; i++) to[i] = out[i].data + piece * out[i].one * out[i].type->bytes;
    int64_t begin = now();
    int code = pd_run(session, batch, from, to);
    if (code) fail("%s", pd_error(code));
    return now() - begin;
}

static int by_size(const void *a, const void *b) {
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* -- what is printed --------------------------------------------------------------------------- */

static void json(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < 32 || *c == '"' || *c == '\\')
            printf("\\u%04x", *c);
        else
            putchar(*c);
    putchar('"');
}

static void json_number(const char *name, double value) {
    if (isfinite(value))
        printf(", \"%s\": %.9g", name, value);
    else
        printf(", \"%s\": null", name);
}

static void print_times(const int64_t *samples, int rounds) {
    if (!rounds) return;
    int64_t *sorted = reserve((size_t)rounds * sizeof *sorted);
    memcpy(sorted, samples, (size_t)rounds * sizeof *sorted);
    qsort(sorted, (size_t)rounds, sizeof *sorted, by_size);
    const int percent[] = {50, 90, 99};
    for (int i = 0; i < 3; i++) {
        int at = (rounds - 1) * percent[i] / 100;
        printf(", \"p%d_ms\": %.6g", percent[i], (double)sorted[at] / 1e6);
    }
    printf(",\n \"samples_ns\": [");
    for (int i = 0; i < rounds; i++) printf("%s%lld", i ? ", " : "", (long long)samples[i]);
    putchar(']');
    free(sorted);
}

static int parse(int argc, char **argv, options *o, tensor *in, int inputs) {
    int given = 0;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[++i] : NULL;
        if (!value) fail("%s needs a value: see the head of runner.c", name);
        if (!strcmp(name, "--check")) o->check = value;
        else if (!strcmp(name, "--output")) o->output = value;
        else if (!strcmp(name, "--input")) take_input(in, inputs, value), given = 1;
        else if (!strcmp(name, "--threads")) o->threads = (int)number(value, name, 0);
        else if (!strcmp(name, "--rounds")) o->rounds = (int)number(value, name, 0);
        else if (!strcmp(name, "--warmup")) o->warmup = (int)number(value, name, 0);
        else if (!strcmp(name, "--batch")) o->batch = (int)number(value, name, 1);
        else if (!strcmp(name, "--tolerance")) o->tolerance = number(value, name, 0);
        else fail("no option %s: see the head of runner.c", name);
    }
    if (!given && !o->check) fail("give --check FILE or --input FILE: see the head of runner.c");
    return given;
}

static size_t describe(tensor *list, const pd_tensor *tensors, int count, int batch) {
    if (count > MAX_TENSORS) fail("more than %d inputs or outputs", MAX_TENSORS);
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        list[i].is = &tensors[i];
        list[i].type = dtype_of(tensors[i].dtype);
        list[i].one = 1;
        for (int k = 0; k < tensors[i].rank; k++)
            list[i].one *= (size_t)(tensors[i].shape[k] == -1 ? batch : tensors[i].shape[k]);
        bytes += list[i].one * list[i].type->bytes;
    }
    return bytes;
}

/* Read all inputs; how many runs they are. */
static size_t read_inputs(tensor *in, int inputs) {
    size_t parts = 0;
    for (int i = 0; i < inputs; i++) {
        if (!*in[i].file) fail("no file for input %s: give --input %s=FILE", in[i].is->name, in[i].is->name);
        in[i].data = array(in[i].file, &in[i], &in[i].count);
        size_t match = in[i].count / in[i].one;
        if (parts && match != parts) fail("%s holds %zu batches, others %zu", in[i].file, match, parts);
        parts = match;
    }
    return parts ? parts : 1;
}

int main(int argc, char **argv) {
    static tensor in[MAX_TENSORS], out[MAX_TENSORS];
    const pd_model *model = pd_info();
    options o = {.rounds = 100, .warmup = 10, .tolerance = 1e-5, .batch = 0};
    if (model->abi != PD_ABI) fail("model.so is of another version than this program");
    describe(in, model->input, model->inputs, 1);
    int own = parse(argc, argv, &o, in, model->inputs);
    int batch = o.batch ? o.batch : model->batch[model->batches - 1];
    describe(in, model->input, model->inputs, batch);
    describe(out, model->output, model->outputs, batch);
    if (!own) take_check(in, model->inputs, out, model->outputs, o.check);

    size_t parts = read_inputs(in, model->inputs);
    for (int i = 0; i < model->outputs; i++) {
        tensor *t = &out[i];
        t->count = t->one * parts;
        t->data = reserve(t->count * t->type->bytes);
        size_t count = t->count;
        if (*t->file) t->wanted = array(t->file, t, &count);
        if (count != t->count) fail("%s is not as long as the inputs", t->file);
    }

    pd_session *session;
    int code = pd_create(&session, o.threads ? o.threads : model->threads);
    if (code) fail("%s", pd_error(code));
    for (size_t piece = 0; piece < parts; piece++)
        run(session, batch, in, model->inputs, out, model->outputs, piece);
    difference worst = {0, 0, "", 0};
    for (int i = 0; i < model->outputs; i++)
        if (out[i].wanted) compare(&out[i], &worst);

    int64_t *samples = reserve((size_t)o.rounds * sizeof *samples);
    for (int i = -o.warmup; i < o.rounds; i++) {
        size_t piece = (size_t)(i + o.warmup) % parts;
        int64_t taken = run(session, batch, in, model->inputs, out, model->outputs, piece);
        if (i >= 0) samples[i] = taken;
    }
    pd_destroy(session);

    int passed = worst.rel <= o.tolerance;
    printf("{\"type\": \"Runner\", \"isa\": ");
    json(model->isa);
    printf(", \"version\": ");
    json(model->version);
    printf(", \"batch\": %d, \"runs\": %zu, \"threads\": %d", batch, parts,
           o.threads ? o.threads : model->threads);
    if (!own) {
        printf(",\n \"passed\": %s, \"where\": ", passed ? "true" : "false");
        json(worst.where);
        json_number("max_abs", worst.abs);
        json_number("max_rel", worst.rel);
        json_number("tolerance", o.tolerance);
        printf(", \"changed_predictions\": %ld", worst.changed);
    }
    printf(",\n \"outputs\": [");
    for (int i = 0; i < model->outputs; i++) {
        char path[PATH + 64] = "";
        if (o.output) {
            snprintf(path, sizeof path, "%s/output_%d.npy", o.output, i);
            write_npy(path, &out[i], parts, batch);
        }
        printf("%s{\"name\": ", i ? ", " : "");
        json(out[i].is->name);
        printf(", \"file\": \"output_%d.npy\"}", i);
    }
    printf("],\n \"rounds\": %d", o.rounds);
    print_times(samples, o.rounds);
    printf("}\n");
    return own || passed ? 0 : 1;
}
