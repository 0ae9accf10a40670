// C = A B + bias for matrices of any size, transposed or not: a tile of C in registers, blocks of the operands packed in the
// order in which a tile reads them. The scheme is that of GotoBLAS and BLIS (Goto and van de Geijn, 2008, ACM Transactions on
// Mathematical Software 34(3); Van Zee and van de Geijn, 2015, 41(3)).
//
// A sum is added up in the same order whatever the number of threads.

#include "pages.h"
#include "rows.h"

#include <atomic>
#include <cstdlib>

namespace {

// A panel of B meets all panels of a block of A at so many depths: the panel stays in the first cache, the block in the second.
template <typename T> constexpr Index DEPTH = 16'384 / (PANEL<T> * Index(sizeof(T)));
constexpr Index BLOCK_ROWS = ROWS * 48, PART_PANELS = 4;
// What is packed at once of A and of B.
constexpr Index LEFT_BYTES = 1 << 24, RIGHT_BYTES = 1 << 22;

// Entry (i, k) is at i * outer + k * inner; one of the two is 1.
template <typename T> struct Matrix {
    const T* data;
    Index outer, inner;
};

// One panel, whose entries are `outer` apart. Those from `count` on are 0; `num_there` can be read.
template <Index WIDTH, typename T>
void pack_across(T* to, const T* data, Matrix<T> from, Index count, Index num_there, Index length) {
    constexpr Index last = (WIDTH - 1) / LANES<T> * LANES<T>;
    Index k = 0;
    // A square may write entries of the depth after its own: what belongs there is written later.
    if (from.inner == 1 && count == WIDTH && num_there >= last + LANES<T>)
        for (; k + LANES<T> < length; k += LANES<T>)
            for (Index i = last; i >= 0; i -= LANES<T>)
                transpose_square<T>(to + k * WIDTH + i, WIDTH, data + i * from.outer + k, from.outer);
    for (; k < length; ++k)
        for (Index i = 0; i < WIDTH; ++i) to[k * WIDTH + i] = i < count ? data[i * from.outer + k * from.inner] : T(0);
}

// Panels of WIDTH entries each, of the first `count` of `num_there` entries; what is missing of the last panel is 0. Rows of
// `from` are read as they lie in memory.
template <Index WIDTH, typename T> void pack(T* to, const T* data, Matrix<T> from, Index count, Index num_there, Index length) {
    Index i = 0;
    if (from.outer == 1)
        for (Index k = 0; k < length; ++k)
            for (i = 0; i + WIDTH <= count; i += WIDTH)
                std::memcpy(to + i * length + k * WIDTH, data + i + k * from.inner, WIDTH * sizeof(T));
    for (; i < count; i += WIDTH)
        pack_across<WIDTH>(to + i * length, data + i * from.outer, from, std::min(WIDTH, count - i), num_there - i, length);
}

// Memory for packed operands; the last one is kept for the next product, since new pages are filled with zeros first.
class Packed {
  public:
    explicit Packed(Index num_bytes) : size_(round_up(num_bytes, large)), memory_(kept_.exchange(nullptr)) {
        if (memory_ && memory_->size >= size_) return;
        std::free(memory_);
        memory_ = static_cast<Header*>(std::aligned_alloc(large, size_t(size_ + large)));
        if (!memory_) return;
        want_large_pages<char>(memory_, size_ + large);
        memory_->size = size_;
    }
    ~Packed() { std::free(kept_.exchange(memory_)); }
    Packed(const Packed&) = delete;
    Packed& operator=(const Packed&) = delete;

    // Null if out of memory.
    char* data() const { return memory_ ? reinterpret_cast<char*>(memory_) + page : nullptr; }

  private:
    struct Header {
        Index size;
    };
    static constexpr Index large = 1 << 21, page = 4'096;
    static inline std::atomic<Header*> kept_{nullptr};
    Index size_;
    Header* memory_;
};

// C's rows and columns: `num_rows` x `num_columns`, `depth` products in each sum.
template <typename T> struct Product {
    Matrix<T> left, right;  // entries (row, depth) and (column, depth)
    const T* bias;          // of each column; may be null
    T* to;
    Index num_rows, num_columns, depth, num_threads;

    // Returns false if out of memory.
    bool run() const {
        const Index length = depth_at_once();
        const Index rows = at_once(num_rows, LEFT_BYTES, ROWS, length);
        const Index columns = at_once(num_columns, RIGHT_BYTES, PANEL<T>, length);
        const Packed packed((rows + columns) * length * Index(sizeof(T)));
        T* const panels = reinterpret_cast<T*>(packed.data());
        if (!panels) return false;
        want_large_pages<T>(to, num_rows * num_columns);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
        for (Index row = 0; row < num_rows; row += rows)
            for (Index start = 0; start < depth; start += length) {
                const Index some = std::min(length, depth - start), some_rows = std::min(rows, num_rows - row);
                pack_all<ROWS>(panels, left, row, some_rows, num_rows, start, some);
                for (Index column = 0; column < num_columns; column += columns) {
                    const Index some_columns = std::min(columns, num_columns - column);
                    pack_all<PANEL<T>>(panels + rows * length, right, column, some_columns, num_columns, start, some);
#pragma omp barrier
                    multiply(panels, panels + rows * length, row, some_rows, column, some_columns, start, some);
                }
            }
        return true;
    }

  private:
    // Of all depths, those that are packed at once: as B lies in memory, so that few of its pages are needed twice. Looking up
    // a page takes as long as hundreds of products.
    Index depth_at_once() const {
        if (right.inner == 1) return depth;
        const Index most = RIGHT_BYTES / Index(sizeof(T)) / round_up(num_columns, PANEL<T>);
        return std::min(depth, std::max(most / DEPTH<T>, Index(1)) * DEPTH<T>);
    }

    // Of `count` rows or columns, those that are packed at once.
    static Index at_once(Index count, Index num_bytes, Index width, Index length) {
        const Index most = num_bytes / (length * Index(sizeof(T))) / width * width;
        return std::min(round_up(count, width), std::max(most, width));
    }

    // This thread's share, without waiting for the others'.
    template <Index WIDTH>
    void pack_all(T* panels, Matrix<T> from, Index first, Index count, Index num_all, Index start, Index length) const {
        // long pieces of the rows in memory, but some for every thread
        const Index group = std::clamp<Index>(count / WIDTH / (4 * num_threads), 4, 32) * WIDTH;
        const Index num_groups = (count + group - 1) / group;
#pragma omp for schedule(static) nowait
        for (Index task = 0; task < num_groups; ++task) {
            const Index i = task * group;
            pack<WIDTH>(panels + i * length, from.data + (first + i) * from.outer + start * from.inner, from,
                        std::min(group, count - i), num_all - first - i, length);
        }
    }

    // Ends when all threads have.
    void multiply(const T* left_panels, const T* right_panels, Index row, Index rows, Index column, Index columns, Index start,
                  Index length) const {
        constexpr Index part = PART_PANELS * PANEL<T>;
        const Index num_parts = (columns + part - 1) / part, num_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
#pragma omp for schedule(dynamic)
        for (Index task = 0; task < num_blocks * num_parts; ++task) {
            const Index first_column = task % num_parts * part, last_column = std::min(columns, first_column + part);
            const Index first_row = task / num_parts * BLOCK_ROWS, last_row = std::min(rows, first_row + BLOCK_ROWS);
            for (Index k = 0; k < length; k += DEPTH<T>)
                for (Index j = first_column; j < last_column; j += PANEL<T>)
                    for (Index i = first_row; i < last_row; i += ROWS)
                        add_tile(left_panels + i * length + k * ROWS, right_panels + j * length + k * PANEL<T>, row + i,
                                 column + j, std::min(DEPTH<T>, length - k), start + k > 0);
        }
    }

    void add_tile(const T* left_panel, const T* right_panel, Index row, Index column, Index length,
                  bool is_added) const {
        T* const target = to + row * num_columns + column;
        const Index rows = std::min<Index>(ROWS, num_rows - row), columns = std::min<Index>(PANEL<T>, num_columns - column);
        if (is_added)
            for (Index r = 0; r < rows; ++r) __builtin_prefetch(target + r * num_columns, 1);
        Tile<T> sums = {};
        accumulate<T, VECTORS>(sums, left_panel, 1, ROWS, right_panel, PANEL<T>, length);
        if (columns == PANEL<T> && rows == ROWS) {
            for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                T* const at = target + r * num_columns + v * LANES<T>;
                store(at, is_added ? load(at) + sums[r][v] : bias ? load(bias + column + v * LANES<T>) + sums[r][v] : sums[r][v]);
            });
            return;
        }
        T values[ROWS][PANEL<T>];
        for_tile<VECTORS>([&](int r, int v) { store(values[r] + v * LANES<T>, sums[r][v]); });
        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < columns; ++c) {
                T& at = target[r * num_columns + c];
                at = (is_added ? at : bias ? bias[column + c] : T(0)) + values[r][c];
            }
    }
};

template <typename T>
bool multiplied(const void* left, Index left_row, Index left_depth, const void* right, Index right_column, Index right_depth,
                const void* bias, void* to, Index num_rows, Index num_columns, Index depth, Index num_threads) {
    return Product<T>{{static_cast<const T*>(left), left_row, left_depth},
                      {static_cast<const T*>(right), right_column, right_depth},
                      static_cast<const T*>(bias), static_cast<T*>(to), num_rows, num_columns, depth, num_threads}
        .run();
}

}  // namespace

// to [rows, columns] = sum over depth of left (row, depth) right (column, depth), plus the bias of each column, which may be
// null. Strides in numbers. Returns false if out of memory.
extern "C" bool matrix_product(const void* left, Index left_row, Index left_depth, const void* right, Index right_column,
                               Index right_depth, const void* bias, void* to, Index num_rows, Index num_columns, Index depth,
                               bool is_double, Index num_threads) {
    auto* const chosen = is_double ? multiplied<double> : multiplied<float>;
    return chosen(left, left_row, left_depth, right, right_column, right_depth, bias, to, num_rows, num_columns, depth,
                  num_threads);
}
