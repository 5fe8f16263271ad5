/* Calls a kernel of a library that TVM compiled, without TVM: all that a kernel calls is what gives it memory.

   run_kernel LIBRARY KERNEL TENSOR...; a tensor is CODE:BITS:SIZExSIZE...:FILE, its type's as DLPack has it. Files hold
   the numbers; that of the last tensor is written. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { AXES = 6, TENSORS = 8 };

static DLTensor tensors[TENSORS];
static int64_t shapes[TENSORS][AXES], strides[TENSORS][AXES];
static char *paths[TENSORS];

static size_t read_tensor(int index, char *text) {
  DLTensor *made = &tensors[index];
  made->device.device_type = kDLCPU;
  made->dtype.code = (uint8_t)strtol(text, &text, 10);
  made->dtype.bits = (uint8_t)strtol(text + 1, &text, 10);
  made->dtype.lanes = 1;
  do shapes[index][made->ndim++] = strtol(text + 1, &text, 10);
  while (*text == 'x');
  paths[index] = text + 1;
  int64_t count = 1;
  for (int axis = made->ndim - 1; axis >= 0; --axis) {
    strides[index][axis] = count;
    count *= shapes[index][axis];
  }
  made->shape = shapes[index];
  made->strides = strides[index];
  size_t bytes = (size_t)count * made->dtype.bits / 8;
  made->data = aligned_alloc(64, (bytes + 63) / 64 * 64);
  return bytes;
}

/* In place of TVM's memory. */
static void *take(int device, int number, uint64_t bytes, int code, int bits) {
  (void)device, (void)number, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int give_back(int device, int number, void *memory) {
  (void)device, (void)number;
  free(memory);
  return 0;
}

static void set(void *library, const char *name, void *function) {
  void **place = dlsym(library, name);
  if (place != NULL) *place = function;
}

int main(int count, char **arguments) {
  void *library = dlopen(arguments[1], RTLD_LAZY);
  if (library == NULL) return puts(dlerror()), 1;
  TVMFFISafeCallType kernel = (TVMFFISafeCallType)dlsym(library, arguments[2]);
  if (kernel == NULL) return puts(dlerror()), 1;
  set(library, "__TVMBackendAllocWorkspace", (void *)take);
  set(library, "__TVMBackendFreeWorkspace", (void *)give_back);
  TVMFFIAny given[TENSORS] = {{0}}, result = {0};
  int last = count - 4;
  size_t bytes = 0;
  for (int index = 0; index <= last; ++index) {
    bytes = read_tensor(index, arguments[3 + index]);
    FILE *file = index == last ? NULL : fopen(paths[index], "rb");
    if (file != NULL && fread(tensors[index].data, 1, bytes, file) != bytes) return puts("a file is too short"), 1;
    given[index].type_index = kTVMFFIDLTensorPtr;
    given[index].v_ptr = &tensors[index];
  }
  if (kernel(NULL, given, last + 1, &result) != 0) return puts("the kernel failed"), 1;
  FILE *file = fopen(paths[last], "wb");
  return fwrite(tensors[last].data, 1, bytes, file) != bytes;
}
