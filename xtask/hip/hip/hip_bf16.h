// Found before the installed <hip/hip_bf16.h>, which older packages of HIP lack: then the part of it that kernels use, which convert when
// they load and store and compute in float.
#pragma once
#if __has_include_next(<hip/hip_bf16.h>)
#include_next <hip/hip_bf16.h>
#else
#include <hip/hip_runtime.h>

struct __hip_bfloat16 {
    __bf16 data;

    __hip_bfloat16() = default;
    __device__ __hip_bfloat16(float x) : data(static_cast<__bf16>(x)) {}
    __device__ __hip_bfloat16(double x) : data(static_cast<__bf16>(x)) {}
    __device__ __hip_bfloat16(int x) : data(static_cast<__bf16>(static_cast<float>(x))) {}
    __device__ __hip_bfloat16(unsigned int x) : data(static_cast<__bf16>(static_cast<float>(x))) {}
    __device__ operator float() const { return static_cast<float>(data); }
};
#endif
