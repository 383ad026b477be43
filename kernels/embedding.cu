// Token embedding with learned positions (src/ops/embedding): out[b, t] = table[token[b, t]] + pos[t].
// Backward: dtable[v] (+)= sum of dout over the places of token v. dpos is `column_sums` over samples (reduce.cu).
#include "common.cuh"

// One thread per pack. Grid: any; block: 256. tokens: [places], table: [vocab, width] of T, pos: [context, width];
// width: a multiple of SIZE<T>. Bytes moved: out, and the rows of the table that occur.
template <typename T>
__device__ void forward(const int* tokens, const T* table, const float* pos, T* out, int places, int context, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)places * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        unsigned place = at / width, column = at % width;
        float v[N], p[N];
        load(table + (size_t)tokens[place] * width + column, v);
        load_params(pos + (size_t)(place % context) * width + column, p);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] += p[i];
        store(out + at, v);
    }
}

// Rows of the table that one block owns, and tokens that it looks at together.
constexpr int ROWS = 8, THREADS = 256, CHUNK = 4 * THREADS;

// A block walks through all tokens (they stay in L2), lists the places of its rows in order, and adds up dout there: every
// sum has one order, with no atomics and no sorting. Groups of threads, each as many as a row has packs, take the listed
// places in turns; sums wait in shared memory until the end.
// Grid: ceil(vocab / ROWS); block: 256; dynamic shared memory: groups * ROWS * width * 4 bytes with
// groups = max(1, 256 / (width / SIZE<T>)), at most `most` (chosen by the launcher to fit). tokens: 16-byte aligned.
template <typename T>
__device__ void backward(const int* tokens, const T* dout, float* dtable, int places, int width, int vocab, int groups,
                         int accumulate) {
    constexpr int N = SIZE<T>;
    extern __shared__ float sums[]; // [groups][ROWS][width]
    __shared__ int found[CHUNK];    // place * ROWS + row
    __shared__ int counts[THREADS / 32];
    int first = blockIdx.x * ROWS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int packs = width / N, group = threadIdx.x / packs, pack = threadIdx.x % packs;
    // A row with more packs than there are threads is walked in strides of the whole block.
    int stride = packs < THREADS ? packs : THREADS;
    if (packs > THREADS) group = 0, pack = threadIdx.x;
    for (int i = threadIdx.x; i < groups * ROWS * width; i += THREADS) sums[i] = 0;
    for (int base = 0; base < places; base += CHUNK) {
        int at = base + threadIdx.x * 4, rows[4];
        if (at + 4 <= places) {
            int4 four = *reinterpret_cast<const int4*>(tokens + at);
            rows[0] = four.x - first, rows[1] = four.y - first, rows[2] = four.z - first, rows[3] = four.w - first;
        } else {
            for (int i = 0; i < 4; i++) rows[i] = at + i < places ? tokens[at + i] - first : ROWS;
        }
        int mine = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) mine += (unsigned)rows[i] < ROWS;
        if (!__syncthreads_or(mine)) continue;
        // Where this thread's places go in the list: behind those of the lanes and warps before it.
        int before = mine;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            int other = __shfl_up_sync(ALL_LANES, before, offset);
            if (lane >= offset) before += other;
        }
        if (lane == 31) counts[warp] = before;
        __syncthreads();
        int to = before - mine, total = 0;
        for (int w = 0; w < THREADS / 32; w++) {
            if (w < warp) to += counts[w];
            total += counts[w];
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if ((unsigned)rows[i] < ROWS) found[to++] = (at + i) * ROWS + rows[i];
        __syncthreads();
        if (group >= groups) continue;
        for (int p = pack; p < packs; p += stride) {
            float* own = sums + (size_t)group * ROWS * width + p * N;
            // Runs of one row, as padding makes them, are summed in registers.
            float sum[N] = {};
            int row = -1;
            for (int e = group; e < total; e += groups) {
                int here = found[e] % ROWS;
                if (here != row) {
                    if (row >= 0)
                        for (int i = 0; i < N; i++) own[row * width + i] += sum[i];
                    for (int i = 0; i < N; i++) sum[i] = 0;
                    row = here;
                }
                float v[N];
                load(dout + (size_t)(found[e] / ROWS) * width + p * N, v);
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] += v[i];
            }
            if (row >= 0)
                for (int i = 0; i < N; i++) own[row * width + i] += sum[i];
        }
    }
    __syncthreads();
    int owned = min(ROWS, vocab - first) * width;
    for (int i = threadIdx.x; i < owned; i += THREADS) {
        float total = accumulate ? dtable[(size_t)first * width + i] : 0;
        for (int g = 0; g < groups; g++) total += sums[g * ROWS * width + i];
        dtable[(size_t)first * width + i] = total;
    }
}

#define KERNELS(TYPE, NAME)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) embedding_forward_##NAME(                                           \
        const int* tokens, const TYPE* table, const float* pos, TYPE* out, int places, int context, int width) {          \
        forward(tokens, table, pos, out, places, context, width);                                                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) embedding_backward_##NAME(                                          \
        const int* tokens, const TYPE* dout, float* dtable, int places, int width, int vocab, int groups,                 \
        int accumulate) {                                                                                                 \
        backward(tokens, dout, dtable, places, width, vocab, groups, accumulate);                                         \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
