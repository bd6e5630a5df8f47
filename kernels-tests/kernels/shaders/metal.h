// Stands in for <metal_stdlib> where clang takes what naga writes for Metal as C++: the types and functions
// that kernels use, no looser than Metal's are about the types that they take. Address spaces are left out.
#define kernel
#define device
#define thread
#define threadgroup
#define constant const

typedef _Float16 half;
constexpr half operator""h(long double value) { return half(value); }

namespace metal {
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned long ulong;

template <class T, int N> struct vec_data;
template <class T> struct vec_data<T, 2> { T x, y; };
template <class T> struct vec_data<T, 3> { T x, y, z; };
template <class T> struct vec_data<T, 4> { T x, y, z, w; };

template <class T, int N> struct vec : vec_data<T, N> {
    vec() = default;
    vec(T all);
    vec(T x, T y) { static_assert(N == 2, "two of another number"); }
    vec(T x, T y, T z) { static_assert(N == 3, "three of another number"); }
    vec(T x, T y, T z, T w) { static_assert(N == 4, "four of another number"); }
    template <class U> explicit vec(vec<U, N> other);
    T& operator[](uint i);
    T operator[](uint i) const;
};

// What a function takes that must not decide the type.
template <class T> struct same_ { typedef T type; };
template <class T> using same = typename same_<T>::type;

#define OPERATOR(op)                                                                     \
    template <class T, int N> vec<T, N> operator op(vec<T, N> a, vec<T, N> b);           \
    template <class T, int N> vec<T, N> operator op(vec<T, N> a, same<T> b);             \
    template <class T, int N> vec<T, N> operator op(same<T> a, vec<T, N> b);             \
    template <class T, int N> vec<T, N>& operator op##=(vec<T, N>& a, vec<T, N> b);
OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/) OPERATOR(%) OPERATOR(&) OPERATOR(|) OPERATOR(^)
#undef OPERATOR
template <class T, int N> vec<T, N> operator-(vec<T, N> a);
#define COMPARISON(op) template <class T, int N> vec<bool, N> operator op(vec<T, N> a, vec<T, N> b);
COMPARISON(<) COMPARISON(>) COMPARISON(<=) COMPARISON(>=) COMPARISON(==) COMPARISON(!=)
#undef COMPARISON

#define VECTORS(T) typedef vec<T, 2> T##2; typedef vec<T, 3> T##3; typedef vec<T, 4> T##4;
VECTORS(float) VECTORS(half) VECTORS(int) VECTORS(uint) VECTORS(bool)
#undef VECTORS

template <class T> T abs(T x);
template <class T> T floor(T x);
template <class T> T sqrt(T x);
template <class T> T min(T a, T b);
template <class T> T max(T a, T b);
template <class T> T clamp(T x, T low, T high);
template <class T> T fma(T a, T b, T c);
template <class T, int N> T dot(vec<T, N> a, vec<T, N> b);
template <class T, int N> vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> second);
template <class T> T select(T a, T b, bool second);
template <class T> T simd_max(T x);
template <class T> T simd_broadcast(T x, ushort lane);
template <class T> T simd_shuffle(T x, ushort lane);
template <class T> T simd_shuffle_xor(T x, ushort mask);

enum memory_order { memory_order_relaxed };
struct atomic_uint {};
void atomic_store_explicit(atomic_uint* to, uint value, memory_order order);
uint atomic_load_explicit(const atomic_uint* from, memory_order order);

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags flags);

template <class T, int C, int R> struct simdgroup_matrix {};
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
template <class T, int C, int R>
void simdgroup_load(simdgroup_matrix<T, C, R>& to, const T* from, ulong row, vec<ulong, 2> origin,
                    bool transpose);
template <class T, int C, int R> void simdgroup_store(simdgroup_matrix<T, C, R> from, T* to, ulong row);
template <class T, class U, int C, int R>
void simdgroup_multiply_accumulate(simdgroup_matrix<T, C, R>& d, simdgroup_matrix<U, C, R> a,
                                   simdgroup_matrix<U, C, R> b, simdgroup_matrix<T, C, R> c);
} // namespace metal

template <class T, class U> T as_type(U bits) {
    static_assert(sizeof(T) == sizeof(U), "types of other sizes");
    return T();
}
