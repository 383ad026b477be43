// Adds up the gradients of a tensor that is used twice (src/device/cuda/mod.rs).
#include "common.cuh"

// into += from, both [len]. One thread per pack; the last pack may be shorter. Grid: any; block: 256.
template <typename T> __device__ void add_into(T* into, const T* from, size_t len) {
    constexpr int N = SIZE<T>;
    for (size_t at = thread_index() * N; at < len; at += thread_count() * N) {
        if (at + N <= len) {
            float a[N], b[N];
            load(into + at, a);
            load(from + at, b);
#pragma unroll
            for (int i = 0; i < N; i++) a[i] += b[i];
            store(into + at, a);
        } else {
            for (size_t i = at; i < len; i++) into[i] = from_float<T>(to_float(into[i]) + to_float(from[i]));
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) add_into_bf16(bf16* into, const bf16* from, size_t len) {
    add_into(into, from, len);
}
extern "C" __global__ void __launch_bounds__(256) add_into_f32(float* into, const float* from, size_t len) {
    add_into(into, from, len);
}
