/* Engines from bytes or a file, and small helpers of the custom op. */
#ifndef PD_ENGINE_FILE_H
#define PD_ENGINE_FILE_H

#include "onnxruntime_c_api.h"
#include "pd_engine.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WHY 512 /* characters of a message */
#define MAX_TENSORS 64
#define MAX_RANK 16
#define MAX_BATCHES 64

typedef struct {
    int file; /* keeps the name that the library was loaded under from being another's */
    void *library;
    const pd_model *model;
    __typeof__(&pd_create) create;
    __typeof__(&pd_run) run;
    __typeof__(&pd_destroy) destroy;
    __typeof__(&pd_error) error;
} engine_file;

__attribute__((format(printf, 3, 4))) static OrtStatus *failure(const OrtApi *api, OrtErrorCode code,
                                                                const char *format, ...) {
    char message[4 * WHY] = "prunedeploy SparseEngine: ";
    const size_t used = strlen(message);
    va_list more;
    va_start(more, format);
    vsnprintf(message + used, sizeof message - used, format, more);
    va_end(more);
    return api->CreateStatus(code, message);
}

static int processors_here(void) {
    cpu_set_t set;
    const int count = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

/* -- loading -------------------------------------------------------------------------------------- */

static void name_of(int file, char *name) { snprintf(name, 64, "/proc/self/fd/%d", file); }

/* The loader knows libraries by name: the file of one that cannot be unloaded stays open, or the
 * next that got its number would be taken for it. */
static void close_engine(engine_file *e) {
    char name[64];
    if (!e->library) return;
    name_of(e->file, name);
    dlclose(e->library);
    void *still = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    if (still) dlclose(still);
    else close(e->file);
    e->library = 0;
}

/* Whether all of an ELF file is there: the loader dies of one that was cut short. */
static int is_whole(const char *bytes, size_t size) {
    Elf64_Ehdr head;
    if (size < sizeof head || memcmp(bytes, ELFMAG, SELFMAG)) return 0;
    memcpy(&head, bytes, sizeof head);
    return head.e_shoff <= size &&
           (size_t)head.e_shnum * head.e_shentsize <= size - (size_t)head.e_shoff;
}

static int functions(engine_file *e, char *why) {
    const pd_model *(*info)(void) = (const pd_model *(*)(void))dlsym(e->library, "pd_info");
    e->create = (__typeof__(&pd_create))dlsym(e->library, "pd_create");
    e->run = (__typeof__(&pd_run))dlsym(e->library, "pd_run");
    e->destroy = (__typeof__(&pd_destroy))dlsym(e->library, "pd_destroy");
    e->error = (__typeof__(&pd_error))dlsym(e->library, "pd_error");
    if (!info || !e->create || !e->run || !e->destroy || !e->error)
        return snprintf(why, WHY, "this library is not an engine"), 0;
    e->model = info();
    if (e->model->abi != PD_ABI)
        return snprintf(why, WHY, "the engine has interface %d, this library takes %d: build again",
                        e->model->abi, PD_ABI), 0;
    int maximum = e->model->inputs > e->model->outputs ? e->model->inputs : e->model->outputs;
    int rank = 0;
    for (int i = 0; i < e->model->inputs; i++)
        if (e->model->input[i].rank > rank) rank = e->model->input[i].rank;
    for (int i = 0; i < e->model->outputs; i++)
        if (e->model->output[i].rank > rank) rank = e->model->output[i].rank;
    if (maximum > MAX_TENSORS || rank > MAX_RANK || e->model->batches > MAX_BATCHES)
        return snprintf(why, WHY, "the engine has more than %d inputs, outputs or sizes of batches",
                        MAX_TENSORS), 0;
    return 1;
}

/* From memory, through a file without a name: no folder has to allow programs, nothing is left
 * behind, and the loader never takes it for an engine that had the same name before. */
static int open_bytes(engine_file *e, const char *bytes, size_t size, char *why) {
    char name[64];
    if (!is_whole(bytes, size))
        return snprintf(why, WHY, "the engine is damaged: it is not a whole library"), 0;
    const int file = (int)syscall(SYS_memfd_create, "prunedeploy", 1u /* MFD_CLOEXEC */);
    if (file < 0)
        return snprintf(why, WHY, "no memory for the engine: %s", strerror(errno)), 0;
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = write(file, bytes + done, size - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) {
            snprintf(why, WHY, "no memory for the engine: %s", strerror(errno));
            return close(file), 0;
        }
        done += (size_t)wrote;
    }
    name_of(file, name);
    e->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!e->library) {
        snprintf(why, WHY, "cannot load the engine: %s", dlerror());
        return close(file), 0;
    }
    e->file = file;
    if (functions(e, why)) return 1;
    close_engine(e);
    return 0;
}

/* The library at `path`, or in the engine's folder there. */
static int open_path(engine_file *e, const char *path, char *why) {
    char name[4096];
    struct stat status;
    snprintf(name, sizeof name, "%s", path);
    if (!stat(name, &status) && S_ISDIR(status.st_mode))
        snprintf(name, sizeof name, "%.4000s/model.so", path);
    FILE *file = fopen(name, "rb");
    if (!file || fstat(fileno(file), &status)) {
        snprintf(why, WHY, "cannot read the engine %.400s: %s", name, strerror(errno));
        if (file) fclose(file);
        return 0;
    }
    const size_t size = (size_t)status.st_size;
    char *bytes = malloc(size + 1);
    const int whole = bytes && fread(bytes, 1, size, file) == size;
    fclose(file);
    if (!whole) snprintf(why, WHY, "cannot read the engine %.400s", name);
    const int good = whole && open_bytes(e, bytes, size, why);
    free(bytes);
    return good;
}

/* -- tensors --------------------------------------------------------------------------------------- */

typedef struct {
    const char *name; /* NumPy's */
    ONNXTensorElementDataType type;
    int bytes;
} dtype;

static const dtype *dtype_of(const char *name) {
    static const dtype table[] = {
        {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},
        {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8},
        {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2},
        {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1},
        {"int16", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, 2},
        {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},
        {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
        {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1},
        {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 2},
        {"uint32", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 4},
        {"uint64", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 8},
        {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1},
        {"", ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0},
    };
    const dtype *row = table;
    while (row->bytes && strcmp(row->name, name)) row++;
    return row;
}

static ONNXTensorElementDataType type_of(const char *name) { return dtype_of(name)->type; }

/* Whether a shape is that of a tensor, for one batch that is the same for all; -1: not known yet. */
static int fits(const pd_tensor *tensor, const int64_t *shape, size_t rank, int64_t *batch) {
    if (rank != (size_t)tensor->rank) return 0;
    for (size_t axis = 0; axis < rank; axis++) {
        int64_t wanted = tensor->shape[axis];
        if (wanted < 0) wanted = *batch < 0 ? (*batch = shape[axis]) : *batch;
        if (shape[axis] != wanted) return 0;
    }
    return 1;
}

static void spell(char *text, const int64_t *shape, size_t rank) {
    size_t used = 0;
    snprintf(text, WHY, "a scalar");
    for (size_t axis = 0; axis < rank && axis < MAX_RANK && used < WHY - 32; axis++) {
        const char *by = axis ? " x " : "";
        const long long size = shape[axis];
        used += (size_t)(size < 0 ? snprintf(text + used, WHY - used, "%sbatch", by)
                                  : snprintf(text + used, WHY - used, "%s%lld", by, size));
    }
}

static void spell_batches(char *text, const pd_model *model) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < model->batches && used < WHY - 32; i++)
        used += (size_t)snprintf(text + used, WHY - used, "%s%d", i ? ", " : "", model->batch[i]);
}

/* Each pointer to the sample behind the next `size`. */
static void advance(const pd_tensor *tensor, int count, const char **data, int size) {
    for (int i = 0; i < count; i++) {
        if (tensor[i].rank == 0 || tensor[i].shape[0] >= 0) continue; /* the same for all samples */
        size_t bytes = (size_t)dtype_of(tensor[i].dtype)->bytes * (size_t)size;
        for (int axis = 1; axis < tensor[i].rank; axis++) bytes *= (size_t)tensor[i].shape[axis];
        data[i] += bytes;
    }
}

/* -- batches --------------------------------------------------------------------------------------- */

static int is_built(const pd_model *model, int64_t batch) {
    for (int i = 0; i < model->batches; i++)
        if (model->batch[i] == batch) return 1;
    return 0;
}

/* Whether outputs of pieces are those of the whole. */
static int cuts(const pd_model *model) {
    for (int i = 0; i < model->outputs; i++)
        if (model->output[i].rank == 0 || model->output[i].shape[0] >= 0) return 0;
    return 1;
}

static int larger_first(const void *a, const void *b) {
    return *(const int *)b - *(const int *)a;
}

/* The largest size as often as it fits, then the next: how many pieces, 0 where a rest remains. */
static int greedy(const pd_model *model, int batch, int *parts) {
    int sizes[MAX_BATCHES], count = 0;
    memcpy(sizes, model->batch, (size_t)model->batches * sizeof *sizes);
    qsort(sizes, (size_t)model->batches, sizeof *sizes, larger_first);
    for (int i = 0; i < model->batches; i++)
        for (; batch >= sizes[i]; batch -= sizes[i]) parts[count++] = sizes[i];
    return batch ? 0 : count;
}

/* The same by trying all ways, for 6 of 5 and 3; the fewest pieces there can be. */
static int fewest(const pd_model *model, int batch, int *parts) {
    int *number = calloc((size_t)batch + 1, sizeof *number);
    int *last = calloc((size_t)batch + 1, sizeof *last);
    int count = 0;
    for (int total = 1; number && last && total <= batch; total++)
        for (int i = 0; i < model->batches; i++) {
            const int size = model->batch[i], before = total - size;
            if (before < 0 || (before > 0 && !number[before])) continue;
            if (number[total] && number[before] + 1 >= number[total]) continue;
            number[total] = number[before] + 1;
            last[total] = size;
        }
    if (number && last && number[batch])
        for (int rest = batch; rest > 0; rest -= last[rest]) parts[count++] = last[rest];
    free(number);
    free(last);
    qsort(parts, (size_t)count, sizeof *parts, larger_first);
    return count;
}

/* `batch` as a sum of sizes that the engine was built for, as prunedeploy's own sessions cut it.
 * Returns how many, `pieces` is for free(); 0: it is no such sum. */
static int split(const pd_model *model, int64_t batch, int **parts) {
    if (batch > 1 << 24 || !(*parts = malloc((size_t)batch * sizeof **parts))) return 0;
    if (is_built(model, batch)) return (*parts)[0] = (int)batch, 1;
    if (!cuts(model)) return 0;
    const int count = greedy(model, (int)batch, *parts);
    return count ? count : fewest(model, (int)batch, *parts);
}

#endif
