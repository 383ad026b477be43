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

// Places whose equal tokens are summed beforehand, and how many of them must be equal for it to be worth it.
constexpr int SEGMENT = 128; // launcher
constexpr int OFTEN = 8;

// Rows of the table that one block owns; tokens that it looks at together; rows of dout on their way.
constexpr int ROWS = 8; // launcher
constexpr int THREADS = 256, CHUNK = 4 * THREADS, AHEAD = 4;

// Of each token that is often in a segment of places, the sum of dout over its places there, at the first of them; so that a token
// that is everywhere, as padding is, does not leave one block to add up most of dout. `rest` is what is left to do: a token v
// whose row of dout counts, -2 - v where the row of `sums` counts, or -1.
// Grid: ceil(places / SEGMENT); block: 256. rest: [places]; sums: [places, width].
template <typename T>
__device__ void merge(const int* tokens, const T* dout, int* rest, float* sums, int places, int width) {
    constexpr int N = SIZE<T>;
    // `next`: the next place of the same token, or `count`.
    __shared__ int token[SEGMENT], next[SEGMENT];
    __shared__ bool leads[SEGMENT];
    int base = blockIdx.x * SEGMENT, count = min(SEGMENT, places - base), own = threadIdx.x;
    if (own < count) token[own] = tokens[base + own];
    __syncthreads();
    if (own < count) {
        int before = 0, after = 0;
        next[own] = count;
        for (int place = count - 1; place >= 0; place--) {
            if (token[place] != token[own]) continue;
            if (place > own) after++, next[own] = place;
            else if (place < own) before++;
        }
        bool often = before + 1 + after >= OFTEN;
        leads[own] = often && before == 0;
        rest[base + own] = leads[own] ? -2 - token[own] : often ? -1 : token[own];
    }
    __syncthreads();
    // Groups of threads, each as many as a row has packs, take the tokens in turns.
    int packs = width / N, lanes = min(packs, THREADS), groups = THREADS / lanes, group = threadIdx.x / lanes, turn = 0;
    for (int leader = 0; leader < count; leader++) {
        if (!leads[leader]) continue;
        bool mine = turn == group;
        turn = turn + 1 < groups ? turn + 1 : 0;
        if (!mine) continue;
        for (int pack = threadIdx.x % lanes; pack < packs; pack += lanes) {
            float sum[N] = {};
            for (int place = leader; place < count;) {
                uint4 raw[AHEAD];
                int taken = 0;
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (place >= count) continue;
                    raw[i] = fetch(dout + (size_t)(base + place) * width + pack * N);
                    place = next[place], taken = i + 1;
                }
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (i >= taken) continue;
                    float v[N];
                    unpack(raw[i], v);
#pragma unroll
                    for (int j = 0; j < N; j++) sum[j] += v[j];
                }
            }
            store_f32(sums + (size_t)(base + leader) * width + pack * N, sum);
        }
    }
}

// A block walks through all tokens (they stay in L2), lists the places of its rows in order, and adds up dout there: every
// sum has one order, with no atomics and no sorting. Groups of threads, each as many as a row has packs, take the listed
// places in turns; sums wait in shared memory until the end. Tokens and `sums` as `merge` leaves them; others need no `sums`.
// Grid: ceil(vocab / ROWS); block: 256; dynamic shared memory: groups * ROWS * width * 4 bytes with
// groups = max(1, 256 / (width / SIZE<T>)), at most `most` (chosen by the launcher to fit). tokens: 16-byte aligned.
template <typename T>
__device__ void backward(const int* tokens, const T* dout, const float* merged, float* dtable, int places, int width, int vocab, int groups,
                         int accumulate) {
    constexpr int N = SIZE<T>;
    extern __shared__ float sums[]; // [groups][ROWS][width]
    __shared__ int found[CHUNK];    // (place * ROWS + row) * 2, and 1 if it is a sum
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
            rows[0] = four.x, rows[1] = four.y, rows[2] = four.z, rows[3] = four.w;
        } else {
            for (int i = 0; i < 4; i++) rows[i] = at + i < places ? tokens[at + i] : -1;
        }
        int mine = 0;
        unsigned sums_of = 0;  // a bit for each
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (rows[i] < -1) rows[i] = -2 - rows[i], sums_of |= 1 << i;
            rows[i] = rows[i] < 0 ? ROWS : rows[i] - first;
            mine += (unsigned)rows[i] < ROWS;
        }
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
            if ((unsigned)rows[i] < ROWS) found[to++] = ((at + i) * ROWS + rows[i]) * 2 + (sums_of >> i & 1);
        __syncthreads();
        if (group >= groups) continue;
        for (int p = pack; p < packs; p += stride) {
            float* own = sums + (size_t)group * ROWS * width + p * N;
            // Runs of one row, as padding makes them, are summed in registers. Such a row has one block do it all: many of its
            // loads must be on their way at once.
            float sum[N] = {};
            int row = -1;
            for (int e = group; e < total; e += AHEAD * groups) {
                uint4 raw[AHEAD][N / 4];
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (e + i * groups >= total) continue;
                    int entry = found[e + i * groups];
                    size_t from = (size_t)(entry / (2 * ROWS)) * width + p * N;
                    if (entry & 1) {
#pragma unroll
                        for (int j = 0; j < N / 4; j++) raw[i][j] = fetch(merged + from + 4 * j);
                    } else {
                        raw[i][0] = fetch(dout + from);
                    }
                }
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (e + i * groups >= total) continue;
                    int entry = found[e + i * groups], here = entry / 2 % ROWS;
                    if (here != row) {
                        if (row >= 0)
                            for (int j = 0; j < N; j++) own[row * width + j] += sum[j];
                        for (int j = 0; j < N; j++) sum[j] = 0;
                        row = here;
                    }
                    float v[N];
                    if (entry & 1) unpack_f32(raw[i], v);
                    else unpack(raw[i][0], v);
#pragma unroll
                    for (int j = 0; j < N; j++) sum[j] += v[j];
                }
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
        const int* tokens, const TYPE* dout, const float* merged, float* dtable, int places, int width, int vocab,        \
        int groups, int accumulate) {                                                                                     \
        backward(tokens, dout, merged, dtable, places, width, vocab, groups, accumulate);                                 \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) embedding_merge_##NAME(                                             \
        const int* tokens, const TYPE* dout, int* rest, float* sums, int places, int width) {                             \
        merge(tokens, dout, rest, sums, places, width);                                                                   \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
