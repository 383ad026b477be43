// Each kind of fault with a clean twin: `GOOD` decides which.
// PTX: nvcc -arch=compute_80 -ptx -lineinfo -O3 faults.cu -o faults.ptx
#include <cstdint>

#define TWINS(name, ...)                                                                   \
    template <bool GOOD> __device__ void name##_body(int* data, int n);                    \
    extern "C" __global__ void name##_good(int* data, int n) { name##_body<true>(data, n); } \
    extern "C" __global__ void name##_bad(int* data, int n) { name##_body<false>(data, n); } \
    template <bool GOOD> __device__ void name##_body(int* data, int n)

// 64 threads; `data` has n = 64 numbers, all written.
TWINS(range) { if (threadIdx.x < n + (GOOD ? 0 : 1) && blockDim.x) data[threadIdx.x + (GOOD ? 0 : 1)] = 1; }

TWINS(alignment) {
    if (threadIdx.x == 0) *(int2*)(data + (GOOD ? 2 : 1)) = make_int2(1, 2);
}

TWINS(shared_range) {
    extern __shared__ int dynamic[];
    dynamic[threadIdx.x + (GOOD ? 0 : 1)] = threadIdx.x;
    data[threadIdx.x] = dynamic[threadIdx.x + (GOOD ? 0 : 1)];
}

TWINS(unwritten_shared) {
    __shared__ int values[64];
    if (GOOD || threadIdx.x != 5) values[threadIdx.x] = threadIdx.x;
    __syncthreads();
    data[threadIdx.x] = values[63 - threadIdx.x];
}

TWINS(race) {
    __shared__ int values[64];
    values[threadIdx.x] = threadIdx.x;
    if (GOOD) __syncthreads();
    data[threadIdx.x] = ((volatile int*)values)[63 - threadIdx.x];
}

TWINS(warp_race) {
    __shared__ int values[64];
    values[threadIdx.x] = threadIdx.x;
    if (GOOD) __syncwarp();
    data[threadIdx.x] = ((volatile int*)values)[threadIdx.x ^ 1];
}

// Each warp meets only itself.
TWINS(named_barrier) {
    __shared__ int values[64];
    values[threadIdx.x] = 0;
    __syncthreads();
    values[threadIdx.x] = threadIdx.x;
    asm volatile("bar.sync %0, %1;" ::"r"(GOOD ? 1 : 1 + threadIdx.x / 32), "n"(GOOD ? 64 : 32) : "memory");
    data[threadIdx.x] = ((volatile int*)values)[63 - threadIdx.x];
}

TWINS(barrier) {
    if (GOOD || threadIdx.x < 16 || data[0] == 12345) {
        asm volatile("bar.sync 0;");
    }
    data[threadIdx.x] = 1;
}

TWINS(shuffle) {
    int value = data[threadIdx.x];
    if (GOOD || threadIdx.x % 32 < 16) value = __shfl_xor_sync(~0u, value, 16);
    data[threadIdx.x] = value;
}

TWINS(wait) {
    __shared__ __align__(16) int values[64];
    uint32_t to = (uint32_t)__cvta_generic_to_shared(&values[threadIdx.x]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(data + threadIdx.x));
    asm volatile("cp.async.commit_group;");
    if (GOOD) asm volatile("cp.async.wait_group 0;");
    data[threadIdx.x] = ((volatile int*)values)[threadIdx.x];
}

// Waits for the copy, but not for the other threads.
TWINS(wait_without_barrier) {
    __shared__ __align__(16) int values[64];
    uint32_t to = (uint32_t)__cvta_generic_to_shared(&values[threadIdx.x]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(data + threadIdx.x));
    asm volatile("cp.async.wait_all;");
    if (GOOD) __syncthreads();
    int other = ((volatile int*)values)[63 - threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = other;
}

TWINS(trap) { if (!GOOD && threadIdx.x == 3) __trap(); data[threadIdx.x] = 0; }
