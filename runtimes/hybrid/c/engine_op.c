/* The ONNX Runtime custom op prunedeploy::SparseEngine: one node that is a sparse engine.
 *
 * Attributes: `engine`, the bytes of an engine's model.so, or `path`, where it lies; `threads` of a
 * run (0: those that the session's entry `prunedeploy.threads` names, else what the engine was cut
 * for); `sessions`, how many runs may go on at once (0: as many as keep the processors busy). Further
 * concurrent runs wait for their turn. */
#define _GNU_SOURCE
#include "engine_file.h"

#define DOMAIN "prunedeploy"
#define THREADS "prunedeploy.threads"
#define MAX_THREADS 1024 /* PD_MAX_THREADS of an engine */
#define MAX_SESSIONS 4096
#define OLDEST 17 /* ONNX Runtime 1.17: the first whose OrtCustomOp has all that is filled here */
#define PD_API __attribute__((visibility("default")))

/* The op as one session's options registered it: with the threads that their entry names. */
typedef struct registered {
    OrtCustomOp op; /* first: ONNX Runtime hands a pointer to it back */
    int threads;    /* 0: none were named */
    OrtCustomOpDomain *domain;
    struct registered *next;
} registered;

typedef struct {
    const OrtApi *api;
    engine_file engine;
    int threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int maximum, made, idle; /* sessions: at most, started, waiting for work */
    pd_session **waiting;
} kernel;

static void end(kernel *k) {
    while (k->idle > 0) k->engine.destroy(k->waiting[--k->idle]);
    close_engine(&k->engine);
    pthread_cond_destroy(&k->changed);
    pthread_mutex_destroy(&k->lock);
    free(k->waiting);
    free(k);
}

/* -- attributes ---------------------------------------------------------------------------------- */

static int64_t number(const OrtApi *api, const OrtKernelInfo *info, const char *name) {
    int64_t value = 0;
    OrtStatus *missing = api->KernelInfoGetAttribute_int64(info, name, &value);
    if (!missing) return value;
    api->ReleaseStatus(missing);
    return 0;
}

/* An attribute with a zero behind it, for free(); null where there is none. */
static char *text(const OrtApi *api, const OrtKernelInfo *info, const char *name, size_t *size) {
    OrtStatus *status = api->KernelInfoGetAttribute_string(info, name, 0, size);
    char *value = status ? 0 : malloc(*size + 1);
    if (value) status = api->KernelInfoGetAttribute_string(info, name, value, size);
    if (status) {
        api->ReleaseStatus(status);
        free(value);
        return 0;
    }
    *size -= 1; /* which counts the zero */
    return value;
}

static OrtStatus *load(kernel *k, const OrtKernelInfo *info) {
    const OrtApi *api = k->api;
    char why[WHY] = "it has neither of the attributes `engine` and `path`";
    size_t size = 0;
    int good = 0;
    char *bytes = text(api, info, "engine", &size);
    char *path = bytes ? 0 : text(api, info, "path", &size);
    if (bytes) good = open_bytes(&k->engine, bytes, size, why);
    else if (path) good = open_path(&k->engine, path, why);
    free(bytes);
    free(path);
    if (good) return 0;
    return failure(api, ORT_FAIL, "%s", why);
}

/* -- the kernel ---------------------------------------------------------------------------------- */

static OrtStatusPtr create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                           void **out) {
    kernel *k = calloc(1, sizeof *k);
    if (!k) return failure(api, ORT_FAIL, "out of memory");
    k->api = api;
    pthread_mutex_init(&k->lock, 0);
    pthread_cond_init(&k->changed, 0);
    OrtStatus *status = load(k, info);
    if (status) {
        end(k);
        return status;
    }
    const int processors = processors_here();
    const int64_t own = number(api, info, "threads"), maximum = number(api, info, "sessions");
    const int64_t threads = own ? own : ((const registered *)op)->threads;
    const int cut = k->engine.model->threads;
    if (threads < 0 || threads > MAX_THREADS || maximum < 0 || maximum >= MAX_SESSIONS) {
        end(k);
        return failure(api, ORT_INVALID_ARGUMENT,
                       "cannot have %lld threads and %lld sessions: at most %d and %d",
                       (long long)threads, (long long)maximum, MAX_THREADS, MAX_SESSIONS - 1);
    }
    k->threads = threads > 0 ? (int)threads : cut > 0 && cut < processors ? cut : processors;
    k->maximum = maximum > 0 ? (int)maximum : processors / k->threads;
    if (k->maximum < 1) k->maximum = 1;
    k->waiting = calloc((size_t)k->maximum, sizeof *k->waiting);
    const int code = k->waiting ? k->engine.create(k->waiting, k->threads) : PD_NO_MEMORY;
    if (code) {
        status = failure(api, ORT_FAIL, "cannot start: %s", k->engine.error(code));
        end(k);
        return status;
    }
    k->made = k->idle = 1;
    *out = k;
    return 0;
}

static void destroy(void *given) { end(given); }

/* A session that nobody runs; one more where all are at work and another may be. */
static pd_session *take(kernel *k) {
    pd_session *session = 0;
    pthread_mutex_lock(&k->lock);
    while (!k->idle) {
        if (k->made < k->maximum) {
            k->made++;
            pthread_mutex_unlock(&k->lock);
            if (!k->engine.create(&session, k->threads)) return session;
            pthread_mutex_lock(&k->lock); /* no memory or threads for another: share what there is */
            k->maximum = --k->made;
        } else {
            pthread_cond_wait(&k->changed, &k->lock);
        }
    }
    session = k->waiting[--k->idle];
    pthread_mutex_unlock(&k->lock);
    return session;
}

static void give_back(kernel *k, pd_session *session) {
    pthread_mutex_lock(&k->lock);
    k->waiting[k->idle++] = session;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
}

/* The address of an input whose type and shape are those of `wanted`; the batch is noted. */
static OrtStatus *input(const OrtApi *api, const OrtKernelContext *context, size_t offset,
                        const pd_tensor *wanted, int64_t *batch, const void **data) {
    const OrtValue *value = 0;
    OrtTensorTypeAndShapeInfo *info = 0;
    OrtStatus *status = api->KernelContext_GetInput(context, offset, &value);
    if (status) return status;
    if (!value) return failure(api, ORT_INVALID_ARGUMENT, "input '%s' is missing", wanted->name);
    if ((status = api->GetTensorTypeAndShape(value, &info))) return status;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    int64_t shape[MAX_RANK];
    status = api->GetTensorElementType(info, &type);
    if (!status) status = api->GetDimensionsCount(info, &rank);
    if (!status && rank <= MAX_RANK) status = api->GetDimensions(info, shape, rank);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (status) return status;
    if (type != type_of(wanted->dtype))
        return failure(api, ORT_INVALID_ARGUMENT, "input '%s' takes %s", wanted->name, wanted->dtype);
    if (!fits(wanted, shape, rank, batch)) {
        char takes[WHY], match[WHY];
        spell(takes, wanted->shape, (size_t)wanted->rank);
        spell(match, shape, rank);
        return failure(api, ORT_INVALID_ARGUMENT, "input '%s' takes %s, found %s", wanted->name,
                       takes, match);
    }
    return api->GetTensorMutableData((OrtValue *)value, (void **)data);
}

static OrtStatus *output(const OrtApi *api, OrtKernelContext *context, size_t offset,
                         const pd_tensor *made, int64_t batch, void **data) {
    int64_t shape[MAX_RANK];
    OrtValue *value = 0;
    for (int axis = 0; axis < made->rank; axis++)
        shape[axis] = made->shape[axis] < 0 ? batch : made->shape[axis];
    OrtStatus *status =
        api->KernelContext_GetOutput(context, offset, shape, (size_t)made->rank, &value);
    if (status) return status;
    if (!value) return failure(api, ORT_INVALID_ARGUMENT, "output '%s' is not asked for: name it",
                               made->name);
    return api->GetTensorMutableData(value, data);
}

/* All of a batch, in pieces that the engine was built for. */
static OrtStatus *run(kernel *k, int64_t batch, const void **inputs, void **outputs) {
    const pd_model *model = k->engine.model;
    if (batch == 0) return 0; /* the outputs are empty */
    int *parts = 0;
    const int count = batch < 0 ? 1 : split(model, batch, &parts);
    if (!count) {
        char built[WHY];
        spell_batches(built, model);
        free(parts);
        return failure(k->api, ORT_INVALID_ARGUMENT,
                       "it was built for batches of %s, found %lld", built, (long long)batch);
    }
    int code = PD_OK;
    pd_session *session = take(k);
    for (int i = 0; i < count && !code; i++) {
        const int size = parts ? parts[i] : model->batch[0];
        code = k->engine.run(session, size, inputs, outputs);
        advance(model->input, model->inputs, (const char **)inputs, size);
        advance(model->output, model->outputs, (const char **)outputs, size);
    }
    give_back(k, session);
    free(parts);
    return code ? failure(k->api, ORT_FAIL, "%s", k->engine.error(code)) : 0;
}

static OrtStatusPtr compute(void *given, OrtKernelContext *context) {
    kernel *k = given;
    const OrtApi *api = k->api;
    const pd_model *model = k->engine.model;
    const void *inputs[MAX_TENSORS] = {0};
    void *outputs[MAX_TENSORS] = {0};
    size_t ins = 0, outs = 0;
    int64_t batch = -1; /* not known, or there is none */
    OrtStatus *status = api->KernelContext_GetInputCount(context, &ins);
    if (!status) status = api->KernelContext_GetOutputCount(context, &outs);
    if (status) return status;
    if (ins != (size_t)model->inputs || outs != (size_t)model->outputs)
        return failure(api, ORT_INVALID_ARGUMENT, "it has %d inputs and %d outputs, found %zu and %zu",
                       model->inputs, model->outputs, ins, outs);
    for (size_t i = 0; i < ins && !status; i++)
        status = input(api, context, i, &model->input[i], &batch, &inputs[i]);
    for (size_t i = 0; i < outs && !status; i++)
        status = output(api, context, i, &model->output[i], batch, &outputs[i]);
    return status ? status : run(k, batch, inputs, outputs);
}

/* -- what ONNX Runtime asks of an op ---------------------------------------------------------------- */

static void *create_old(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info) {
    void *out = 0; /* never called: version 16 and later take create */
    OrtStatus *status = create(op, api, info, &out);
    if (status) api->ReleaseStatus(status);
    return out;
}

static void compute_old(void *given, OrtKernelContext *context) {
    OrtStatus *status = compute(given, context);
    if (status) ((kernel *)given)->api->ReleaseStatus(status);
}

static const char *name(const OrtCustomOp *op) { return (void)op, "SparseEngine"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static int minimum_of(const OrtCustomOp *op) { return (void)op, 1; }
static int mixed(const OrtCustomOp *op) { return (void)op, 0; }
static int newest(const OrtCustomOp *op) { return (void)op, INT32_MAX; }
static OrtMemType memory(const OrtCustomOp *op, size_t i) {
    return (void)op, (void)i, OrtMemTypeDefault;
}
static ONNXTensorElementDataType any(const OrtCustomOp *op, size_t i) {
    return (void)op, (void)i, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}
static OrtCustomOpInputOutputCharacteristic variadic(const OrtCustomOp *op, size_t i) {
    return (void)op, (void)i, INPUT_OUTPUT_VARIADIC;
}
static size_t none(int **inputs, int **outputs) { return (void)inputs, (void)outputs, 0; }
static void nothing(int *inputs, int *outputs) { (void)inputs, (void)outputs; }

/* ONNX Runtime calls what is not null of the first `version`'s fields, and from 1.17 on some of them
 * without asking: those that have nothing to say are there as well. */
static const OrtCustomOp sparse_engine = {
    .version = OLDEST,
    .CreateKernel = create_old,
    .GetName = name,
    .GetExecutionProviderType = provider,
    .GetInputType = any,
    .GetInputTypeCount = one,
    .GetOutputType = any,
    .GetOutputTypeCount = one,
    .KernelCompute = compute_old,
    .KernelDestroy = destroy,
    .GetInputCharacteristic = variadic,
    .GetOutputCharacteristic = variadic,
    .GetInputMemoryType = memory,
    .GetVariadicInputMinArity = minimum_of,
    .GetVariadicInputHomogeneity = mixed,
    .GetVariadicOutputMinArity = minimum_of,
    .GetVariadicOutputHomogeneity = mixed,
    .CreateKernelV2 = create,
    .KernelComputeV2 = compute,
    .InferOutputShapeFn = 0, /* shapes are those that the model says */
    .GetStartVersion = minimum_of,
    .GetEndVersion = newest,
    .GetMayInplace = none,
    .ReleaseMayInplace = nothing,
    .GetAliasMap = none,
    .ReleaseAliasMap = nothing,
};

/* The number in the session's entry `prunedeploy.threads`; 0 where there is none. */
static OrtStatus *threads_of(const OrtApi *api, const OrtSessionOptions *options, int *threads) {
    char text[16] = "", *end = text;
    size_t size = sizeof text;
    int there = 0;
    *threads = 0;
    OrtStatus *status = api->HasSessionConfigEntry(options, THREADS, &there);
    if (status || !there) return status;
    status = api->GetSessionConfigEntry(options, THREADS, text, &size);
    if (!status) *threads = (int)strtol(text, &end, 10);
    if (status) api->ReleaseStatus(status);
    else if (end != text && !*end && *threads >= 0 && *threads <= MAX_THREADS) return 0;
    return failure(api, ORT_INVALID_ARGUMENT, "the entry " THREADS " takes a number from 0 to %d",
                   MAX_THREADS);
}

/* The op for so many threads, in a domain of its own. Neither is ever released: sessions may outlive
 * the options that registered them, and there is one for each number of threads. */
static OrtStatus *registration(const OrtApi *api, int threads, registered **out) {
    static registered *all;
    for (registered *each = all; each; each = each->next)
        if (each->threads == threads) return *out = each, (OrtStatus *)0;
    registered *made = calloc(1, sizeof *made);
    if (!made) return failure(api, ORT_FAIL, "out of memory");
    made->op = sparse_engine, made->threads = threads;
    OrtStatus *status = api->CreateCustomOpDomain(DOMAIN, &made->domain);
    if (!status) status = api->CustomOpDomain_Add(made->domain, &made->op);
    if (status) return free(made), status;
    made->next = all;
    return *out = all = made, (OrtStatus *)0;
}

PD_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const OrtApi *api = base->GetApi(OLDEST);
    if (!api)
        return failure(base->GetApi(1), ORT_FAIL, "it takes ONNX Runtime 1.%d or newer, this is %s",
                       OLDEST, base->GetVersionString());
    int threads = 0;
    registered *made = 0;
    OrtStatus *status = threads_of(api, options, &threads);
    if (status) return status;
    pthread_mutex_lock(&lock);
    status = registration(api, threads, &made);
    pthread_mutex_unlock(&lock);
    return status ? status : api->AddCustomOpDomain(options, made->domain);
}
