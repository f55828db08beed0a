// Found before the installed <hip/hip_runtime.h>, and mends what kernels need of one that is older than HIP 6, such as Debian's.
// From HIP 6 on it adds nothing.
#pragma once
#include_next <hip/hip_runtime.h>
#include <hip/hip_version.h>

// Kernels are compiled without the device library, and registers cannot be told of a kernel that calls a function which is not there.
extern "C" __device__ inline float __ocml_log_f32(float x) { return __builtin_logf(x); }

#if HIP_VERSION_MAJOR < 6
// Where a thread stands, and what else of the device library those headers call.
extern "C" __device__ inline size_t __ockl_get_local_id(uint axis) {
    return axis == 0 ? __builtin_amdgcn_workitem_id_x() : axis == 1 ? __builtin_amdgcn_workitem_id_y() : __builtin_amdgcn_workitem_id_z();
}
extern "C" __device__ inline size_t __ockl_get_group_id(uint axis) {
    return axis == 0 ? __builtin_amdgcn_workgroup_id_x() : axis == 1 ? __builtin_amdgcn_workgroup_id_y() : __builtin_amdgcn_workgroup_id_z();
}
extern "C" __device__ inline size_t __ockl_get_local_size(uint axis) {
    return axis == 0 ? __builtin_amdgcn_workgroup_size_x() : axis == 1 ? __builtin_amdgcn_workgroup_size_y() : __builtin_amdgcn_workgroup_size_z();
}
extern "C" __device__ inline size_t __ockl_get_global_size(uint axis) {
    return axis == 0 ? __builtin_amdgcn_grid_size_x() : axis == 1 ? __builtin_amdgcn_grid_size_y() : __builtin_amdgcn_grid_size_z();
}
extern "C" __device__ inline size_t __ockl_get_num_groups(uint axis) {
    return __ockl_get_global_size(axis) / __ockl_get_local_size(axis);
}
extern "C" __device__ inline uint __ockl_mul_hi_u32(uint a, uint b) {
    return static_cast<uint>((static_cast<unsigned long long>(a) * b) >> 32);
}

// The fences of `__syncthreads`.
extern "C" __device__ inline void __atomic_work_item_fence(__cl_mem_fence_flags, __memory_order order, __memory_scope) {
    if (order == __memory_order_release) {
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    } else if (order == __memory_order_acquire) {
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
    } else {
        __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent");
    }
}

// `blockIdx.x` and the like are objects there, and numbers from HIP 6 on.
#define TETHER_COORDINATE(WHICH, AXIS)                                                                                   \
    __device__ inline uint min(__HIP_Coordinates<WHICH>::AXIS a, uint b) { return min(uint(a), b); }                      \
    __device__ inline uint min(uint a, __HIP_Coordinates<WHICH>::AXIS b) { return min(a, uint(b)); }                      \
    __device__ inline uint max(__HIP_Coordinates<WHICH>::AXIS a, uint b) { return max(uint(a), b); }                      \
    __device__ inline uint max(uint a, __HIP_Coordinates<WHICH>::AXIS b) { return max(a, uint(b)); }
#define TETHER_COORDINATES(WHICH)                                                                                        \
    TETHER_COORDINATE(WHICH, __X) TETHER_COORDINATE(WHICH, __Y) TETHER_COORDINATE(WHICH, __Z)
TETHER_COORDINATES(__HIP_BlockDim)
TETHER_COORDINATES(__HIP_BlockIdx)
TETHER_COORDINATES(__HIP_GridDim)
TETHER_COORDINATES(__HIP_ThreadIdx)
#undef TETHER_COORDINATES
#undef TETHER_COORDINATE
#endif
