/* Run an engine of prunedeploy from C: arrays of raw bytes in, arrays of raw bytes out, and how
 * long it takes.
 *
 *     ./run IN.bin OUT.bin [BATCH [THREADS]]
 *
 * IN.bin holds all inputs one after the other, OUT.bin gets all outputs so. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 20
#define MOST 16 /* inputs, outputs */

static size_t bytes_of(const pd_tensor *tensor, int batch) {
    size_t size = strcmp(tensor->dtype, "float32") == 0 || strcmp(tensor->dtype, "int32") == 0 ? 4
                : strcmp(tensor->dtype, "bool") == 0                                           ? 1
                                                                                               : 8;
    for (int axis = 0; axis < tensor->rank; axis++)
        size *= tensor->shape[axis] < 0 ? (size_t)batch : (size_t)tensor->shape[axis];
    return size;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "run: %s: %s\n", what, why);
    exit(1);
}

static void *room(size_t size) {
    void *found = calloc(1, size);
    if (!found) fail("memory", pd_error(PD_NO_MEMORY));
    return found;
}

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int count, char **given) {
    const pd_model *model = pd_info();
    if (count < 3 || count > 5) fail("usage", "run IN.bin OUT.bin [BATCH [THREADS]]");
    if (model->abi != PD_ABI) fail("engine", "built for another version of model.h");
    if (model->inputs > MOST || model->outputs > MOST) fail("engine", "too many inputs or outputs");
    const int batch = count > 3 ? atoi(given[3]) : model->batch[0];
    const int threads = count > 4 ? atoi(given[4]) : model->threads;
    const void *inputs[MOST];
    void *outputs[MOST];

    FILE *in = fopen(given[1], "rb");
    if (!in) fail(given[1], "cannot be read");
    for (int i = 0; i < model->inputs; i++) {
        const size_t size = bytes_of(&model->input[i], batch);
        void *data = room(size);
        if (fread(data, 1, size, in) != size) fail(given[1], "is too short for the inputs");
        inputs[i] = data;
    }
    fclose(in);
    for (int i = 0; i < model->outputs; i++) outputs[i] = room(bytes_of(&model->output[i], batch));

    pd_session *session;
    int code = pd_create(&session, threads);
    if (code) fail("pd_create", pd_error(code));
    double best = 1e30;
    for (int i = 0; i < RUNS && !code; i++) {
        const double begin = now();
        code = pd_run(session, batch, inputs, outputs);
        const double took = now() - begin;
        if (took < best) best = took;
    }
    pd_destroy(session);
    if (code) fail("pd_run", pd_error(code));
    printf("%s, batch %d, %d threads: %.3f ms\n", model->isa, batch, threads, 1e3 * best);

    FILE *out = fopen(given[2], "wb");
    if (!out) fail(given[2], "cannot be written");
    for (int i = 0; i < model->outputs; i++) {
        const size_t size = bytes_of(&model->output[i], batch);
        if (fwrite(outputs[i], 1, size, out) != size) fail(given[2], "cannot be written");
        free(outputs[i]);
    }
    if (fclose(out)) fail(given[2], "cannot be written");
    for (int i = 0; i < model->inputs; i++) free((void *)inputs[i]);
    return 0;
}
