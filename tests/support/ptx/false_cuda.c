/* A libcuda for tests: the driver's calls go down a pipe to the PTX machine (server.py).
 *
 * FALSE_CUDA_SERVER is the command of that. FALSE_CUDA plants a fault: no-device, version=N,
 * capability=N, memory=BYTES, lost=LAUNCH, invalid-ptx. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char name[128];
    int pointers;
} function;

static FILE *to, *from;
static long launches;

static long planted(const char *name, long other) {
    const char *faults = getenv("FALSE_CUDA");
    const size_t length = strlen(name);
    if (!faults || strncmp(faults, name, length)) return other;
    return faults[length] == '=' ? atol(faults + length + 1) : 1;
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

int cuModuleLoadData(void **module, const void *image) {
    const size_t size = strlen(image);
    if (planted("invalid-ptx", 0)) return 218;
    fprintf(to, "module %zu\n", size);
    fwrite(image, 1, size, to);
    fflush(to);
    *module = to;
    return reply();
}

int cuModuleUnload(void *module) { return module ? 0 : 400; }

int cuModuleGetFunction(void **found, void *module, const char *name) {
    function *f = calloc(1, sizeof *f); /* never freed: so are the driver's, as long as the module */
    (void)module;
    strncpy(f->name, name, sizeof f->name - 1);
    fprintf(to, "function %s\n", name);
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

int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, void *stream, void **arguments, void **extra) {
    const function *called = f;
    (void)shared, (void)stream, (void)extra;
    if (++launches == planted("lost", 0)) return 719;
    fprintf(to, "launch %s %u %u %u %u %u %u", called->name, gx, gy, gz, bx, by, bz);
    for (int i = 0; i < called->pointers; i++) fprintf(to, " %lu", *(uint64_t *)arguments[i]);
    fprintf(to, "\n");
    fflush(to);
    return reply();
}

int cuCtxSynchronize(void) { return 0; }
