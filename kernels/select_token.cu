// One token of each sequence (src/ops/select_token): y[b] = x[b, at], where `at` is places[b], or `place` if `places`
// is null.
// x, dx: [batch, tokens, width]; y, dy: [batch, width]; width: a multiple of SIZE<T>. Grid: any; block: 256.
#include "common.cuh"

// One thread per pack of y. Bytes moved: y twice.
template <typename T>
__device__ void forward(const T* x, const uint32_t* places, int place, T* y, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        size_t sample = at / width;
        size_t token = places ? places[sample] : place;
        float v[N];
        load(x + (sample * tokens + token) * width + at % width, v);
        store(y + at, v);
    }
}

// dx[b, at] = dy[b], zero elsewhere. One thread per pack of dx. Bytes moved: dx and dy.
template <typename T>
__device__ void backward(const T* dy, const uint32_t* places, int place, T* dx, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t sample_len = (size_t)tokens * width;
    size_t total = batch * sample_len;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        size_t sample = at / sample_len, in_sample = at % sample_len;
        size_t token = places ? places[sample] : place;
        float v[N] = {};
        // One subtraction instead of a division: before the token it wraps round to a large number.
        size_t column = in_sample - token * width;
        if (column < width) load(dy + sample * width + column, v);
        store(dx + at, v);
    }
}

// places[b]: the first place of the largest token if `id` is negative, else the first place of `id`, or 0 without one.
// tokens: [batch, context], none negative. One warp per sequence. Grid: any; block: 256. Bytes moved: tokens.
extern "C" __global__ void __launch_bounds__(256)
    find_token(const int* tokens, uint32_t* places, int batch, int context, int id) {
    int lane = threadIdx.x % 32;
    for (size_t row = thread_index() / 32; row < batch; row += thread_count() / 32) {
        int best = -1;
        int place = 0;
        for (int at = lane; at < context; at += 32) {
            int token = tokens[row * context + at];
            int rank = id < 0 ? token : token == id;
            if (rank > best) best = rank, place = at;
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
            int other = __shfl_xor_sync(ALL_LANES, best, offset);
            int other_place = __shfl_xor_sync(ALL_LANES, place, offset);
            if (other > best || (other == best && other_place < place)) best = other, place = other_place;
        }
        if (lane == 0) places[row] = place;
    }
}

#define KERNELS(TYPE, NAME)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) select_token_forward_##NAME(                       \
        const TYPE* x, const uint32_t* places, int place, TYPE* y, int batch, int tokens, int width) {   \
        forward(x, places, place, y, batch, tokens, width);                                              \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) select_token_backward_##NAME(                      \
        const TYPE* dy, const uint32_t* places, int place, TYPE* dx, int batch, int tokens, int width) { \
        backward(dy, places, place, dx, batch, tokens, width);                                           \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
