// Attention backwards: P again from lse, transposed products so that P and dS are operands in registers.
#pragma once
#include "attention.cuh"

// Sixteen rows of Q and of dO lie one after the other in shared memory: a slab. In the kernel for long rows, O too.

// lse in base 2 and rowsum(dO O) of rows 0 to `count` of Q's, as pairs into shared memory, GROUP lanes per row. `rows`: slabs of
// PARTS times 16 rows; `out`: O, in global memory unless it is in the slabs (PARTS = 3). Of the rows, `there` exist; the others
// get lse = inf, so that their P is 0. `arrive` waits for the slabs; what comes from global memory is on its way by then.
template <int HEAD_DIM, int PARTS, typename Arrive>
__device__ __forceinline__ void row_statistics(float2* statistics, const float* lse, const bf16* out, size_t pitch,
                                               const uint4* rows, int count, int there, int thread, int threads, Arrive arrive) {
    typedef Rows<HEAD_DIM> R;
    // Rows of a group of lanes whose loads are on their way together.
    constexpr int GROUP = R::GROUP, EACH = R::CHUNKS / GROUP, AHEAD = PARTS == 2 && EACH == 1 ? 8 : 4;
    int lane = thread % GROUP, step = threads / GROUP;
    // All lanes of a warp stay: they exchange their sums.
    for (int first = 0; first < count; first += AHEAD * step) {
        uint4 o[AHEAD][EACH];
        float l[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int row = first + i * step + thread / GROUP;
            l[i] = INFINITY;
            if (row < count && row < there) {
                l[i] = lse[row] * LOG2E;
#pragma unroll
                for (int j = 0; PARTS != 3 && j < EACH; j++) o[i][j] = fetch(out + row * pitch + (lane + j * GROUP) * 8);
            }
        }
        if (first == 0) arrive();
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int row = first + i * step + thread / GROUP;
            float sum = 0;
            if (row < count && row < there) {
                const char* slab = reinterpret_cast<const char*>(rows) + (row / 16 * PARTS + 1) * 16 * R::BYTES;
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    const char* at = slab + R::offset(row % 16, lane + j * GROUP);
                    float a[8], d[8];
                    load(reinterpret_cast<const bf16*>(at), d);
                    unpack(PARTS == 3 ? fetch(reinterpret_cast<const bf16*>(at + 16 * R::BYTES)) : o[i][j], a);
#pragma unroll
                    for (int k = 0; k < 8; k++) sum += a[k] * d[k];
                }
            }
#pragma unroll
            for (int offset = GROUP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
            if (row < count && lane == 0) statistics[row] = make_float2(l[i], sum);
        }
    }
}

// What a lane of transposed products needs of 16 queries: lse and rowsum(dO O) of 2 t, of the next, and of those 8 on.
struct Statistics {
    float4 of[2];

    // `at`: of query 2 t.
    __device__ __forceinline__ Statistics(const float2* at) {
#pragma unroll
        for (int tile = 0; tile < 2; tile++) of[tile] = *reinterpret_cast<const float4*>(at + 8 * tile);
    }

    // S^T of 16 SLABS keys becomes P^T. `key`, `query`: the first of each.
    template <int SLABS>
    __device__ __forceinline__ void probabilities(float (&s)[SLABS][2][4], int key, int query, int tokens, bool causal,
                                                  float to_base_2) const {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[slab][tile][i] = exp2_approx(s[slab][tile][i] * to_base_2 - (i % 2 ? of[tile].z : of[tile].x));
            }
        }
        if (key + 16 * SLABS > tokens || causal && key + 16 * SLABS > query + 1) {
            asm volatile("");  // A branch, which is seldom taken, and not a choice for each number.
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int at_key = key + 16 * slab + g + i % 4 / 2 * 8, at_query = query + i / 4 * 8 + 2 * t + i % 2;
                    if (at_key >= tokens || causal && at_key > at_query) s[slab][i / 4][i % 4] = 0;
                }
            }
        }
    }

    // dP^T becomes dS^T.
    __device__ __forceinline__ void gradients(float (&dp)[2][4], const float (&p)[2][4]) const {
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) dp[tile][i] = p[tile][i] * (dp[tile][i] - (i % 2 ? of[tile].w : of[tile].y));
        }
    }
};

// What a warp has of 16 SLABS keys: dK and dV so far, and K and V unless they are to be loaded each time.
template <int HEAD_DIM, int SLABS, bool KEEP_K, bool KEEP_V> struct Keys {
    typedef Rows<HEAD_DIM> R;
    uint32_t k[KEEP_K ? SLABS : 1][HEAD_DIM / 16][4], v[KEEP_V ? SLABS : 1][HEAD_DIM / 16][4];
    float dk[SLABS][HEAD_DIM / 8][4], dv[SLABS][HEAD_DIM / 8][4];

    // `keys`, `values`: this lane's part of the first tile of each.
    __device__ __forceinline__ void start(uint32_t keys, uint32_t values) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                if (KEEP_K) load_tile<false>(k[slab][i], R::tile(keys, 16 * slab, i));
                if (KEEP_V) load_tile<false>(v[slab][i], R::tile(values, 16 * slab, i));
            }
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 8; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) dk[slab][i][j] = dv[slab][i][j] = 0;
            }
        }
    }

    // Takes 16 queries into account, with `across` and `along` this lane's parts of the first tile of their slab (`keys`,
    // `values`: as above): S^T and dP^T, keys by queries, become P^T and dS^T, which as they stand are operands for dV and
    // dK. dS^T is left in `ds`.
    __device__ __forceinline__ void add(uint32_t (&ds)[SLABS][4], uint32_t keys, uint32_t values, uint32_t across,
                                        uint32_t along, const float2* statistics, int key, int query, int tokens, bool causal,
                                        float to_base_2) {
        float s[SLABS][2][4] = {}, dp[SLABS][2][4] = {};
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t q[4], d[4];
            load_tile<false>(q, R::tile(along, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (!KEEP_K) load_tile<false>(k[0][i], R::tile(keys, 16 * slab, i));
                mma(s[slab], k[KEEP_K ? slab : 0][i], q);
            }
            load_tile<false>(d, R::tile(along, 16, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (!KEEP_V) load_tile<false>(v[0][i], R::tile(values, 16 * slab, i));
                mma(dp[slab], v[KEEP_V ? slab : 0][i], d);
            }
        }
        uint32_t p[SLABS][4];
        Statistics of(statistics + 2 * (threadIdx.x % 4));
        of.probabilities(s, key, query, tokens, causal, to_base_2);
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            of.gradients(dp[slab], s[slab]);
            as_operand(p[slab], s[slab]);
            as_operand(ds[slab], dp[slab]);
        }
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t q[4], d[4];
            load_tile<true>(d, R::tile(across, 16, i));
            load_tile<true>(q, R::tile(across, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                mma(dv[slab] + 2 * i, p[slab], d);
                mma(dk[slab] + 2 * i, ds[slab], q);
            }
        }
    }

    // `to`: dK of the first of the keys, of which `rows` exist; `width` further on is dV.
    __device__ __forceinline__ void store(bf16* to, size_t pitch, int width, int rows, float scale) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            store_rows(to + 16 * slab * pitch, pitch, rows - 16 * slab, dk[slab], scale, scale);
            store_rows(to + 16 * slab * pitch + width, pitch, rows - 16 * slab, dv[slab], 1, 1);
        }
    }
};

// Grid: batch * heads; block: 32 times a number of warps; dynamic shared memory, with R = tokens in whole 16s:
// R * (6 HEAD_DIM + 2 max(R + 8, HEAD_DIM) + 8) bytes.
// Q, K, dO of the head lie in shared memory. Each warp takes 16 keys at a time, with all queries, for dK and dV. Their dS^T goes
// to shared memory, over V, of which each warp needs only its own 16 rows, in registers by then. Then each warp takes 16
// queries at a time, for dQ.
template <int HEAD_DIM>
__device__ void backward(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens, int heads,
                         int causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    extern __shared__ __align__(128) uint4 shared[];
    int threads = blockDim.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Place at(blockIdx.x, tokens, heads, HEAD_DIM);
    size_t pitch = 3 * at.pitch;
    int padded = (tokens + 15) / 16 * 16;
    // Rows of dS^T are an odd number of chunks long: neighbours start at other banks.
    int score_row = (padded + 8) * 2, score_slab = 16 * max(score_row, R::BYTES);
    uint32_t rows = shared_address(shared), keys = rows + 2 * padded * R::BYTES, scores = keys + padded * R::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (3 * padded * R::BYTES + padded / 16 * score_slab) / 8;
    const bf16* from = qkv + at.packed;
    R::fetch(rows + 16 * R::BYTES, dout + at.single, at.pitch, padded, tokens, threadIdx.x, threads, 32 * R::BYTES);
    copies_commit();
    R::fetch(rows, from, pitch, padded, tokens, threadIdx.x, threads, 32 * R::BYTES);
    R::fetch(keys, from + at.width, pitch, padded, tokens, threadIdx.x, threads);
    R::fetch(scores, from + 2 * at.width, pitch, padded, tokens, threadIdx.x, threads, score_slab);
    copies_commit();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.row, out + at.single, at.pitch, shared, padded, tokens, threadIdx.x, threads,
                                [] { copies_wait<1>(), __syncthreads(); });
    copies_wait<0>();
    __syncthreads();

    uint32_t across = R::across(lane), along = R::along(lane);
    float to_base_2 = scale * LOG2E;
    for (int key = 16 * warp; key < tokens; key += threads / 2) {
        uint32_t own = scores + key / 16 * score_slab;
        Keys<HEAD_DIM, 1, HEAD_DIM <= 64, true> of;
        of.start(keys + across + key * R::BYTES, own + across);
        __syncwarp();
        int query = causal ? key : 0;
        uint32_t row = rows + query * 2 * R::BYTES;
        uint32_t low = own + g * score_row + (query + 2 * t) * 2, high = low + 8 * score_row;
#pragma unroll 1
        for (; query < tokens; query += 16, row += 32 * R::BYTES, low += 32, high += 32) {
            uint32_t ds[1][4];
            of.add(ds, keys + across + key * R::BYTES, own + across, row + across, row + along, statistics + query, key, query,
                   tokens, causal, to_base_2);
#pragma unroll
            for (int i = 0; i < 4; i++)
                asm volatile("st.shared.b32 [%0], %1;" ::"r"((i % 2 ? high : low) + i / 2 * 16), "r"(ds[0][i]) : "memory");
        }
        of.store(dqkv + at.packed + at.width + key * pitch, pitch, at.width, tokens - key, scale);
    }
    __syncthreads();

    for (int query = 16 * warp; query < tokens; query += threads / 2) {
        float dq[HEAD_DIM / 8][4] = {};
        int end = causal ? query + 16 : tokens;
        uint32_t score = scores + (lane / 16 * 8 + lane % 8) * score_row + query * 2 + lane / 8 % 2 * 16;
        uint32_t row = keys + across;
#pragma unroll 2
        for (int key = 0; key < end; key += 16, score += score_slab, row += 16 * R::BYTES) {
            uint32_t ds[4];
            load_tile<true>(ds, score);
            product_by_rows<HEAD_DIM>(dq, ds, row, 0);
        }
        store_rows(dqkv + at.packed + query * pitch, pitch, tokens - query, dq, scale, scale);
    }
}

// Any number of tokens. Grid: 2 * batch * heads * ceil(tokens / (64 SLABS)); block: 128; dynamic shared memory:
// (256 SLABS + 12 STAGE) * HEAD_DIM + 8 max(STAGE, 64 SLABS) bytes. The blocks of one head are neighbours, so that what they read
// several times is in the L2 cache. Of its 64 SLABS rows, 16 SLABS go to each warp.
//
// Blocks of the first half: dK and dV of 64 SLABS keys; blocks of STAGE queries (Q, dO, O) pass by, the next one being fetched.
template <int HEAD_DIM, int SLABS, int STAGE>
__device__ __forceinline__ void backward_keys(const Place& at, int first, const bf16* qkv, const bf16* out, const float* lse,
                                              const bf16* dout, bf16* dqkv, int tokens, bool causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    constexpr int OWN = 64 * SLABS, SLAB = 48 * R::BYTES;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, key = first + 16 * SLABS * warp;
    size_t pitch = 3 * at.pitch;
    const bf16* from = qkv + at.packed;
    uint32_t keys = shared_address(shared), values = keys + OWN * R::BYTES, stages = values + OWN * R::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (2 * OWN + 6 * STAGE) * R::BYTES / 8;
    auto fetch = [&](int row) {
        uint32_t to = stages + row / STAGE % 2 * (3 * STAGE * R::BYTES);
        R::fetch(to, from + row * pitch, pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
        R::fetch(to + 16 * R::BYTES, dout + at.single + row * at.pitch, at.pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
        R::fetch(to + 32 * R::BYTES, out + at.single + row * at.pitch, at.pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
    };
    R::fetch(keys, from + at.width + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128);
    R::fetch(values, from + 2 * at.width + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128);
    int begin = causal ? first / STAGE * STAGE : 0;
    fetch(begin);
    copies_commit();
    uint32_t across = R::across(lane), along = R::along(lane), own = keys + across + 16 * SLABS * warp * R::BYTES;
    float to_base_2 = scale * LOG2E;
    copies_wait<0>();
    __syncthreads();
    Keys<HEAD_DIM, SLABS, HEAD_DIM * SLABS <= 64, HEAD_DIM <= 96> of;
    of.start(own, own + OWN * R::BYTES);
    for (int block = begin; block < tokens; block += STAGE) {
        if (block + STAGE < tokens) fetch(block + STAGE);
        copies_commit();
        int stage = block / STAGE % 2 * (3 * STAGE * R::BYTES);
        row_statistics<HEAD_DIM, 3>(statistics, lse + at.row + block, nullptr, 0,
                                    shared + 2 * OWN * R::CHUNKS + stage / 16, STAGE, tokens - block, threadIdx.x, 128,
                                    [] { copies_wait<1>(), __syncthreads(); });
        __syncthreads();
        if (key < tokens) {
            int end = min(tokens - block, STAGE);
            uint32_t row = stages + stage;
#pragma unroll 1
            for (int query = 0; query < end; query += 16, row += SLAB) {
                uint32_t ds[SLABS][4];
                of.add(ds, own, own + OWN * R::BYTES, row + across, row + along, statistics + query, key, block + query, tokens,
                       causal, to_base_2);
            }
        }
        __syncthreads();
    }
    of.store(dqkv + at.packed + at.width + key * pitch, pitch, at.width, tokens - key, scale);
}

// Blocks of the second half: dQ of 64 SLABS queries; blocks of STAGE keys (K, V) pass by.
template <int HEAD_DIM, int SLABS, int STAGE>
__device__ __forceinline__ void backward_queries(const Place& at, int first, const bf16* qkv, const bf16* out, const float* lse,
                                                 const bf16* dout, bf16* dqkv, int tokens, bool causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    constexpr int OWN = 64 * SLABS;
    constexpr bool KEEP = HEAD_DIM <= 80;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, query = first + 16 * SLABS * warp;
    size_t pitch = 3 * at.pitch;
    const bf16* from = qkv + at.packed;
    uint32_t rows = shared_address(shared), stages = rows + 2 * OWN * R::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (2 * OWN + 6 * STAGE) * R::BYTES / 8;
    auto fetch = [&](int row) {
        uint32_t to = stages + row / STAGE % 2 * (2 * STAGE * R::BYTES);
        R::fetch(to, from + at.width + row * pitch, pitch, STAGE, tokens - row, threadIdx.x, 128, 32 * R::BYTES);
        R::fetch(to + 16 * R::BYTES, from + 2 * at.width + row * pitch, pitch, STAGE, tokens - row, threadIdx.x, 128,
                 32 * R::BYTES);
    };
    R::fetch(rows, from + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128, 32 * R::BYTES);
    R::fetch(rows + 16 * R::BYTES, dout + at.single + first * at.pitch, at.pitch, OWN, tokens - first, threadIdx.x, 128,
             32 * R::BYTES);
    copies_commit();
    fetch(0);
    copies_commit();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.row + first, out + at.single + first * at.pitch, at.pitch, shared, OWN,
                                tokens - first, threadIdx.x, 128, [] { copies_wait<1>(), __syncthreads(); });
    uint32_t across = R::across(lane), along = R::along(lane);
    uint32_t own = rows + across + 32 * SLABS * warp * R::BYTES;
    float to_base_2 = scale * LOG2E;
    uint32_t q[SLABS][HEAD_DIM / 16][4], d[SLABS][HEAD_DIM / 16][4];
    float dq[SLABS][HEAD_DIM / 8][4] = {};
    if (KEEP) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                load_tile<false>(q[slab][i], R::tile(own, 32 * slab, i));
                load_tile<false>(d[slab][i], R::tile(own, 32 * slab + 16, i));
            }
        }
    }
    int limit = causal ? min(tokens, first + OWN) : tokens;
    for (int block = 0; block < limit; block += STAGE) {
        if (block + STAGE < limit) fetch(block + STAGE);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        int end = query < tokens ? min(limit - block, STAGE) : 0;
        uint32_t row = stages + block / STAGE % 2 * (2 * STAGE * R::BYTES);
        float2 of[SLABS][2];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int half = 0; half < 2; half++) of[slab][half] = statistics[16 * (SLABS * warp + slab) + g + 8 * half];
        }
#pragma unroll 1
        for (int key = block; key < block + end; key += 16, row += 32 * R::BYTES) {
            float s[SLABS][2][4] = {}, dp[SLABS][2][4] = {};
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                uint32_t k[4], v[4];
                load_tile<false>(k, R::tile(row + along, 0, i));
                load_tile<false>(v, R::tile(row + along, 16, i));
#pragma unroll
                for (int slab = 0; slab < SLABS; slab++) {
                    if (!KEEP) load_tile<false>(q[slab][i], R::tile(own, 32 * slab, i));
                    if (!KEEP) load_tile<false>(d[slab][i], R::tile(own, 32 * slab + 16, i));
                    mma(s[slab], q[slab][i], k);
                    mma(dp[slab], d[slab][i], v);
                }
            }
            bool all = key + 16 <= tokens && !(causal && key + 15 > query);
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                for (int i = 0; i < 8; i++)
                    s[slab][i / 4][i % 4] = exp2_approx(s[slab][i / 4][i % 4] * to_base_2 - of[slab][i % 4 / 2].x);
            }
            if (!all) {
                asm volatile("");
#pragma unroll
                for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        int at_key = key + i / 4 * 8 + 2 * t + i % 2, at_query = query + 16 * slab + g + i % 4 / 2 * 8;
                        if (at_key >= tokens || causal && at_key > at_query) s[slab][i / 4][i % 4] = 0;
                    }
                }
            }
            uint32_t ds[SLABS][4];
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                for (int i = 0; i < 8; i++)
                    dp[slab][i / 4][i % 4] = s[slab][i / 4][i % 4] * (dp[slab][i / 4][i % 4] - of[slab][i % 4 / 2].y);
                as_operand(ds[slab], dp[slab]);
            }
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                uint32_t k[4];
                load_tile<true>(k, R::tile(row + across, 0, i));
#pragma unroll
                for (int slab = 0; slab < SLABS; slab++) mma(dq[slab] + 2 * i, ds[slab], k);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
        int row = query + 16 * slab;
        store_rows(dqkv + at.packed + row * pitch, pitch, tokens - row, dq[slab], scale, scale);
    }
}

template <int HEAD_DIM, int SLABS, int STAGE>
__device__ void backward_long(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens, int heads,
                              int causal, float scale) {
    int blocks = (tokens + 64 * SLABS - 1) / (64 * SLABS), block = blockIdx.x % (2 * blocks);
    Place at(blockIdx.x / (2 * blocks), tokens, heads, HEAD_DIM);
    if (block < blocks)
        backward_keys<HEAD_DIM, SLABS, STAGE>(at, block * 64 * SLABS, qkv, out, lse, dout, dqkv, tokens, causal, scale);
    else
        backward_queries<HEAD_DIM, SLABS, STAGE>(at, (block - blocks) * 64 * SLABS, qkv, out, lse, dout, dqkv, tokens, causal,
                                                 scale);
}
