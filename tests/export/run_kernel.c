/* Calls y = x + b of a library that TVM compiled; prints y. No TVM is needed: the kernel calls nothing. */
#include <dlfcn.h>
#include <stdio.h>
#include <tvm/ffi/c_api.h>

static DLTensor tensor(float *data, int64_t *shape, int axes) {
  DLTensor made = {0};
  made.data = data;
  made.device.device_type = kDLCPU;
  made.ndim = axes;
  made.dtype.code = kDLFloat;
  made.dtype.bits = 32;
  made.dtype.lanes = 1;
  made.shape = shape;
  return made;
}

int main(int count, char **arguments) {
  (void)count;
  void *library = dlopen(arguments[1], RTLD_LAZY);
  if (library == NULL) return puts(dlerror()), 1;
  TVMFFISafeCallType kernel = (TVMFFISafeCallType)dlsym(library, arguments[2]);
  if (kernel == NULL) return puts(dlerror()), 1;
  static float x[3] __attribute__((aligned(64))) = {1, 2, 3}, b[3] __attribute__((aligned(64))) = {0.5, 0.5, 0.5};
  static float y[3] __attribute__((aligned(64)));
  int64_t sizes[2] = {1, 3}, strides[2] = {3, 1};
  DLTensor tensors[3] = {tensor(x, sizes, 2), tensor(b, sizes + 1, 1), tensor(y, sizes, 2)};
  TVMFFIAny given[3] = {{0}}, result = {0};
  for (int index = 0; index < 3; ++index) {
    tensors[index].strides = tensors[index].ndim == 2 ? strides : strides + 1;
    given[index].type_index = kTVMFFIDLTensorPtr;
    given[index].v_ptr = &tensors[index];
  }
  if (kernel(NULL, given, 3, &result) != 0) return puts("the kernel failed"), 1;
  printf("%g %g %g\n", y[0], y[1], y[2]);
  return 0;
}
