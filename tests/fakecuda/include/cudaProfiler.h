// What PyCUDA includes of it; NVIDIA's own is in no package of PyPI.
#include <cuda.h>
typedef enum { CU_OUT_KEY_VALUE_PAIR, CU_OUT_CSV } CUoutput_mode;
extern "C" {
CUresult cuProfilerInitialize(const char *, const char *, CUoutput_mode);
CUresult cuProfilerStart();
CUresult cuProfilerStop();
}
