// Kernels of the kinds that flipk has, for the emulator's tests.
// PTX: nvcc -arch=compute_80 -ptx -lineinfo -O3 kernels.cu -o kernels.ptx
#include <cuda_bf16.h>
#include <cstdint>

// y[row] = (x[row] - mean) * rstd, one warp per row; rows of `width` floats, a multiple of 4.
extern "C" __global__ void layernorm(const float4* x, float4* y, int rows, int width) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float4* in = x + (size_t)row * (width / 4);
    float sum = 0, squares = 0;
    for (int i = lane; i < width / 4; i += 32) {
        float4 v = in[i];
        sum += v.x + v.y + v.z + v.w;
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(~0u, sum, offset);
        squares += __shfl_xor_sync(~0u, squares, offset);
    }
    float mean = sum / width, rstd = rsqrtf(squares / width - mean * mean + 1e-6f);
    for (int i = lane; i < width / 4; i += 32) {
        float4 v = in[i];
        y[(size_t)row * (width / 4) + i] =
            make_float4((v.x - mean) * rstd, (v.y - mean) * rstd, (v.z - mean) * rstd, (v.w - mean) * rstd);
    }
}

// Sums blocks of floats: a tree in shared memory, then one integer count per block.
extern "C" __global__ void block_sums(const float* x, float* sums, unsigned* done, int n) {
    __shared__ float partial[256];
    int i = blockIdx.x * 256 + threadIdx.x;
    partial[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = partial[0];
        atomicAdd(done, 1u);
    }
}

__device__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// C[64, 64] = A[64, k] B[k, 64] in bf16 with f32 sums, k a multiple of 16: cp.async, ldmatrix, mma. 4 warps of 16 rows.
// Rows are padded to 24 and 72 elements, so that ldmatrix meets no bank twice.
extern "C" __global__ void matmul(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) {
    __shared__ __align__(16) __nv_bfloat16 sa[2][64][24], sb[2][16][72];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto fetch = [&](int stage, int from) {
        int row = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&sa[stage][row][column])),
                     "l"(a + row * k + from + column));
        row = threadIdx.x / 8, column = threadIdx.x % 8 * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&sb[stage][row][column])),
                     "l"(b + (from + row) * 64 + column));
        asm volatile("cp.async.commit_group;");
    };
    float sums[8][4] = {};
    fetch(0, 0);
    for (int step = 0; step < k / 16; step++) {
        if (step + 1 < k / 16) {
            fetch((step + 1) % 2, (step + 1) * 16);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        uint32_t fa[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
                     : "r"(shared_address(&sa[step % 2][warp * 16 + lane % 16][lane / 16 * 8])));
        for (int tile = 0; tile < 8; tile++) {
            uint32_t fb[2];
            asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                         : "=r"(fb[0]), "=r"(fb[1])
                         : "r"(shared_address(&sb[step % 2][lane % 16][tile * 8])));
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                         "{%0,%1,%2,%3};"
                         : "+f"(sums[tile][0]), "+f"(sums[tile][1]), "+f"(sums[tile][2]), "+f"(sums[tile][3])
                         : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
        }
        __syncthreads();
    }
    for (int tile = 0; tile < 8; tile++)
        for (int i = 0; i < 4; i++)
            c[(warp * 16 + lane / 4 + i / 2 * 8) * 64 + tile * 8 + lane % 4 * 2 + i % 2] = sums[tile][i];
}

// Each lane walks its own number of steps; all meet again afterwards.
extern "C" __global__ void diverge(const int* steps, int* out) {
    int n = steps[threadIdx.x], value = 1;
    for (int i = 0; i < n; i++) {
        if (value % 2 == 0) value /= 2;
        else value = 3 * value + 1 + i;
    }
    out[threadIdx.x] = value + __shfl_sync(~0u, value, 31 - threadIdx.x % 32);
}

// Conversions and special functions, one thread per element.
extern "C" __global__ void convert(const float* x, __nv_bfloat16* rounded, float* back, int* whole, float* functions,
                                   int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    rounded[i] = __float2bfloat16_rn(x[i]);
    back[i] = __bfloat162float(rounded[i]);
    whole[i] = (int)x[i];
    functions[i] = __expf(x[i] * 0.01f) + tanhf(x[i]) + sqrtf(fabsf(x[i])) + (float)(unsigned char)i;
}
