/* A libcuda for tests: the driver's calls go down a pipe to the PTX machine (server.py).
 *
 * FALSE_CUDA_SERVER is the command of that. FALSE_CUDA plants a fault: no-device, version=N,
 * capability=N, memory=BYTES, lost=LAUNCH, invalid-ptx, cubins=COUNT (so many load, then none: 0 of
 * them unless it is said), no-capture, no-graph. Graphs are those of CUDA_GRAPHS, 10, 11 or 12, for
 * which it was compiled; 0 is a driver without.
 *
 * A cubin is not run: the server takes the PTX of its entries from FALSE_CUDA_PTX. FALSE_CUDA_LOG is
 * a file for a line about each module, graph and launch of one. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char name[128];
    int pointers;
    long module;
} function;

static FILE *to, *from;
static long launches;

/* The number behind a fault in FALSE_CUDA, a list with commas; `other` where it is not there. */
static long planted(const char *name, long other) {
    const size_t length = strlen(name);
    for (const char *at = getenv("FALSE_CUDA"); at && *at; at += *at == ',') {
        if (!strncmp(at, name, length) && (!at[length] || strchr("=,", at[length])))
            return at[length] == '=' ? atol(at + length + 1) : 1;
        at += strcspn(at, ",");
    }
    return other;
}

static int reply(void) {
    int result;
    return fscanf(from, "%d", &result) == 1 ? result : 999;
}

int cuInit(unsigned flags) {
    int down[2], up[2];
    (void)flags;
    if (planted("no-device", 0)) return 100;
    if (to) return 0;
    if (pipe(down) || pipe(up)) return 999;
    if (!fork()) {
        dup2(down[0], 0);
        dup2(up[1], 3);
        close(down[1]);
        close(up[0]);
        execl("/bin/sh", "sh", "-c", getenv("FALSE_CUDA_SERVER"), (char *)0);
        _exit(1);
    }
    close(down[0]);
    close(up[1]);
    to = fdopen(down[1], "wb");
    from = fdopen(up[0], "rb");
    return 0;
}

int cuDriverGetVersion(int *version) {
    *version = (int)planted("version", 12020);
    return 0;
}

int cuDeviceGet(int *device, int number) {
    *device = number;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const int capability = (int)planted("capability", 90);
    (void)device;
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &launches;
    return 0;
}

int cuDevicePrimaryCtxRelease(int device) { return device; }

int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }

static void note(const char *text) {
    FILE *file = getenv("FALSE_CUDA_LOG") ? fopen(getenv("FALSE_CUDA_LOG"), "a") : 0;
    if (!file) return;
    fprintf(file, "%s\n", text);
    fclose(file);
}

/* The bytes of an ELF file: its table of sections ends it, or its program headers. */
static size_t elf_size(const unsigned char *image) {
    uint64_t sections, programs;
    uint16_t numbers[6];
    memcpy(&programs, image + 0x20, 8);
    memcpy(&sections, image + 0x28, 8);
    memcpy(numbers, image + 0x34, 12);
    const uint64_t one = sections + (uint64_t)numbers[3] * numbers[4];
    const uint64_t other = programs + (uint64_t)numbers[1] * numbers[2];
    return one > other ? one : other;
}

int cuModuleLoadData(void **module, const void *image) {
    static long cubins;
    const int cubin = !memcmp(image, "\177ELF", 4);
    if (cubin && cubins++ >= planted("cubins", 0)) return 209;
    if (!cubin && planted("invalid-ptx", 0)) return 218;
    const size_t size = cubin ? elf_size(image) : strlen(image);
    note(cubin ? "cubin" : "ptx");
    fprintf(to, "%s %zu\n", cubin ? "cubin" : "module", size);
    fwrite(image, 1, size, to);
    fflush(to);
    const int result = reply();
    long number;
    if (result || fscanf(from, "%ld", &number) != 1) return result ? result : 999;
    *module = (void *)(number + 1);
    return 0;
}

int cuModuleUnload(void *module) { return module ? 0 : 400; }

int cuModuleGetFunction(void **found, void *module, const char *name) {
    function *f = calloc(1, sizeof *f); /* never freed: so are the driver's, as long as the module */
    f->module = (long)module - 1;
    strncpy(f->name, name, sizeof f->name - 1);
    fprintf(to, "function %ld %s\n", f->module, name);
    fflush(to);
    *found = f;
    const int result = reply();
    return result ? result : fscanf(from, "%d", &f->pointers) == 1 ? 0 : 999;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > (size_t)planted("memory", 1L << 40)) return 2;
    fprintf(to, "alloc %zu\n", size);
    fflush(to);
    const int result = reply();
    return result ? result : fscanf(from, "%lu", address) == 1 ? 0 : 999;
}

int cuMemFree_v2(uint64_t address) { return address ? 0 : 1; }

int cuMemcpyHtoD_v2(uint64_t address, const void *source, size_t size) {
    fprintf(to, "upload %lu %zu\n", address, size);
    fwrite(source, 1, size, to);
    fflush(to);
    return reply();
}

int cuMemcpyDtoH_v2(void *target, uint64_t address, size_t size) {
    fprintf(to, "download %lu %zu\n", address, size);
    fflush(to);
    const int result = reply();
    if (result) return result;
    fgetc(from); /* the end of the line */
    return fread(target, 1, size, from) == size ? 0 : 999;
}

/* Launches that a stream records: the commands, one a line. */
static char *recorded;
static int capturing;

int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, void *stream, void **arguments, void **extra) {
    const function *called = f;
    char command[1024];
    (void)shared, (void)extra;
    if (++launches == planted("lost", 0)) return 719;
    int length = snprintf(command, sizeof command, "launch %ld %s %u %u %u %u %u %u", called->module,
        called->name, gx, gy, gz, bx, by, bz);
    for (int i = 0; i < called->pointers; i++)
        length += snprintf(command + length, sizeof command - (size_t)length, " %lu",
            *(uint64_t *)arguments[i]);
    if (capturing && !stream) return 906; /* the stream that captures is another one */
    if (capturing) {
        const size_t old = recorded ? strlen(recorded) : 0;
        recorded = realloc(recorded, old + (size_t)length + 2);
        sprintf(recorded + old, "%s\n", command);
        return 0;
    }
    fprintf(to, "%s\n", command);
    fflush(to);
    return reply();
}

#if CUDA_GRAPHS

int cuStreamCreate(void **stream, unsigned flags) {
    *stream = &launches;
    return (int)flags;
}

int cuStreamDestroy_v2(void *stream) { return stream ? 0 : 400; }

int cuStreamSynchronize(void *stream) { return stream ? 0 : 400; }

int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (!stream || mode != 1 || capturing) return 1;
    if (planted("no-capture", 0)) return 900;
    capturing = 1;
    recorded = 0;
    return 0;
}

int cuStreamEndCapture(void *stream, void **graph) {
    if (!stream || !capturing) return 1;
    capturing = 0;
    *graph = recorded;
    return 0;
}

static int instantiate(void **executable, void *graph) {
    if (planted("no-graph", 0)) return 801;
    *executable = graph;
    return 0;
}

#if CUDA_GRAPHS == 12
int cuGraphInstantiateWithFlags(void **executable, void *graph, uint64_t flags) {
    return flags ? 1 : instantiate(executable, graph);
}
#else
#if CUDA_GRAPHS == 11
#define INSTANTIATE cuGraphInstantiate_v2
#else
#define INSTANTIATE cuGraphInstantiate
#endif
int INSTANTIATE(void **executable, void *graph, void **node, char *log, size_t size) {
    *node = 0;
    memset(log, 0, size);
    return instantiate(executable, graph);
}
#endif

int cuGraphLaunch(void *executable, void *stream) {
    if (!stream || capturing) return 1;
    note("graph");
    for (const char *line = executable; *line;) {
        const char *end = strchr(line, '\n');
        if (++launches == planted("lost", 0)) return 719;
        fwrite(line, 1, (size_t)(end + 1 - line), to);
        fflush(to);
        const int result = reply();
        if (result) return result;
        line = end + 1;
    }
    return 0;
}

int cuGraphExecDestroy(void *executable) { return executable ? 0 : 1; }

int cuGraphDestroy(void *graph) {
    free(graph);
    return 0;
}

#endif

int cuCtxSynchronize(void) { return 0; }
