// Multi-head self-attention on packed qkv, for short rows (src/ops/attention).
//
//   S = Q K^T / sqrt(d);  P = softmax(S);  O = P V;  lse = log sum exp S
//   dP = dO V^T;  dS = P (dP - rowsum(dO O));  dV = P^T dO;  dQ = dS K / sqrt(d);  dK = dS^T Q / sqrt(d)
//
// qkv, dqkv: [batch, tokens, 3, heads, head_dim]; out, dout: [batch, tokens, heads, head_dim]; lse: [batch, heads, tokens].
// `causal`: query i sees the keys up to i. `scale` = 1 / sqrt(head_dim). Padded rows and columns exist only in shared memory:
// zeros there, and P = 0.
//
// What the launcher does. All grids and blocks are one-dimensional; B = batch * heads, N = tokens, D = head_dim, R = N in whole
// 16s, c = blocks for which an SM has shared memory (on Hopper 228 KB / (dynamic shared memory + 1 KB)).
//
//   kernel attention_...          | for              | grid                   | block      | dynamic shared memory, bytes
//   forward_bf16_dD_nP            | P - 64 < N <= P  | B                      | 32 w       | (2 P + 16 w) * 2 D
//   forward_bf16_dD_long          | any N            | B * ceil(N / 64)       | 128        | 640 D
//   backward_bf16_dD              | what fits        | B                      | 32 v       | R (6 D + 2 max(R + 8, D) + 8)
//   backward_bf16_dD_long         | any N            | 2 B * ceil(N / (64 s)) | 128        | (256 s + 12 u) D + 8 max(u, 64 s)
//   simple_forward_T              | any D <= 256, N  | ceil(B N / 4), or less | 128        | 0
//   simple_backward_T             | any D <= 256, N  | ceil(B N / 4), or less | 128        | 0
//
//   D         32, 64, 80, 96, 128; T: f32, bf16
//   P         the least that is >= N of: 32, 64, 80, 112, 144, 208, 272 (D 64); 32, 80, 112, 144, 208, 272 (D 80); 64, 128
//             (others). Beyond, forward_long.
//   w         2 for P = 32, else 4
//   v         ceil(R / 16 / ceil(R / 16 / most)), with most = 4 for c >= 3, 6 for c = 2, 12 for c = 1; for D > 80: 4 for
//             c >= 2, else 8 (what the kernels are compiled for). Meant for c >= 2 (D 64: N <= 144); beyond, backward_long.
//   s, u      D 32 and 64: 2, 64; D 80 and 96: 1, 64; D 128: 1, 32
//
// Pointers are multiples of 16 bytes (simple: of T). More than 48 KB of dynamic shared memory must be asked for by the
// function's attribute.
// Every element of out, lse and dqkv is written, by one thread; sums have one order.
#include "mma.cuh"

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// Where one head of one sample is.
struct Place {
    size_t packed, single, row;  // first elements in qkv, out and lse
    size_t pitch;                // elements from token to token in out; three times that in qkv
    int width;                   // elements from q to k to v

    __device__ __forceinline__ Place(size_t index, int tokens, int heads, int head_dim) {
        size_t sample = index / heads, head = index % heads;
        width = heads * head_dim;
        pitch = width;
        packed = sample * tokens * 3 * pitch + head * head_dim;
        single = sample * tokens * pitch + head * head_dim;
        row = index * tokens;
    }
};

// c[16, 16 BLOCKS] = a b^T: `a` 16 rows in registers, b rows in shared memory.
template <int HEAD_DIM, int BLOCKS>
__device__ __forceinline__ void product_by_columns(float (&c)[2 * BLOCKS][4], const uint32_t (&a)[HEAD_DIM / 16][4], uint32_t b) {
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[2 * block][i] = c[2 * block + 1][i] = 0;
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            uint32_t tile[4];
            load_tile<false>(tile, Rows<HEAD_DIM>::tile(b, block * 16, k));
            mma(c + 2 * block, a[k], tile);
        }
    }
}

// c[16, HEAD_DIM] += a b, of a [16, 16] and b [16, HEAD_DIM], rows in shared memory.
template <int HEAD_DIM>
__device__ __forceinline__ void product_by_rows(float (&c)[HEAD_DIM / 8][4], const uint32_t (&a)[4], uint32_t b, int row) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t tile[4];
        load_tile<true>(tile, Rows<HEAD_DIM>::tile(b, row, k));
        mma(c + 2 * k, a, tile);
    }
}

// Sets S to -inf where row `row` + 8 i of a lane does not see the key: beyond the last, or later than the query. Keys from
// `first_key` on; those of the first CLEAR tiles exist (are below `tokens`).
template <int CLEAR, int TILES>
__device__ __forceinline__ void mask(float (&s)[TILES][4], int row, int first_key, int tokens, bool causal) {
    int t = threadIdx.x % 4;
    if (causal) {
        int seen[2] = {min(tokens, row + 1) - first_key - 2 * t, min(tokens, row + 9) - first_key - 2 * t};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * tile + i % 2 >= seen[i / 2]) s[tile][i] = -INFINITY;
        }
    } else {
        int seen = tokens - first_key - 2 * t;
#pragma unroll
        for (int tile = CLEAR; tile < TILES; tile++) {
            if (first_key + 8 * tile + 8 > tokens) {
                asm volatile("");  // A branch that all lanes take, and not a choice for each number.
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (8 * tile + i % 2 >= seen) s[tile][i] = -INFINITY;
            }
        }
    }
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Grid: batch * heads; block: 32 WARPS; dynamic shared memory: (2 PADDED + 16 WARPS) * HEAD_DIM * 2 bytes.
// PADDED - 64 < tokens <= PADDED.
// K and V of the head lie in shared memory; each warp takes 16 queries at a time, all of their S in registers, and has
// fetched the next ones meanwhile.
template <int HEAD_DIM, int PADDED, int WARPS>
__device__ void forward(const bf16* qkv, bf16* out, float* lse, int tokens, int heads, int causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    if (tokens > PADDED || tokens <= PADDED - 64) __trap();  // The wrong kernel: see above.
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    Place at(blockIdx.x, tokens, heads, HEAD_DIM);
    const bf16* from = qkv + at.packed;
    uint32_t keys = shared_address(shared), values = keys + PADDED * R::BYTES;
    uint32_t queries = values + (PADDED + 16 * warp) * R::BYTES;
    auto fetch_queries = [&](int row) {
        if (row < tokens) R::fetch(queries, from + row * 3 * at.pitch, 3 * at.pitch, 16, tokens - row, lane, 32);
        copies_commit();
    };
    R::fetch(keys, from + at.width, 3 * at.pitch, PADDED, tokens, threadIdx.x, 32 * WARPS);
    R::fetch(values, from + 2 * at.width, 3 * at.pitch, PADDED, tokens, threadIdx.x, 32 * WARPS);
    fetch_queries(16 * warp);
    copies_wait<0>();
    __syncthreads();
    uint32_t across = R::across(lane), along = R::along(lane);
    float to_base_2 = scale * LOG2E;
    for (int row = 16 * warp; row < tokens; row += 16 * WARPS) {
        copies_wait<0>();
        __syncwarp();
        uint32_t q[HEAD_DIM / 16][4];
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) load_tile<false>(q[k], R::tile(queries + across, 0, k));
        __syncwarp();
        fetch_queries(row + 16 * WARPS);

        float s[PADDED / 8][4];
        product_by_columns<HEAD_DIM, PADDED / 16>(s, q, keys + along);
        mask<(PADDED > 64 ? PADDED / 8 - 8 : 0)>(s, row + g, 0, tokens, causal);
        float total[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = -INFINITY, sum = 0;
#pragma unroll
            for (int tile = 0; tile < PADDED / 8; tile++) most = fmaxf(most, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
            most = quad_max(most) * to_base_2;
#pragma unroll
            for (int tile = 0; tile < PADDED / 8; tile++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) sum += s[tile][i] = exp2_approx(s[tile][i] * to_base_2 - most);
            }
            total[half] = quad_sum(sum);
            int query = row + g + 8 * half;
            if (lane % 4 == 0 && query < tokens) lse[at.row + query] = (most + __log2f(total[half])) * LN2;
        }

        float o[HEAD_DIM / 8][4] = {};
#pragma unroll
        for (int block = 0; block < PADDED / 16; block++) {
            uint32_t p[4];
            as_operand(p, s + 2 * block);
            product_by_rows<HEAD_DIM>(o, p, values + across, 16 * block);
        }
        store_rows(out + at.single + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, total[0]), __fdividef(1, total[1]));
    }
}

// Keys, or queries, that the kernels for long rows take at a time.
constexpr int BLOCK = 64;

// Any number of tokens. Grid: batch * heads * ceil(tokens / 64); block: 128; dynamic shared memory: 640 * HEAD_DIM bytes.
// 64 queries, 16 per warp; blocks of 64 keys pass by, the next one being fetched, and the softmax is kept up to date.
template <int HEAD_DIM>
__device__ void forward_long(const bf16* qkv, bf16* out, float* lse, int tokens, int heads, int causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    int blocks = (tokens + BLOCK - 1) / BLOCK, first = blockIdx.x % blocks * BLOCK, row = first + 16 * warp;
    Place at(blockIdx.x / blocks, tokens, heads, HEAD_DIM);
    const bf16* from = qkv + at.packed;
    uint32_t queries = shared_address(shared), keys = queries + BLOCK * R::BYTES;  // K, V, and again
    auto fetch = [&](int block) {
        uint32_t to = keys + block % 2 * (2 * BLOCK * R::BYTES);
        const bf16* k = from + at.width + (size_t)block * BLOCK * 3 * at.pitch;
        R::fetch(to, k, 3 * at.pitch, BLOCK, tokens - block * BLOCK, threadIdx.x, 128);
        R::fetch(to + BLOCK * R::BYTES, k + at.width, 3 * at.pitch, BLOCK, tokens - block * BLOCK, threadIdx.x, 128);
    };
    R::fetch(queries, from + first * 3 * at.pitch, 3 * at.pitch, BLOCK, tokens - first, threadIdx.x, 128);
    fetch(0);
    copies_commit();
    uint32_t across = R::across(lane), along = R::along(lane);
    float to_base_2 = scale * LOG2E;
    uint32_t q[HEAD_DIM / 16][4];
    float o[HEAD_DIM / 8][4] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    int end = causal ? first / BLOCK + 1 : blocks;
    for (int block = 0; block < end; block++) {
        if (block + 1 < end) fetch(block + 1);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        if (block == 0) {
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; k++) load_tile<false>(q[k], R::tile(queries + across, 16 * warp, k));
        }
        uint32_t k = keys + block % 2 * (2 * BLOCK * R::BYTES), v = k + BLOCK * R::BYTES;
        float s[BLOCK / 8][4];
        product_by_columns<HEAD_DIM, BLOCK / 16>(s, q, k + along);
        mask<0>(s, row + g, block * BLOCK, tokens, causal);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = -INFINITY, sum = 0;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++) now = fmaxf(now, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
            // Each query sees a key of the first block, so that this is a number from there on.
            now = fmaxf(most[half], quad_max(now) * to_base_2);
            float shrink = exp2_approx(most[half] - now);
            most[half] = now;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) sum += s[tile][i] = exp2_approx(s[tile][i] * to_base_2 - now);
            }
            total[half] = total[half] * shrink + sum;
#pragma unroll
            for (int tile = 0; tile < HEAD_DIM / 8; tile++) o[tile][2 * half] *= shrink, o[tile][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int part = 0; part < BLOCK / 16; part++) {
            uint32_t p[4];
            as_operand(p, s + 2 * part);
            product_by_rows<HEAD_DIM>(o, p, v + across, 16 * part);
        }
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = quad_sum(total[half]);
        int query = row + g + 8 * half;
        if (lane % 4 == 0 && query < tokens) lse[at.row + query] = (most[half] + __log2f(total[half])) * LN2;
    }
    // Past the last row, the address is not used.
    store_rows(out + at.single + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, total[0]), __fdividef(1, total[1]));
}

// Sixteen rows of Q and of dO lie one after the other in shared memory: a slab. In the kernel for long rows, O too.

// lse in base 2 and rowsum(dO O) of rows 0 to `count` of Q's, as pairs into shared memory, GROUP lanes per row. `rows`: slabs of
// PARTS times 16 rows; `out`: O, in global memory unless it is in the slabs (PARTS = 3). Of the rows, `there` exist; the others
// get lse = inf, so that their P is 0.
template <int HEAD_DIM, int PARTS>
__device__ __forceinline__ void row_statistics(float2* statistics, const float* lse, const bf16* out, size_t pitch,
                                               const uint4* rows, int count, int there, int threads) {
    typedef Rows<HEAD_DIM> R;
    constexpr int GROUP = R::GROUP;
    int lane = threadIdx.x % GROUP;
    // All lanes of a warp stay: they exchange their sums.
    for (int first = 0; first < count; first += threads / GROUP) {
        int row = first + threadIdx.x / GROUP;
        bool inside = row < count && row < there;
        float sum = 0;
        if (inside) {
            const char* slab = reinterpret_cast<const char*>(rows) + (row / 16 * PARTS + 1) * 16 * R::BYTES;
#pragma unroll
            for (int chunk = lane; chunk < R::CHUNKS; chunk += GROUP) {
                const char* at = slab + R::offset(row % 16, chunk);
                float o[8], d[8];
                load(reinterpret_cast<const bf16*>(at), d);
                load(PARTS == 3 ? reinterpret_cast<const bf16*>(at + 16 * R::BYTES) : out + row * pitch + chunk * 8, o);
#pragma unroll
                for (int i = 0; i < 8; i++) sum += o[i] * d[i];
            }
        }
#pragma unroll
        for (int offset = GROUP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
        if (row < count && lane == 0) statistics[row] = make_float2(inside ? lse[row] * LOG2E : INFINITY, sum);
    }
}

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
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
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
        bool all = key + 16 * SLABS <= tokens && !(causal && key + 16 * SLABS > query + 1);
        float4 of[2];  // lse and rowsum(dO O) of query 2 t, and of the next
#pragma unroll
        for (int tile = 0; tile < 2; tile++) of[tile] = *reinterpret_cast<const float4*>(statistics + 8 * tile + 2 * t);
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[slab][tile][i] = exp2_approx(s[slab][tile][i] * to_base_2 - (i % 2 ? of[tile].z : of[tile].x));
            }
        }
        if (!all) {
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
        uint32_t p[SLABS][4];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    dp[slab][tile][i] = s[slab][tile][i] * (dp[slab][tile][i] - (i % 2 ? of[tile].w : of[tile].y));
            }
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
    copies_wait<1>();
    __syncthreads();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.row, out + at.single, at.pitch, shared, padded, tokens, threads);
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
        copies_wait<1>();
        __syncthreads();
        int stage = block / STAGE % 2 * (3 * STAGE * R::BYTES);
        row_statistics<HEAD_DIM, 3>(statistics, lse + at.row + block, nullptr, 0,
                                    shared + 2 * OWN * R::CHUNKS + stage / 16, STAGE, tokens - block, 128);
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
    copies_wait<1>();
    __syncthreads();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.row + first, out + at.single + first * at.pitch, at.pitch, shared, OWN,
                                tokens - first, 128);
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

// Any head_dim up to 256 and any number of tokens, in f32 arithmetic: for f32 activations, and for head dims that are not
// multiples of 16. Grid: any, best ceil(batch * heads * tokens / 4); block: 128. One warp per row, column 32 i + lane in a lane.
constexpr int PARTS = 8;

template <typename T> __device__ __forceinline__ void load_row(float (&v)[PARTS], const T* from, int head_dim) {
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int column = 32 * i + threadIdx.x % 32;
        v[i] = column < head_dim ? to_float(from[column]) : 0;
    }
}
template <typename T> __device__ __forceinline__ void store_row(T* to, const float (&v)[PARTS], float factor, int head_dim) {
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int column = 32 * i + threadIdx.x % 32;
        if (column < head_dim) to[column] = from_float<T>(v[i] * factor);
    }
}
__device__ __forceinline__ float dot(const float (&a)[PARTS], const float (&b)[PARTS]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS; i++) sum += a[i] * b[i];
    return warp_sum(sum);
}

template <typename T>
__device__ void simple_forward(const T* qkv, T* out, float* lse, int batch, int tokens, int heads, int head_dim, int causal,
                               float scale) {
    size_t rows = (size_t)batch * heads * tokens;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        Place at(row / tokens, tokens, heads, head_dim);
        int query = row % tokens;
        float q[PARTS], o[PARTS] = {}, most = -INFINITY, total = 0;
        load_row(q, qkv + at.packed + query * 3 * at.pitch, head_dim);
        int end = causal ? query + 1 : tokens;
        for (int key = 0; key < end; key++) {
            const T* from = qkv + at.packed + at.width + key * 3 * at.pitch;
            float k[PARTS], v[PARTS];
            load_row(k, from, head_dim);
            load_row(v, from + at.width, head_dim);
            float s = dot(q, k) * scale, now = fmaxf(most, s);
            float shrink = expf(most - now), p = expf(s - now);
            most = now;
            total = total * shrink + p;
#pragma unroll
            for (int i = 0; i < PARTS; i++) o[i] = o[i] * shrink + p * v[i];
        }
        store_row(out + at.single + query * at.pitch, o, 1 / total, head_dim);
        if (threadIdx.x % 32 == 0) lse[row] = most + logf(total);
    }
}

// Each warp takes a row as a query, for dQ, and as a key, for dK and dV.
template <typename T>
__device__ void simple_backward(const T* qkv, const T* out, const float* lse, const T* dout, T* dqkv, int batch, int tokens, int heads,
                                int head_dim, int causal, float scale) {
    size_t rows = (size_t)batch * heads * tokens;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        Place at(row / tokens, tokens, heads, head_dim);
        int own = row % tokens;
        const T* from = qkv + at.packed;
        float q[PARTS], k[PARTS], v[PARTS], d[PARTS], o[PARTS];
        float dq[PARTS] = {}, dk[PARTS] = {}, dv[PARTS] = {};
        load_row(q, from + own * 3 * at.pitch, head_dim);
        load_row(d, dout + at.single + own * at.pitch, head_dim);
        load_row(o, out + at.single + own * at.pitch, head_dim);
        float along = dot(d, o);
        for (int key = 0; key < (causal ? own + 1 : tokens); key++) {
            load_row(k, from + at.width + key * 3 * at.pitch, head_dim);
            load_row(v, from + 2 * at.width + key * 3 * at.pitch, head_dim);
            float ds = expf(dot(q, k) * scale - lse[row]) * (dot(d, v) - along);
#pragma unroll
            for (int i = 0; i < PARTS; i++) dq[i] += ds * k[i];
        }
        load_row(k, from + at.width + own * 3 * at.pitch, head_dim);
        load_row(v, from + 2 * at.width + own * 3 * at.pitch, head_dim);
        for (int query = causal ? own : 0; query < tokens; query++) {
            load_row(q, from + query * 3 * at.pitch, head_dim);
            load_row(d, dout + at.single + query * at.pitch, head_dim);
            load_row(o, out + at.single + query * at.pitch, head_dim);
            float p = expf(dot(q, k) * scale - lse[at.row + query]), ds = p * (dot(d, v) - dot(d, o));
#pragma unroll
            for (int i = 0; i < PARTS; i++) dk[i] += ds * q[i], dv[i] += p * d[i];
        }
        T* to = dqkv + at.packed + own * 3 * at.pitch;
        store_row(to, dq, scale, head_dim);
        store_row(to + at.width, dk, scale, head_dim);
        store_row(to + 2 * at.width, dv, 1, head_dim);
    }
}

#define FORWARD(NAME, BODY, THREADS, BLOCKS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const bf16* qkv, bf16* out, float* lse, int batch,          \
                                                                       int tokens, int heads, int causal, float scale) {           \
        BODY(qkv, out, lse, tokens, heads, causal, scale);                                                                         \
    }
#define BACKWARD(NAME, BODY, THREADS, BLOCKS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                                  \
        NAME(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int batch, int tokens, int heads,    \
             int causal, float scale) {                                                                                            \
        BODY(qkv, out, lse, dout, dqkv, tokens, heads, causal, scale);                                                             \
    }
#define COMMA ,
#define WHOLE(D, N, WARPS, BLOCKS)                                                                                               \
    FORWARD(attention_forward_bf16_d##D##_n##N, forward<D COMMA N COMMA WARPS>, 32 * WARPS, BLOCKS)
#define KERNELS(D, FORWARDS, WARPS, SLABS, STAGE)                                                                               \
    FORWARD(attention_forward_bf16_d##D##_long, forward_long<D>, 128, FORWARDS)                                                    \
    BACKWARD(attention_backward_bf16_d##D, backward<D>, 32 * WARPS, 1)                                                             \
    BACKWARD(attention_backward_bf16_d##D##_long, backward_long<D COMMA SLABS COMMA STAGE>, 128, 2)
#define SIMPLE(TYPE, NAME)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        attention_simple_forward_##NAME(const TYPE* qkv, TYPE* out, float* lse, int batch, int tokens, int heads, int head_dim,     \
                                        int causal, float scale) {                                                                 \
        simple_forward<TYPE>(qkv, out, lse, batch, tokens, heads, head_dim, causal, scale);                                        \
    }                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        attention_simple_backward_##NAME(const TYPE* qkv, const TYPE* out, const float* lse, const TYPE* dout, TYPE* dqkv,          \
                                         int batch, int tokens, int heads, int head_dim, int causal, float scale) {                \
        simple_backward<TYPE>(qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim, causal, scale);                           \
    }

WHOLE(32, 64, 4, 4)
WHOLE(32, 128, 4, 3)
WHOLE(64, 32, 2, 8)
WHOLE(64, 64, 4, 4)
WHOLE(64, 80, 4, 4)
WHOLE(64, 112, 4, 3)
WHOLE(64, 144, 4, 3)
WHOLE(64, 208, 4, 2)
WHOLE(64, 272, 4, 2)
WHOLE(80, 32, 2, 8)
WHOLE(80, 80, 4, 4)
WHOLE(80, 112, 4, 3)
WHOLE(80, 144, 4, 2)
WHOLE(80, 208, 4, 2)
WHOLE(80, 272, 4, 2)
WHOLE(96, 64, 4, 3)
WHOLE(96, 128, 4, 2)
WHOLE(128, 64, 4, 3)
WHOLE(128, 128, 4, 2)
KERNELS(32, 4, 12, 2, 64)
KERNELS(64, 3, 12, 2, 64)
KERNELS(80, 2, 12, 1, 64)
KERNELS(96, 2, 8, 1, 64)
KERNELS(128, 2, 8, 1, 32)
SIMPLE(float, f32)
SIMPLE(bf16, bf16)
