/* A plain ONNX Runtime program in C that runs a sparse engine: all that differs from any other
 * model is the one call that registers the custom-op library.
 *
 *     ./run MODEL.onnx LIBRARY.so INPUT 4,3,32,32 IN.bin OUTPUT OUT.bin [THREADS]
 *
 * IN.bin holds the float32 numbers of the input called INPUT, OUT.bin gets those of OUTPUT.
 * With THREADS, as many threads run the same model at once, and all have to say the same. */
#include "onnxruntime_c_api.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 20 /* of each thread */
#define MOST 64 /* threads, axes */
#define OLDEST 17 /* ONNX Runtime 1.17 or newer */

static const OrtApi *ort;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "run: %s: %s\n", what, why);
    exit(1);
}

static void check(OrtStatus *status) {
    if (status) fail("ONNX Runtime", ort->GetErrorMessage(status));
}

static void *room(size_t size) {
    void *found = malloc(size + 1);
    if (!found) fail("memory", "there is not enough");
    return found;
}

typedef struct {
    OrtSession *session;
    const OrtValue *input;
    const char *input_name, *output_name;
    float *result;
    size_t count;
} job;

static void *work(void *given) {
    job *j = given;
    for (int i = 0; i < RUNS; i++) {
        OrtValue *output = NULL;
        OrtTensorTypeAndShapeInfo *info;
        void *data;
        check(ort->Run(j->session, NULL, &j->input_name, &j->input, 1, &j->output_name, 1, &output));
        check(ort->GetTensorTypeAndShape(output, &info));
        check(ort->GetTensorShapeElementCount(info, &j->count));
        ort->ReleaseTensorTypeAndShapeInfo(info);
        check(ort->GetTensorMutableData(output, &data));
        if (!j->result) memcpy(j->result = room(4 * j->count), data, 4 * j->count);
        else if (memcmp(j->result, data, 4 * j->count)) fail("results", "two runs differ");
        ort->ReleaseValue(output);
    }
    return NULL;
}

static OrtSession *open_session(const OrtEnv *env, const char *model, const char *library) {
    OrtSessionOptions *options;
    OrtSession *session;
    void *handle;
    check(ort->CreateSessionOptions(&options));
    check(ort->RegisterCustomOpsLibrary(options, library, &handle)); /* here */
    check(ort->CreateSession(env, model, options, &session));
    ort->ReleaseSessionOptions(options);
    return session;
}

int main(int count, char **given) {
    if (count != 8 && count != 9) fail("usage", "run MODEL LIBRARY INPUT SHAPE IN OUTPUT OUT [THREADS]");
    const int threads = count == 9 ? atoi(given[8]) : 1;
    if (threads < 1 || threads > MOST) fail("THREADS", "1 to 64");
    ort = OrtGetApiBase()->GetApi(OLDEST);
    if (!ort) fail("ONNX Runtime", "is too old");

    int64_t shape[MOST];
    size_t rank = 0, size = 1;
    for (char *part = strtok(given[4], ","); part && rank < MOST; part = strtok(NULL, ",")) {
        shape[rank] = atoll(part);
        size *= (size_t)shape[rank++];
    }
    float *numbers = room(4 * size);
    FILE *in = fopen(given[5], "rb");
    if (!in || fread(numbers, 4, size, in) != size) fail(given[5], "cannot be read");
    fclose(in);

    OrtEnv *env;
    OrtMemoryInfo *memory;
    OrtValue *input = NULL;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run", &env));
    OrtSession *session = open_session(env, given[1], given[2]);
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, numbers, 4 * size, shape, rank,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));

    pthread_t thread[MOST];
    job jobs[MOST];
    for (int i = 0; i < threads; i++) {
        jobs[i] = (job){session, input, given[3], given[6], NULL, 0};
        if (pthread_create(&thread[i], NULL, work, &jobs[i])) fail("threads", "cannot be started");
    }
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    for (int i = 1; i < threads; i++)
        if (memcmp(jobs[i].result, jobs[0].result, 4 * jobs[0].count)) fail("results", "threads differ");

    FILE *out = fopen(given[7], "wb");
    if (!out || fwrite(jobs[0].result, 4, jobs[0].count, out) != jobs[0].count || fclose(out))
        fail(given[7], "cannot be written");
    printf("%d threads, %d runs each: all the same\n", threads, RUNS);
    for (int i = 0; i < threads; i++) free(jobs[i].result);
    ort->ReleaseValue(input);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseSession(session);
    ort->ReleaseEnv(env);
    free(numbers);
    return 0;
}
