// Read every point from its maps: one block a point, one layer of the grid a face.
#include "face.cuh"

#define THREADS 256
#define WARP 32
#define WARPS (THREADS / WARP)

// The sum over the block, the same for every thread. shared: room of its own for each call.
__device__ __forceinline__ Say sum(Say own, Say shared[WARPS]) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        Say other = {__shfl_down_sync(0xffffffffu, own.weight, apart), __shfl_down_sync(0xffffffffu, own.x, apart),
                     __shfl_down_sync(0xffffffffu, own.y, apart)};
        own = both(own, other);
    }
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = own;
    __syncthreads();
    Say whole = shared[0];
    for (int warp = 1; warp < WARPS; ++warp) whole = both(whole, shared[warp]);
    return whole;
}

// maps: (faces, 3 * points, cells); out: (faces, points, 3) x, y and score. Launched with THREADS threads a block.
extern "C" __global__ void decode_maps(const float* __restrict__ maps, const Region* __restrict__ regions,
                                       float* __restrict__ out, int points, int cells, int width, float stride) {
    __shared__ float tops[WARPS];
    __shared__ Say cores[WARPS], says[WARPS];
    size_t face = blockIdx.y;
    int point = blockIdx.x;
    const float* own = maps + face * 3 * points * cells;
    const float* scores = own + (size_t)point * cells;

    // The first cell stands in where a thread has no cell of its own.
    float top = scores[0];
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) top = higher(top, scores[cell]);
    for (int apart = WARP / 2; apart > 0; apart /= 2) top = higher(top, __shfl_down_sync(0xffffffffu, top, apart));
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = top;
    __syncthreads();
    top = tops[0];
    for (int warp = 1; warp < WARPS; ++warp) top = higher(top, tops[warp]);

    Say core = {0.0f, 0.0f, 0.0f};
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) core = both(core, core_of(scores, cell, width, top));
    core = sum(core, cores);
    Say say = {0.0f, 0.0f, 0.0f};
    for (int cell = threadIdx.x; cell < cells; cell += THREADS)
        say = both(say, say_of(own, points, cells, width, point, cell, core));
    say = sum(say, says);
    if (threadIdx.x == 0) place_point(top, say, stride, regions[face].back, out + (face * points + point) * 3);
}
