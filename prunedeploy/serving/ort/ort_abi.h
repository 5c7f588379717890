/* The part of ONNX Runtime's C interface that the custom op and the example in examples/c/ort use,
 * under the names of onnxruntime_c_api.h, so that code for one compiles with the other.
 *
 * ONNX Runtime's wheels bring no header. The interface is a table of function pointers that only
 * ever grows at its end: a function is its place in the table, and the places of version 1 are
 * fixed for good. Each place that is used here is asserted below, each that is not is a gap. */
#ifndef PD_ORT_ABI_H
#define PD_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17 /* the oldest ONNX Runtime, 1.17, whose OrtCustomOp has what we fill */

typedef enum { ORT_OK = 0, ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 } OrtErrorCode;
typedef enum { ORT_LOGGING_LEVEL_WARNING = 2, ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtDeviceAllocator = 0, OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { INPUT_OUTPUT_REQUIRED = 0, INPUT_OUTPUT_VARIADIC = 2 }
    OrtCustomOpInputOutputCharacteristic;
typedef enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16 = 4,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16 = 5,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL = 9,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32 = 12,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64 = 13
} ONNXTensorElementDataType;

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtApi OrtApi;
typedef OrtStatus *OrtStatusPtr;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#define PD_GAP(first, last) void *gap_##first[(last) - (first) + 1];

struct OrtApi {
    OrtStatus *(*CreateStatus)(OrtErrorCode code, const char *message);
    PD_GAP(1, 1)
    const char *(*GetErrorMessage)(const OrtStatus *status);
    OrtStatusPtr (*CreateEnv)(OrtLoggingLevel level, const char *id, OrtEnv **env);
    PD_GAP(4, 6)
    OrtStatusPtr (*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *,
                                  OrtSession **);
    PD_GAP(8, 8)
    OrtStatusPtr (*Run)(OrtSession *, const OrtRunOptions *, const char *const *input_names,
                        const OrtValue *const *inputs, size_t inputs_count,
                        const char *const *output_names, size_t outputs_count, OrtValue **outputs);
    OrtStatusPtr (*CreateSessionOptions)(OrtSessionOptions **options);
    PD_GAP(11, 25)
    OrtStatusPtr (*CreateCustomOpDomain)(const char *domain, OrtCustomOpDomain **out);
    OrtStatusPtr (*CustomOpDomain_Add)(OrtCustomOpDomain *domain, const OrtCustomOp *op);
    OrtStatusPtr (*AddCustomOpDomain)(OrtSessionOptions *options, OrtCustomOpDomain *domain);
    OrtStatusPtr (*RegisterCustomOpsLibrary)(OrtSessionOptions *, const char *path, void **handle);
    PD_GAP(30, 48)
    OrtStatusPtr (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, size_t bytes,
                                                   const int64_t *shape, size_t rank,
                                                   ONNXTensorElementDataType type, OrtValue **out);
    PD_GAP(50, 50)
    OrtStatusPtr (*GetTensorMutableData)(OrtValue *value, void **out);
    PD_GAP(52, 59)
    OrtStatusPtr (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *,
                                         ONNXTensorElementDataType *out);
    OrtStatusPtr (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *, size_t *out);
    OrtStatusPtr (*GetDimensions)(const OrtTensorTypeAndShapeInfo *, int64_t *values, size_t count);
    PD_GAP(63, 63)
    OrtStatusPtr (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *, size_t *out);
    OrtStatusPtr (*GetTensorTypeAndShape)(const OrtValue *, OrtTensorTypeAndShapeInfo **out);
    PD_GAP(66, 68)
    OrtStatusPtr (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **out);
    PD_GAP(70, 85)
    OrtStatusPtr (*KernelInfoGetAttribute_int64)(const OrtKernelInfo *, const char *name,
                                                 int64_t *out);
    OrtStatusPtr (*KernelInfoGetAttribute_string)(const OrtKernelInfo *, const char *name,
                                                  char *out, size_t *size);
    OrtStatusPtr (*KernelContext_GetInputCount)(const OrtKernelContext *, size_t *out);
    OrtStatusPtr (*KernelContext_GetOutputCount)(const OrtKernelContext *, size_t *out);
    OrtStatusPtr (*KernelContext_GetInput)(const OrtKernelContext *, size_t, const OrtValue **out);
    OrtStatusPtr (*KernelContext_GetOutput)(OrtKernelContext *, size_t, const int64_t *shape,
                                            size_t rank, OrtValue **out);
    void (*ReleaseEnv)(OrtEnv *);
    void (*ReleaseStatus)(OrtStatus *);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *);
    void (*ReleaseSession)(OrtSession *);
    void (*ReleaseValue)(OrtValue *);
    PD_GAP(97, 98)
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *);
    void (*ReleaseSessionOptions)(OrtSessionOptions *);
    void (*ReleaseCustomOpDomain)(OrtCustomOpDomain *); /* the last one of version 1 */
};

#define PD_PLACE(name, number) \
    _Static_assert(offsetof(OrtApi, name) == (number) * sizeof(void *), #name)
PD_PLACE(GetErrorMessage, 2);
PD_PLACE(CreateSession, 7);
PD_PLACE(Run, 9);
PD_PLACE(CreateCustomOpDomain, 26);
PD_PLACE(RegisterCustomOpsLibrary, 29);
PD_PLACE(CreateTensorWithDataAsOrtValue, 49);
PD_PLACE(GetTensorMutableData, 51);
PD_PLACE(GetTensorElementType, 60);
PD_PLACE(GetTensorTypeAndShape, 65);
PD_PLACE(CreateCpuMemoryInfo, 69);
PD_PLACE(KernelInfoGetAttribute_string, 87);
PD_PLACE(KernelContext_GetOutput, 91);
PD_PLACE(ReleaseStatus, 93);
PD_PLACE(ReleaseTensorTypeAndShapeInfo, 99);
PD_PLACE(ReleaseCustomOpDomain, 101);

/* ONNX Runtime calls what is not null of the first `version`'s fields, and from 1.17 on some of
 * them without asking: all have to be there. */
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *kernel, OrtKernelContext *);
    void (*KernelDestroy)(void *kernel);
    OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    OrtMemType (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatusPtr (*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *,
                                   void **kernel);
    OrtStatusPtr (*KernelComputeV2)(void *kernel, OrtKernelContext *);
    OrtStatusPtr (*InferOutputShapeFn)(const OrtCustomOp *, OrtShapeInferContext *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    size_t (*GetMayInplace)(int **inputs, int **outputs);
    void (*ReleaseMayInplace)(int *inputs, int *outputs);
    size_t (*GetAliasMap)(int **inputs, int **outputs);
    void (*ReleaseAliasMap)(int *inputs, int *outputs);
};
_Static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void *), "OrtCustomOp");

#endif
