// Launching kernels: device, stream, grid and errors. The only file with <<< >>>.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <limits>

#include "checks.h"

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

  void zero(void* data, size_t bytes) const { check(cudaMemsetAsync(data, 0, bytes, stream_)); }

  template <class Args>
  void operator()(void (*kernel)(Args), int64_t blocks, const Args& args) const {
    require(blocks > 0 && blocks <= std::numeric_limits<int32_t>::max(),
            "the input is too large for one CUDA grid (", blocks, " blocks); split it.");
    kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(kLanes, kWarps), 0, stream_>>>(args);
    check(cudaGetLastError());
  }

 private:
  static void check(cudaError_t status) {
    require(status != cudaErrorNoKernelImageForDevice,
            "built for other GPUs than this one; set TORCH_CUDA_ARCH_LIST and reinstall.");
    require(status == cudaSuccess, "CUDA: ", cudaGetErrorString(status), ".");
  }

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace mtlfast
