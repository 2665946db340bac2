// Launching kernels: device, stream, grid and errors. The only file with <<< >>>.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <atomic>
#include <limits>

#include "call.h"

namespace mtlfast {

constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;

// The current stream of a device. A build for torch 2.11 has no stable call for it, and torch loads
// libtorch_cuda locally, where dlsym(RTLD_DEFAULT) does not look; CPU torch does not have it at
// all.
inline cudaStream_t current_stream(int32_t device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const Getter get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library == nullptr
               ? nullptr
               : reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  require(get != nullptr, "this PyTorch has no CUDA streams; use backend='reference'.");
  void* stream = nullptr;
  require(get(device, &stream) == 0, "PyTorch gave no current stream for cuda:", device, ".");
  return static_cast<cudaStream_t>(stream);
}

// From Hopper on, a kernel may be on the device before the one that it follows has ended. It waits
// where it needs the other's results, all of which are there then.
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Launches on the device and current stream of a tensor.
class Launcher {
 public:
  explicit Launcher(const Tensor& like)
      : guard_(like.get_device_index()), stream_(current_stream(like.get_device_index())) {
    // The runtime linked in here is not torch's, and it may remember another device.
    check(cudaSetDevice(like.get_device_index()));
  }

  // A kernel that begins with wait_for_previous_kernel(), and so may be launched early.
  template <class Args>
  void next(void (*kernel)(Args), int64_t blocks, int warps, const Args& args) const {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(kLanes, warps);
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = waits(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, args));
  }

  template <class Args>
  void operator()(void (*kernel)(Args), int64_t blocks, const Args& args) const {
    require(blocks > 0 && blocks <= std::numeric_limits<int32_t>::max(),
            "the input is too large for one CUDA grid (", blocks, " blocks); split it.");
    kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(kLanes, kWarps), 0, stream_>>>(args);
    check(cudaGetLastError());
  }

 private:
  // Whether the code for this device waits: it may have been compiled for an older one.
  bool waits(const void* kernel) const {
    constexpr int kDevices = 64;
    static std::atomic<int8_t> known[kDevices];
    int device = 0;
    check(cudaGetDevice(&device));
    int8_t found = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
    if (found == 0) {
      cudaFuncAttributes attributes;
      check(cudaFuncGetAttributes(&attributes, kernel));
      found = attributes.ptxVersion >= 90 ? 1 : -1;
      if (device < kDevices) known[device].store(found, std::memory_order_relaxed);
    }
    return found > 0;
  }

  static void check(cudaError_t status) {
    require(status != cudaErrorNoKernelImageForDevice,
            "built for other GPUs than this one; set TORCH_CUDA_ARCH_LIST and reinstall.");
    require(status == cudaSuccess, "CUDA: ", cudaGetErrorString(status), ".");
  }

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace mtlfast
