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

// maps: (faces, 3 * points, cells); out: (faces, points, 3) x, y and score. The dynamic shared memory holds the windows
// of the columns and rows, and, if `keep` is not 0, the scores, which are then read only once.
template <typename Value>
__device__ __forceinline__ void decode_point(const Value* __restrict__ maps, const Region* __restrict__ regions,
                                             float* __restrict__ out, int points, int cells, int width, float stride,
                                             int keep) {
    extern __shared__ __align__(16) float windows[];
    __shared__ float tops[WARPS];
    __shared__ WeightedSum center_sums[WARPS], point_sums[WARPS];
    size_t face = blockIdx.y;
    int point = blockIdx.x, height = cells / width;
    float* columns = windows;
    float* rows = windows + width;
    float* kept = rows + height;
    const Value* scores = maps + (face * 3 * points + point) * cells;
    const Value* x_offsets = scores + (size_t)points * cells;
    const Value* y_offsets = x_offsets + (size_t)points * cells;
    Place first = first_place(threadIdx.x, width), step = first_place(THREADS, width);
    float four[GROUP], x[GROUP], y[GROUP];

    // Threads that have no cell start with the first cell.
    float top = as_float(scores[0]);
    for (int cell = first.cell; cell < cells; cell += step.cell) {
        load_group(scores + cell, four);
        UNROLL
        for (int index = 0; index < GROUP; ++index) {
            top = maximum(top, four[index]);
            if (keep) kept[cell + index] = four[index];  // read by this thread alone
        }
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) top = maximum(top, __shfl_down_sync(0xffffffffu, top, offset));
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = top;
    __syncthreads();
    top = tops[0];
    for (int warp = 1; warp < WARPS; ++warp) top = maximum(top, tops[warp]);

    WeightedSum center = {0.0f, 0.0f, 0.0f};
    for (Place place = first; place.cell < cells; place = next_place(place, step, width)) {
        if (keep) load_group(kept + place.cell, four);
        else load_group(scores + place.cell, four);
        center = add(center, center_terms(four, place, top));
    }
    center = block_sum(center, center_sums);
    float center_x = center.x / center.weight, center_y = center.y / center.weight;
    for (int column = threadIdx.x; column < width; column += THREADS) columns[column] = window_at(column, center_x);
    for (int row = threadIdx.x; row < height; row += THREADS) rows[row] = window_at(row, center_y);
    __syncthreads();

    WeightedSum sum = {0.0f, 0.0f, 0.0f};
    for (Place place = first; place.cell < cells; place = next_place(place, step, width)) {
        if (keep) load_group(kept + place.cell, four);
        else load_group(scores + place.cell, four);
        load_group(x_offsets + place.cell, x);
        load_group(y_offsets + place.cell, y);
        sum = add(sum, point_terms(four, x, y, place, columns + place.column, rows[place.row]));
    }
    sum = block_sum(sum, point_sums);
    if (threadIdx.x == 0) write_point(top, sum, stride, regions[face].back, out + (face * points + point) * 3);
}

// Launched with THREADS threads per block.
extern "C" __global__ void decode_maps(const float* __restrict__ maps, const Region* __restrict__ regions,
                                       float* __restrict__ out, int points, int cells, int width, float stride,
                                       int keep) {
    decode_point(maps, regions, out, points, cells, width, stride, keep);
}

extern "C" __global__ void decode_half_maps(const unsigned short* __restrict__ maps,
                                            const Region* __restrict__ regions, float* __restrict__ out, int points,
                                            int cells, int width, float stride, int keep) {
    decode_point(maps, regions, out, points, cells, width, stride, keep);
}
