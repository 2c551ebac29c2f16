/* A stand-in for libcuda.so.1, a driver of CUDA 12.0, so that the real cuda-bindings run without a GPU.
 *
 * Device memory is the host's.  What is enqueued on a stream happens when the stream is waited for, not before.
 * Another thread always captures in global mode: what that forbids is refused in global mode.
 * Arguments that CUDA refuses, and those that this project has no reason to give, are refused.  Nothing is freed:
 * what was given back is closed, and fake_open() counts the rest.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEED(condition, error) if (!(condition)) return error
#define DRIVER 12000
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, CAPTURING = 900 };
enum kind { CLOSED, DEVICE, HOST, STREAM, EVENT, GRAPH, EXECUTABLE };
enum task { COPY, SET, WAIT };

struct operation { enum task task; char *to, *from; size_t size; int byte; struct object *stream; int until; };
struct object {
    enum kind kind;
    char *memory; size_t size; unsigned flags;             /* DEVICE, HOST */
    struct operation *operations; int first, end;          /* STREAM, GRAPH, EXECUTABLE */
    struct object *recording;                              /* STREAM: a GRAPH */
    struct object *stream; int until;                      /* EVENT: when it was recorded; NULL: it is done */
};

static struct object objects[512], legacy = {STREAM};
static int count, ready, context;
static _Thread_local int depth, mode;

static struct object *new_object(enum kind kind) {
    if (count == 512) abort();
    objects[count].kind = kind;
    return &objects[count++];
}

static struct object *is(enum kind kind, void *handle) {
    uintptr_t number = (uintptr_t)handle;
    if (kind == STREAM && number < 2) return &legacy;      /* 0, and CU_STREAM_LEGACY */
    for (int i = 0; i < count; i++)
        if (&objects[i] == handle && objects[i].kind == kind) return handle;
    return NULL;
}

static struct object *find(enum kind kind, uintptr_t address, size_t size) {
    for (int i = 0; i < count; i++) {
        uintptr_t start = (uintptr_t)objects[i].memory;
        if (objects[i].kind == kind && start <= address && address + size <= start + objects[i].size)
            return &objects[i];
    }
    return NULL;
}

static void run(struct object *stream, int until) {
    while (stream->first < until) {
        struct operation *now = &stream->operations[stream->first++];
        if (now->task == COPY) memmove(now->to, now->from, now->size);
        if (now->task == SET) memset(now->to, now->byte, now->size);
        if (now->task == WAIT) run(now->stream, now->until);
    }
}

static int enqueue(void *handle, struct operation operation) {
    struct object *stream = is(STREAM, handle), *list;
    NEED(depth, INVALID_CONTEXT);
    NEED(stream, INVALID_HANDLE);
    list = stream->recording ? stream->recording : stream;
    list->operations = realloc(list->operations, (list->end + 1) * sizeof operation);
    list->operations[list->end++] = operation;
    return 0;
}

static int copy(enum kind target, uintptr_t to, enum kind source, uintptr_t from, size_t size, void *stream) {
    NEED(find(target, to, size) && find(source, from, size), INVALID_VALUE);
    return enqueue(stream, (struct operation){COPY, (char *)to, (char *)from, size});
}

static int allocate(enum kind kind, void **pointer, size_t size, unsigned flags) {
    struct object *object;
    NEED(depth, INVALID_CONTEXT);
    NEED(mode, CAPTURING);
    NEED(size > 0, INVALID_VALUE);
    NEED(size < 1 << 20, OUT_OF_MEMORY);
    object = new_object(kind);
    object->memory = *pointer = memset(aligned_alloc(256, (size + 255) / 256 * 256), 0, size);
    object->size = size;
    object->flags = flags;
    return 0;
}

static int give_back(struct object *object) {
    NEED(depth, INVALID_CONTEXT);
    NEED(mode, CAPTURING);
    NEED(object && object != &legacy, INVALID_HANDLE);
    object->kind = CLOSED;
    return 0;
}

int fake_open(void) {
    int open = depth + mode;
    for (int i = 0; i < count; i++) open += objects[i].kind != CLOSED;
    return open;
}

/* The driver API: names as cuGetProcAddress knows them, without _v2. */

int cuInit(unsigned flags) { NEED(!flags, INVALID_VALUE); ready = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = DRIVER; return 0; }
int cuGetErrorName(int error, const char **name) {
    static char text[32];
    snprintf(text, sizeof text, "CUDA_ERROR_%d", error);
    *name = text;
    return 0;
}
int cuGetErrorString(int error, const char **text) { *text = "of the stand-in"; return 0; }
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!strcmp(name, "cuGetProcAddress")) name = "cuGetProcAddress_v2";
    *function = version > DRIVER ? NULL : dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : NOT_FOUND;
}

int cuDeviceGetCount(int *devices) { NEED(ready, NOT_INITIALIZED); *devices = 1; return 0; }
int cuDeviceGet(int *device, int index) { NEED(ready && !index, INVALID_DEVICE); *device = 0; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stand-in", length); return 0; }
int cuDeviceTotalMem(size_t *size, int device) { *size = (size_t)1 << 33; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int known[][2] = {{18, 1}, {19, 1}, {75, 8}, {76, 7}, {88, 0}};
    for (int i = 0; i < 5; i++)
        if (known[i][0] == attribute) { *value = known[i][1]; return 0; }
    return INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **primary, int device) { *primary = &context; return 0; }
int cuCtxPushCurrent(void *primary) { NEED(primary == &context, INVALID_CONTEXT); depth++; return 0; }
int cuCtxPopCurrent(void **primary) { NEED(depth, INVALID_CONTEXT); *primary = &context; depth--; return 0; }

int cuMemAlloc(void **pointer, size_t size) { return allocate(DEVICE, pointer, size, 0); }
int cuMemFree(uintptr_t pointer) { return give_back(find(DEVICE, pointer, 0)); }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    NEED(flags == 0 || flags == 2, INVALID_VALUE);         /* CU_MEMHOSTALLOC_DEVICEMAP */
    return allocate(HOST, pointer, size, flags);
}
int cuMemFreeHost(uintptr_t pointer) { return give_back(find(HOST, pointer, 0)); }
int cuMemHostGetDevicePointer(uintptr_t *device, uintptr_t pointer, unsigned flags) {
    struct object *object = find(HOST, pointer, 0);
    NEED(object && object->flags == 2 && !flags, INVALID_VALUE);
    *device = pointer;
    return 0;
}
int cuPointerGetAttributes(unsigned n, const int *attributes, void **values, uintptr_t pointer) {
    struct object *device = find(DEVICE, pointer, 0), *host = find(HOST, pointer, 0);
    for (unsigned i = 0; i < n; i++) {
        if (attributes[i] == 1) *(void **)values[i] = device || host ? &context : NULL;
        else if (attributes[i] == 2) *(unsigned *)values[i] = device ? 2 : host ? 1 : 0;
        else if (attributes[i] == 8) *(char *)values[i] = 0;
        else if (attributes[i] == 9) *(int *)values[i] = device || host ? 0 : -2;
        else return INVALID_VALUE;
    }
    return 0;
}

int cuMemcpyHtoDAsync(uintptr_t to, uintptr_t from, size_t size, void *stream) {
    return copy(DEVICE, to, HOST, from, size, stream);
}
int cuMemcpyDtoHAsync(uintptr_t to, uintptr_t from, size_t size, void *stream) {
    return copy(HOST, to, DEVICE, from, size, stream);
}
int cuMemcpyDtoDAsync(uintptr_t to, uintptr_t from, size_t size, void *stream) {
    return copy(DEVICE, to, DEVICE, from, size, stream);
}
int cuMemsetD8Async(uintptr_t to, unsigned char byte, size_t size, void *stream) {
    NEED(find(DEVICE, to, size), INVALID_VALUE);
    return enqueue(stream, (struct operation){SET, (char *)to, NULL, size, byte});
}

int cuStreamCreate(struct object **stream, unsigned flags) {
    NEED(depth, INVALID_CONTEXT);
    NEED(flags == 1, INVALID_VALUE);
    *stream = new_object(STREAM);
    return 0;
}
int cuStreamDestroy(void *stream) { return give_back(is(STREAM, stream)); }
int cuStreamSynchronize(void *handle) {
    struct object *stream = is(STREAM, handle);
    NEED(depth, INVALID_CONTEXT);
    NEED(stream, INVALID_HANDLE);
    NEED(!stream->recording, CAPTURING);
    run(stream, stream->end);
    return 0;
}

int cuEventCreate(struct object **event, unsigned flags) {
    NEED(depth, INVALID_CONTEXT);
    NEED(flags == 2, INVALID_VALUE);
    *event = new_object(EVENT);
    return 0;
}
int cuEventDestroy(void *event) { return give_back(is(EVENT, event)); }
int cuEventQuery(struct object *event) {
    NEED(is(EVENT, event), INVALID_HANDLE);
    NEED(mode, CAPTURING);
    return event->stream && event->stream->first < event->until ? NOT_READY : 0;
}
int cuEventSynchronize(struct object *event) {
    NEED(is(EVENT, event), INVALID_HANDLE);
    NEED(mode, CAPTURING);
    if (event->stream) run(event->stream, event->until);
    return 0;
}
int cuEventRecord(struct object *event, void *handle) {
    struct object *stream = is(STREAM, handle);
    NEED(depth, INVALID_CONTEXT);
    NEED(is(EVENT, event) && stream, INVALID_HANDLE);
    NEED(!stream->recording, CAPTURING);
    event->stream = stream;
    event->until = stream->end;
    return 0;
}
int cuStreamWaitEvent(void *stream, struct object *event, unsigned flags) {
    NEED(is(EVENT, event) && !flags, INVALID_VALUE);
    if (!event->stream) return 0;
    return enqueue(stream, (struct operation){.task = WAIT, .stream = event->stream, .until = event->until});
}

int cuThreadExchangeStreamCaptureMode(int *exchanged) {
    int before = mode;
    NEED(*exchanged == 0 || *exchanged == 1, INVALID_VALUE);   /* CU_STREAM_CAPTURE_MODE_GLOBAL, _THREAD_LOCAL */
    mode = *exchanged;
    *exchanged = before;
    return 0;
}
int cuStreamIsCapturing(void *handle, int *status) {
    struct object *stream = is(STREAM, handle);
    NEED(stream, INVALID_HANDLE);
    *status = stream->recording != NULL;
    return 0;
}
int cuStreamBeginCapture(void *handle, int mode) {
    struct object *stream = is(STREAM, handle);
    NEED(stream && stream != &legacy && !stream->recording, INVALID_HANDLE);
    NEED(mode == 1, INVALID_VALUE);                        /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    stream->recording = new_object(GRAPH);
    return 0;
}
int cuStreamEndCapture(void *handle, struct object **graph) {
    struct object *stream = is(STREAM, handle);
    NEED(stream && stream->recording, INVALID_HANDLE);
    *graph = stream->recording;
    stream->recording = NULL;
    return 0;
}
int cuGraphInstantiateWithFlags(struct object **executable, struct object *graph, uint64_t flags) {
    NEED(is(GRAPH, graph) && !flags, INVALID_VALUE);
    *executable = new_object(EXECUTABLE);
    (*executable)->operations = graph->operations;
    (*executable)->end = graph->end;
    return 0;
}
int cuGraphLaunch(struct object *executable, void *stream) {
    NEED(is(EXECUTABLE, executable), INVALID_HANDLE);
    for (int i = 0; i < executable->end; i++) {
        int error = enqueue(stream, executable->operations[i]);
        NEED(!error, error);
    }
    return 0;
}
int cuGraphDestroy(void *graph) { return give_back(is(GRAPH, graph)); }
int cuGraphExecDestroy(void *executable) { return give_back(is(EXECUTABLE, executable)); }
