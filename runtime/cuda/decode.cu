// Decode every point from its maps: one block per point, grid.y counts the faces.
#include "face.cuh"

#define THREADS 256
#define WARP 32
#define WARPS (THREADS / WARP)

// The sum over the block, returned to every thread. shared: memory that no other call uses.
__device__ __forceinline__ WeightedSum block_sum(WeightedSum own, WeightedSum shared[WARPS]) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        WeightedSum other = {__shfl_down_sync(0xffffffffu, own.weight, offset),
                             __shfl_down_sync(0xffffffffu, own.x, offset),
                             __shfl_down_sync(0xffffffffu, own.y, offset)};
        own = add(own, other);
    }
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = own;
    __syncthreads();
    WeightedSum total = shared[0];
    for (int warp = 1; warp < WARPS; ++warp) total = add(total, shared[warp]);
    return total;
}

// maps: (faces, 3 * points, cells); out: (faces, points, 3) x, y and score. Launched with THREADS threads per block.
extern "C" __global__ void decode_maps(const float* __restrict__ maps, const Region* __restrict__ regions,
                                       float* __restrict__ out, int points, int cells, int width, float stride) {
    __shared__ float tops[WARPS];
    __shared__ WeightedSum center_sums[WARPS], point_sums[WARPS];
    size_t face = blockIdx.y;
    int point = blockIdx.x;
    const float* own = maps + face * 3 * points * cells;
    const float* scores = own + (size_t)point * cells;

    // Threads that have no cell start with the first cell.
    float top = scores[0];
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) top = maximum(top, scores[cell]);
    for (int offset = WARP / 2; offset > 0; offset /= 2) top = maximum(top, __shfl_down_sync(0xffffffffu, top, offset));
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = top;
    __syncthreads();
    top = tops[0];
    for (int warp = 1; warp < WARPS; ++warp) top = maximum(top, tops[warp]);

    WeightedSum center = {0.0f, 0.0f, 0.0f};
    for (int cell = threadIdx.x; cell < cells; cell += THREADS)
        center = add(center, center_term(scores, cell, width, top));
    center = block_sum(center, center_sums);
    WeightedSum sum = {0.0f, 0.0f, 0.0f};
    for (int cell = threadIdx.x; cell < cells; cell += THREADS)
        sum = add(sum, point_term(own, points, cells, width, point, cell, center));
    sum = block_sum(sum, point_sums);
    if (threadIdx.x == 0) write_point(top, sum, stride, regions[face].back, out + (face * points + point) * 3);
}
