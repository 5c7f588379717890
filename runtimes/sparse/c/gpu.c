/* Sessions on a GPU: a module, memory, and the launches one after the other. libcuda is opened when
 * the first session starts, and nothing else of CUDA is needed.
 *
 * Where the engine has cubins for this GPU they are loaded; where one cannot be, the driver compiles
 * the PTX. From the second run of a batch size on its launches are one CUDA graph, where the driver
 * has graphs; where it refuses, they stay launches. */
#define _GNU_SOURCE
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PD_API __attribute__((visibility("default")))
#define PD_DRIVER 10020 /* CUDA 10.2: the first whose driver reads PTX 6.4 is 10.1 */
#define PD_MAX_POINTERS 16

/* Results of the driver (cuda.h, CUresult). */
enum {
    CU_OUT_OF_MEMORY = 2,
    CU_NO_DEVICE = 100,
    CU_INVALID_PTX = 218,
    CU_NO_BINARY = 209,
    CU_UNSUPPORTED_PTX = 222
};

typedef uint64_t pd_device; /* an address on the GPU */

/* The functions of the driver, by the names that CUDA 10.2 and all later versions have. */
typedef struct {
    int (*init)(unsigned);
    int (*version)(int *);
    int (*device)(int *, int);
    int (*attribute)(int *, int, int);
    int (*retain)(void **, int);
    int (*release)(int);
    int (*set_current)(void *);
    int (*load)(void **, const void *);
    int (*unload)(void *);
    int (*function)(void **, void *, const char *);
    int (*allocate)(pd_device *, size_t);
    int (*free)(pd_device);
    int (*upload)(pd_device, const void *, size_t);
    int (*download)(void *, pd_device, size_t);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
        void *, void **, void **);
    int (*synchronize)(void);
    /* From here on of graphs: what a driver lacks is null. */
    int (*stream)(void **, unsigned);
    int (*end_stream)(void *);
    int (*wait)(void *);
    int (*begin_capture)(void *, int);
    int (*end_capture)(void *, void **);
    int (*make)(void **, void *, uint64_t);              /* of CUDA 11.4 and newer */
    int (*make_logged)(void **, void *, void **, char *, size_t); /* of CUDA 11.0 and newer */
    int (*make_first)(void **, void *, void **, char *, size_t);  /* of CUDA 10 */
    int (*start)(void *, void *);
    int (*end_executable)(void *);
    int (*end_graph)(void *);
} pd_driver;

/* The graph of a plan: none yet, one, or none to come. */
typedef struct {
    enum { PD_NEW, PD_RAN, PD_READY, PD_REFUSED } state;
    void *graph, *executable;
} pd_graph;

struct pd_session {
    pthread_mutex_t running;
    int device, lost, profiling, ran;
    void *context, *stream;
    int modules;      /* how many there are */
    void **module;    /* the PTX, or all cubins */
    void **functions; /* one a launch, of all plans */
    double *seconds;  /* the same */
    pd_graph *graphs; /* one a plan */
    pd_device memory;
};

static pd_driver pd_cuda;
static int pd_driver_code = PD_NO_GPU;
static pthread_once_t pd_opened = PTHREAD_ONCE_INIT;

static void pd_open_driver(void) {
    static const struct {
        const char *name;
        size_t field;
    } wanted[] = {
        {"cuInit", offsetof(pd_driver, init)},
        {"cuDriverGetVersion", offsetof(pd_driver, version)},
        {"cuDeviceGet", offsetof(pd_driver, device)},
        {"cuDeviceGetAttribute", offsetof(pd_driver, attribute)},
        {"cuDevicePrimaryCtxRetain", offsetof(pd_driver, retain)},
        {"cuDevicePrimaryCtxRelease", offsetof(pd_driver, release)},
        {"cuCtxSetCurrent", offsetof(pd_driver, set_current)},
        {"cuModuleLoadData", offsetof(pd_driver, load)},
        {"cuModuleUnload", offsetof(pd_driver, unload)},
        {"cuModuleGetFunction", offsetof(pd_driver, function)},
        {"cuMemAlloc_v2", offsetof(pd_driver, allocate)},
        {"cuMemFree_v2", offsetof(pd_driver, free)},
        {"cuMemcpyHtoD_v2", offsetof(pd_driver, upload)},
        {"cuMemcpyDtoH_v2", offsetof(pd_driver, download)},
        {"cuLaunchKernel", offsetof(pd_driver, launch)},
        {"cuCtxSynchronize", offsetof(pd_driver, synchronize)},
        {"cuStreamCreate", offsetof(pd_driver, stream)},
        {"cuStreamDestroy_v2", offsetof(pd_driver, end_stream)},
        {"cuStreamSynchronize", offsetof(pd_driver, wait)},
        {"cuStreamBeginCapture_v2", offsetof(pd_driver, begin_capture)},
        {"cuStreamEndCapture", offsetof(pd_driver, end_capture)},
        {"cuGraphInstantiateWithFlags", offsetof(pd_driver, make)},
        {"cuGraphInstantiate_v2", offsetof(pd_driver, make_logged)},
        {"cuGraphInstantiate", offsetof(pd_driver, make_first)},
        {"cuGraphLaunch", offsetof(pd_driver, start)},
        {"cuGraphExecDestroy", offsetof(pd_driver, end_executable)},
        {"cuGraphDestroy", offsetof(pd_driver, end_graph)},
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(library, wanted[i].name);
        if (!symbol && wanted[i].field < offsetof(pd_driver, stream)) {
            pd_driver_code = PD_OLD_DRIVER;
            return;
        }
        memcpy((char *)&pd_cuda + wanted[i].field, &symbol, sizeof symbol);
    }
    int version = 0;
    const int result = pd_cuda.init(0);
    if (result == CU_NO_DEVICE || (result && pd_cuda.version(&version))) return;
    if (!version && pd_cuda.version(&version)) return;
    pd_driver_code = version < PD_DRIVER ? PD_OLD_DRIVER : result ? PD_NO_GPU : PD_OK;
}

/* The code of an engine for a result of the driver. */
static int pd_code_of(int result) {
    switch (result) {
    case 0: return PD_OK;
    case CU_OUT_OF_MEMORY: return PD_NO_GPU_MEMORY;
    case CU_NO_DEVICE: return PD_NO_GPU;
    case CU_INVALID_PTX:
    case CU_UNSUPPORTED_PTX: return PD_OLD_DRIVER;
    case CU_NO_BINARY: return PD_BAD_GPU;
    default: return PD_GPU_LOST;
    }
}

static const pd_gpu_plan *pd_find(int batch) {
    for (int i = 0; i < pd_this_model.batches; i++)
        if (pd_gpu_plans[i].batch == batch) return &pd_gpu_plans[i];
    return 0;
}

/* Where the launches of a plan begin among those of all; for one past the last: how many. */
static size_t pd_first(const pd_gpu_plan *plan) {
    size_t count = 0;
    for (const pd_gpu_plan *before = pd_gpu_plans; before < plan; before++)
        count += (size_t)before->count;
    return count;
}

/* -- the interface ------------------------------------------------------------------------------- */

PD_API const pd_model *pd_info(void) { return &pd_this_model; }

static void pd_unload(pd_session *s) {
    while (s->modules) pd_cuda.unload(s->module[--s->modules]);
}

/* All cubins where the engine has some for this GPU; where one does not load, none. */
static int pd_load_cubins(pd_session *s, int major) {
    if (!pd_cubin_count || major != pd_capability / 10) return 0;
    for (; s->modules < pd_cubin_count; s->modules++) {
        if (!pd_cuda.load(&s->module[s->modules], pd_code + pd_cubin_begin[s->modules])) continue;
        pd_unload(s);
        return 0;
    }
    return 1;
}

/* The GPU, its module and its memory; what there is of them is in `s` whatever happens. */
static int pd_start(pd_session *s) {
    int result, major = 0, minor = 0;
    if ((result = pd_cuda.device(&s->device, 0))) return PD_NO_GPU;
    if (pd_cuda.attribute(&major, 75, s->device) || pd_cuda.attribute(&minor, 76, s->device))
        return PD_NO_GPU;
    if (10 * major + minor < pd_capability) return PD_BAD_GPU;
    if ((result = pd_cuda.retain(&s->context, s->device))) {
        s->context = 0;
        return pd_code_of(result);
    }
    if ((result = pd_cuda.set_current(s->context))) return pd_code_of(result);
    const int cubins = pd_load_cubins(s, major);
    if (!cubins) {
        if ((result = pd_cuda.load(&s->module[0], pd_code))) return pd_code_of(result);
        s->modules = 1;
    }
    size_t size = 0, number = 0;
    for (int i = 0; i < pd_this_model.batches; i++) {
        const pd_gpu_plan *plan = &pd_gpu_plans[i];
        if (plan->memory > size) size = plan->memory;
        for (int n = 0; n < plan->count; n++, number++) {
            const char *entry = plan->launch[n].entry;
            void *module = s->module[cubins ? pd_cubin_of[number] : 0];
            if ((result = pd_cuda.function(&s->functions[number], module, entry)))
                return pd_code_of(result);
        }
    }
    if ((result = pd_cuda.allocate(&s->memory, size + 1))) {
        s->memory = 0;
        return pd_code_of(result);
    }
    if (!pd_this_model.weights) return PD_OK;
    return pd_code_of(pd_cuda.upload(s->memory, pd_weights, pd_this_model.weights));
}

PD_API void pd_destroy(pd_session *s) {
    if (!s) return;
    if (s->context) {
        pd_cuda.set_current(s->context);
        if (s->memory) pd_cuda.free(s->memory);
        for (int i = 0; s->graphs && i < pd_this_model.batches; i++)
            if (s->graphs[i].state == PD_READY) {
                pd_cuda.end_executable(s->graphs[i].executable);
                pd_cuda.end_graph(s->graphs[i].graph);
            }
        if (s->stream) pd_cuda.end_stream(s->stream);
        if (s->module) pd_unload(s);
        pd_cuda.release(s->device);
    }
    pthread_mutex_destroy(&s->running);
    free(s->module);
    free(s->functions);
    free(s->seconds);
    free(s->graphs);
    free(s);
}

PD_API int pd_create(pd_session **session, int threads) {
    if (!session || threads < 0) return PD_BAD_ARGUMENT;
    *session = 0;
    pthread_once(&pd_opened, pd_open_driver);
    if (pd_driver_code) return pd_driver_code;
    pd_session *s = calloc(1, sizeof *s);
    if (!s) return PD_NO_MEMORY;
    pthread_mutex_init(&s->running, 0);
    const size_t count = pd_first(pd_gpu_plans + pd_this_model.batches) + 1;
    s->functions = calloc(count, sizeof *s->functions);
    s->seconds = calloc(count, sizeof *s->seconds);
    s->module = calloc((size_t)pd_cubin_count + 1, sizeof *s->module);
    s->graphs = calloc((size_t)pd_this_model.batches + 1, sizeof *s->graphs);
    const int all = s->module && s->functions && s->seconds && s->graphs;
    const int code = all ? pd_start(s) : PD_NO_MEMORY;
    if (code) {
        pd_destroy(s);
        return code;
    }
    *session = s;
    return PD_OK;
}

static double pd_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All launches of a plan, in the session's stream where there is one; noting times, one by one. */
static int pd_launch_all(pd_session *s, const pd_gpu_plan *plan) {
    const size_t first = pd_first(plan);
    for (int n = 0; n < plan->count; n++) {
        const pd_launch *l = &plan->launch[n];
        pd_device pointers[PD_MAX_POINTERS];
        void *arguments[PD_MAX_POINTERS];
        for (int i = 0; i < l->pointers; i++) {
            pointers[i] = s->memory + l->offset[i];
            arguments[i] = &pointers[i];
        }
        const double begin = s->profiling ? pd_now() : 0;
        int result = pd_cuda.launch(s->functions[first + (size_t)n], l->grid_x, l->grid_y, 1,
            l->block, 1, 1, 0, s->stream, arguments, 0);
        if (!result && s->profiling) result = pd_cuda.synchronize();
        if (result) return result;
        if (s->profiling) s->seconds[first + (size_t)n] = pd_now() - begin;
    }
    return 0;
}

static int pd_instantiate(pd_graph *g) {
    void *node = 0;
    char log[256];
    if (pd_cuda.make) return pd_cuda.make(&g->executable, g->graph, 0);
    if (pd_cuda.make_logged)
        return pd_cuda.make_logged(&g->executable, g->graph, &node, log, sizeof log);
    return pd_cuda.make_first(&g->executable, g->graph, &node, log, sizeof log);
}

/* Record the launches of a plan as a graph, once; where anything of it fails there is none. */
static void pd_capture(pd_session *s, const pd_gpu_plan *plan, pd_graph *g) {
    const int possible = pd_cuda.stream && pd_cuda.end_stream && pd_cuda.wait && pd_cuda.begin_capture
        && pd_cuda.end_capture && pd_cuda.start && pd_cuda.end_executable && pd_cuda.end_graph
        && (pd_cuda.make || pd_cuda.make_logged || pd_cuda.make_first);
    g->state = PD_REFUSED;
    if (!possible || !plan->count) return;
    if (!s->stream && pd_cuda.stream(&s->stream, 0)) {
        s->stream = 0;
        return;
    }
    if (pd_cuda.begin_capture(s->stream, 1)) return; /* what other threads do is not captured */
    const int failed = pd_launch_all(s, plan);
    if (pd_cuda.end_capture(s->stream, &g->graph)) return;
    if (!failed && !pd_instantiate(g)) g->state = PD_READY;
    else pd_cuda.end_graph(g->graph);
}

/* Compute a plan, and wait for its end. Its first run is of launches, so that code that a driver
 * loads late is there when the graph is captured. */
static int pd_compute(pd_session *s, const pd_gpu_plan *plan) {
    pd_graph *g = &s->graphs[plan - pd_gpu_plans];
    if (g->state == PD_RAN && !s->profiling) pd_capture(s, plan, g);
    if (g->state == PD_READY && !s->profiling) {
        const int result = pd_cuda.start(g->executable, s->stream);
        return result ? result : pd_cuda.wait(s->stream);
    }
    int result = pd_launch_all(s, plan);
    if (!result) result = pd_cuda.synchronize();
    if (!result && g->state == PD_NEW) g->state = PD_RAN;
    return result;
}

/* `error` becomes what a kernel noted: an index that its table does not have. */
static int pd_run_plan(pd_session *s, const pd_gpu_plan *plan, const void *const *inputs,
    void *const *outputs, uint32_t *error) {
    int result = pd_cuda.set_current(s->context);
    if (!result && plan->checks)
        result = pd_cuda.upload(s->memory + plan->error, error, sizeof *error);
    for (int i = 0; !result && i < pd_this_model.inputs; i++)
        if (plan->input_size[i])
            result = pd_cuda.upload(s->memory + plan->input[i], inputs[i], plan->input_size[i]);
    if (!result) result = pd_compute(s, plan);
    if (!result && plan->checks)
        result = pd_cuda.download(error, s->memory + plan->error, sizeof *error);
    if (*error) return result;
    for (int i = 0; !result && i < pd_this_model.outputs; i++)
        if (plan->output_size[i])
            result = pd_cuda.download(outputs[i], s->memory + plan->output[i], plan->output_size[i]);
    return result;
}

PD_API int pd_run(pd_session *s, int batch, const void *const *inputs, void *const *outputs) {
    const pd_gpu_plan *plan = pd_find(batch);
    if (!s || (!inputs && pd_this_model.inputs) || (!outputs && pd_this_model.outputs))
        return PD_BAD_ARGUMENT;
    for (int i = 0; i < pd_this_model.inputs; i++)
        if (!inputs[i]) return PD_BAD_ARGUMENT;
    for (int i = 0; i < pd_this_model.outputs; i++)
        if (!outputs[i]) return PD_BAD_ARGUMENT;
    if (!plan) return PD_BAD_BATCH;
    pthread_mutex_lock(&s->running);
    int code = s->lost;
    if (!code) {
        uint32_t error = PD_OK;
        code = pd_code_of(pd_run_plan(s, plan, inputs, outputs, &error));
        if (code == PD_GPU_LOST) s->lost = code; /* nothing of its context works any more */
        if (!code) s->ran = 1;
        if (!code) code = (int)error;
    }
    pthread_mutex_unlock(&s->running);
    return code;
}

PD_API const char *pd_error(int code) {
    switch (code) {
    case PD_OK: return "no error";
    case PD_NO_MEMORY: return "out of memory";
    case PD_BAD_ARGUMENT: return "a null pointer, or an impossible number of threads";
    case PD_BAD_INDEX: return "an input holds an index that its table does not have";
    case PD_BAD_BATCH: return "the engine was not built for this batch size";
    case PD_NO_GPU: return "no NVIDIA GPU: libcuda.so.1 is not here, or has no device";
    case PD_OLD_DRIVER: return "the NVIDIA driver is too old: it has to be of CUDA 10.2 or newer";
    case PD_BAD_GPU: return "the GPU is older than the one the engine was built for";
    case PD_NO_GPU_MEMORY: return "not enough memory on the GPU";
    case PD_GPU_LOST: return "the GPU failed in the middle of a run: open the engine again";
    default: return "unknown error";
    }
}

PD_API const char *const *pd_steps(int batch, int *count) {
    const pd_gpu_plan *plan = pd_find(batch);
    if (count) *count = plan ? plan->count : 0;
    return plan ? plan->name : 0;
}

PD_API int pd_threads_used(pd_session *s) { return s && s->ran ? 1 : 0; }

PD_API int pd_set_profiling(pd_session *s, int on) {
    if (!s) return PD_BAD_ARGUMENT;
    pthread_mutex_lock(&s->running);
    s->profiling = on != 0;
    pthread_mutex_unlock(&s->running);
    return PD_OK;
}

PD_API int pd_profile(pd_session *s, int batch, double *seconds, int count) {
    const pd_gpu_plan *plan = pd_find(batch);
    if (!s || (!seconds && count > 0)) return PD_BAD_ARGUMENT;
    if (!plan) return PD_BAD_BATCH;
    pthread_mutex_lock(&s->running);
    for (int n = 0; n < count && n < plan->count; n++) seconds[n] = s->seconds[pd_first(plan) + (size_t)n];
    pthread_mutex_unlock(&s->running);
    return PD_OK;
}
