/* A CUDA driver that does nothing and remembers everything, for machines without a GPU.

   cuda-tile takes every driver entry from cuGetProcAddress_v2, so that one symbol is enough. Every
   entry succeeds; calls are counted by name and launches recorded. The library is also a Python
   module: its relabelled() makes CPU tensors look like CUDA tensors to the launcher, which reads
   tensors through torch._C._to_dlpack.

   There are two devices, sm_90 and sm_100. A stream handle is STREAM * (device + 1) + number; the
   null stream belongs to the current context. Written in the common subset of C and C++. */
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXPORT __attribute__((visibility("default")))
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
enum { DEVICES = 2, STREAM = 0x1000, KEPT = 256, PARAMETERS = 128 };

typedef int Status;
typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    void *stream, *attributes;
    unsigned n_attributes;
} LaunchConfig;

typedef struct {
    char kernel[4096];
    unsigned grid[3], block[3];
    uint64_t stream;
    int device, n_attributes;
    uint64_t parameters[PARAMETERS];
} Launch;

/* What a test sets. */
EXPORT int current_device, capturing, load_error, launch_error;
EXPORT int parameters_to_copy; /* of 8 bytes each: the driver is not told how many there are */

/* What a test reads. */
EXPORT long n_launches, n_loads;
EXPORT Launch launches[KEPT]; /* a ring: launch i is at i % KEPT */

typedef struct Kernel { char name[4096]; struct Kernel *older; } Kernel;
static Kernel *newest_kernel; /* a list that only grows */
static int contexts[DEVICES]; /* their addresses are the contexts */
static void *stack[64];
static int depth;

static int device_of(void *context) { return (int)((int *)context - contexts); }
static void *current(void) { return depth ? stack[depth - 1] : &contexts[current_device]; }

#define MAIN(X) \
    X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetAttribute) \
    X(cuCtxGetDevice) X(cuCtxGetCurrent) X(cuCtxPushCurrent) X(cuCtxPopCurrent) \
    X(cuStreamGetCtx) X(cuStreamIsCapturing) X(cuPointerGetAttribute) X(cuLibraryLoadData) \
    X(cuLibraryGetKernel) X(cuGetErrorString) X(cuLaunchKernelEx)
/* The rest of what cuda-tile looks up. None of it belongs to a launch that can be captured. */
#define REST(X) \
    X(cuInit) X(cuCtxSynchronize) X(cuCtxSetCurrent) X(cuCtxGetId) X(cuDevicePrimaryCtxRetain) \
    X(cuEventCreate) X(cuEventDestroy) X(cuEventQuery) X(cuEventRecord) X(cuEventElapsedTime) \
    X(cuKernelGetFunction) X(cuKernelGetAttribute) X(cuKernelSetAttribute) X(cuLaunchKernel) \
    X(cuMemAlloc) X(cuMemAllocHost) X(cuMemFree) X(cuMemFreeHost) X(cuMemGetAddressRange) \
    X(cuMemcpyHtoDAsync) X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamGetId) \
    X(cuStreamSynchronize) X(cuStreamWaitEvent) X(cuLibraryUnload) X(cuTensorMapEncodeTiled)
#define COUNTER(name) static long calls_of_##name;
MAIN(COUNTER) REST(COUNTER) COUNTER(something_else)

/* One counter per entry; each of the functions below starts with COUNT. */
#define COUNT(name) (calls_of_##name++)

static Status cuDriverGetVersion(int *version) {
    COUNT(cuDriverGetVersion);
    *version = 13000;
    return SUCCESS;
}
static Status cuDeviceGetCount(int *n) {
    COUNT(cuDeviceGetCount);
    *n = DEVICES;
    return SUCCESS;
}
static Status cuDeviceGet(int *device, int ordinal) {
    COUNT(cuDeviceGet);
    *device = ordinal;
    return SUCCESS;
}
static Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    COUNT(cuDeviceGetAttribute);
    switch (attribute) {
    case 75: *value = device ? 10 : 9; break; /* compute capability, which is asked for once */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory per block that can be asked for */
    default: *value = 1 << 30;
    }
    return SUCCESS;
}
static Status cuCtxGetDevice(int *device) {
    COUNT(cuCtxGetDevice);
    *device = device_of(current());
    return SUCCESS;
}
static Status cuCtxGetCurrent(void **context) {
    COUNT(cuCtxGetCurrent);
    *context = current();
    return SUCCESS;
}
static Status cuCtxPushCurrent(void *context) {
    COUNT(cuCtxPushCurrent);
    if (depth == 64) return NOT_FOUND;
    stack[depth++] = context;
    return SUCCESS;
}
static Status cuCtxPopCurrent(void **context) {
    COUNT(cuCtxPopCurrent);
    if (context) *context = current();
    if (depth) depth--;
    return SUCCESS;
}
static Status cuStreamGetCtx(void *stream, void **context) {
    COUNT(cuStreamGetCtx);
    *context = stream ? &contexts[(uint64_t)(uintptr_t)stream / STREAM - 1] : current();
    return SUCCESS;
}
static Status cuStreamIsCapturing(void *stream, int *status) {
    COUNT(cuStreamIsCapturing);
    (void)stream;
    *status = capturing;
    return SUCCESS;
}
static Status cuPointerGetAttribute(void *out, int attribute, uint64_t pointer) {
    COUNT(cuPointerGetAttribute);
    (void)attribute; (void)pointer;
    *(void **)out = current();
    return SUCCESS;
}
static Status cuLibraryLoadData(void **library, const void *image) {
    COUNT(cuLibraryLoadData);
    if (load_error) return load_error;
    n_loads++;
    *library = (void *)image;
    return memcmp(image, "\x7f" "ELF", 4) ? NOT_FOUND : SUCCESS;
}
static Status cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    COUNT(cuLibraryGetKernel);
    (void)library;
    Kernel *found = newest_kernel;
    while (found && strcmp(found->name, name)) found = found->older;
    if (!found) {
        found = (Kernel *)calloc(1, sizeof *found);
        if (!found) return OUT_OF_MEMORY;
        strncpy(found->name, name, sizeof found->name - 1);
        found->older = newest_kernel;
        newest_kernel = found;
    }
    *kernel = found;
    return SUCCESS;
}
static Status cuGetErrorString(int error, const char **text) {
    COUNT(cuGetErrorString);
    (void)error;
    *text = "an error of the stub driver";
    return SUCCESS;
}
static Status cuLaunchKernelEx(const LaunchConfig *config, void *kernel, void **parameters,
                               void **extra) {
    COUNT(cuLaunchKernelEx);
    (void)extra;
    if (launch_error) return launch_error;
    Launch *launch = &launches[n_launches++ % KEPT];
    memset(launch->parameters, 0, sizeof launch->parameters);
    memcpy(launch->kernel, ((Kernel *)kernel)->name, sizeof launch->kernel);
    memcpy(launch->grid, config->grid, sizeof launch->grid);
    memcpy(launch->block, config->block, sizeof launch->block);
    launch->stream = (uint64_t)(uintptr_t)config->stream;
    launch->device = device_of(current());
    launch->n_attributes = (int)config->n_attributes;
    for (int i = 0; i < parameters_to_copy && i < PARAMETERS; i++)
        memcpy(&launch->parameters[i], parameters[i], sizeof launch->parameters[i]);
    return SUCCESS;
}

#define DEFINE(name) static Status name(void) { COUNT(name); return SUCCESS; }
REST(DEFINE)
static Status something_else(void) { COUNT(something_else); return SUCCESS; }

#define ENTRY(name) {#name, (void *)name, &calls_of_##name},
static const struct { const char *name; void *function; long *calls; } entries[] = {
    MAIN(ENTRY) REST(ENTRY) ENTRY(something_else)
};
enum { N_ENTRIES = sizeof entries / sizeof *entries };

/* Its place in the table; the last one stands for every name that is not there. */
static int place(const char *name) {
    int i = 0;
    while (i < N_ENTRIES - 1 && strcmp(entries[i].name, name)) i++;
    return i;
}

EXPORT long calls(const char *name) { return *entries[place(name)].calls; }
EXPORT void forget_calls(void) { for (int i = 0; i < N_ENTRIES; i++) *entries[i].calls = 0; }
EXPORT Status cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t flags,
                                  void *status) {
    (void)version; (void)flags; (void)status;
    *address = entries[place(name)].function;
    return SUCCESS;
}

/* The leading fields of DLTensor; the DLPack standard fixes the layout. */
typedef struct { void *data; int32_t device_type, device_id; } TensorHead;
static PyObject *to_dlpack;

static PyObject *relabelled(PyObject *self, PyObject *tensor) {
    (void)self;
    PyObject *capsule = PyObject_CallFunctionObjArgs(to_dlpack, tensor, NULL);
    TensorHead *head = capsule ? (TensorHead *)PyCapsule_GetPointer(capsule, "dltensor") : NULL;
    if (!head) { Py_XDECREF(capsule); return NULL; }
    head->device_type = 2; /* kDLCUDA */
    return capsule;
}

/* What torch answers on a GPU, at about the same cost. */
static PyObject *python_current_device(PyObject *self, PyObject *nothing) {
    (void)self; (void)nothing;
    return PyLong_FromLong(current_device);
}
static PyObject *python_raw_stream(PyObject *self, PyObject *device) {
    (void)self;
    return PyLong_FromLong(STREAM * (PyLong_AsLong(device) + 1));
}

static PyMethodDef methods[] = {
    {"current_device", python_current_device, METH_NOARGS, "Its index."},
    {"raw_stream", python_raw_stream, METH_O, "The handle of a device's current stream."},
    {"relabelled", relabelled, METH_O, "What torch._C._to_dlpack gives, said to be on a GPU."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "stub_driver", NULL, -1, methods, NULL, NULL, NULL, NULL,
};
PyMODINIT_FUNC PyInit_stub_driver(void) {
    PyObject *torch_c = PyImport_ImportModule("torch._C");
    to_dlpack = torch_c ? PyObject_GetAttrString(torch_c, "_to_dlpack") : NULL;
    Py_XDECREF(torch_c);
    return to_dlpack ? PyModule_Create(&definition) : NULL;
}

#ifdef __cplusplus
}
#endif
