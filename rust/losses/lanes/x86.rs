//! AVX-512 and AVX2.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

use super::{EXP2, LEAST_EXPONENT, Lanes, ROUND, Work};

/// AVX-512 F and DQ.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// `work` with AVX-512, where the processor has it.
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
pub fn run_avx512(work: impl Work) {
    work.with(Avx512(()));
}

/// `work` with AVX2, where the processor has it.
#[target_feature(enable = "avx2,fma")]
pub fn run_avx2(work: impl Work) {
    work.with(Avx2(()));
}

/// The methods of [`Lanes`] that reach memory past the caches or ahead, by the names of the instructions.
macro_rules! memory {
    ($v:ty, $stream:ident, $stream_bits:ident, $load_bits:ident) => {
        #[inline(always)]
        fn stream_vector(self, v: $v, to: &mut [f32]) {
            if !to.as_ptr().addr().is_multiple_of(size_of::<$v>()) {
                return self.store(v, to);
            }
            assert!(to.len() >= Self::LANES);
            unsafe { $stream(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn stream<T: Copy>(self, from: &[T], to: &mut [T]) {
            assert!(from.len() == to.len());
            let step = size_of::<$v>() / size_of::<T>();
            let head = to.as_ptr().align_offset(size_of::<$v>()).min(to.len());
            to[..head].copy_from_slice(&from[..head]);
            let mut at = head;
            while at + step <= to.len() {
                unsafe { $stream_bits(to.as_mut_ptr().add(at).cast(), $load_bits(from.as_ptr().add(at).cast())) };
                at += step;
            }
            to[at..].copy_from_slice(&from[at..]);
        }
        #[inline(always)]
        fn fence(self) {
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    };
}

// SAFETY, of every block in this implementation: `Avx512` exists only where its instructions do, and memory is reached
// only inside slices whose lengths are asserted.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    one_instruction! {
        __m512, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps,
        _mm512_sub_ps, _mm512_mul_ps, _mm512_max_ps, _mm512_min_ps
    }
    memory!(__m512, _mm512_stream_ps, _mm512_stream_si512, _mm512_loadu_si512);

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        unsafe {
            // x less its floor.
            let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
            // In pairs, for the sake of a short chain of instructions that wait for one another.
            let low = _mm512_fmadd_ps(_mm512_set1_ps(EXP2[0]), f, _mm512_set1_ps(1.0));
            let middle = _mm512_fmadd_ps(_mm512_set1_ps(EXP2[2]), f, _mm512_set1_ps(EXP2[1]));
            let high = _mm512_fmadd_ps(_mm512_set1_ps(EXP2[4]), f, _mm512_set1_ps(EXP2[3]));
            let square = _mm512_mul_ps(f, f);
            let power = _mm512_fmadd_ps(_mm512_fmadd_ps(high, square, middle), square, low);
            // "Not less than" holds for NaN. `scalef` takes the floor of its second argument.
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST_EXPONENT));
            _mm512_maskz_scalef_ps(kept, power, x)
        }
    }
    #[inline(always)]
    fn power(self, n: __m512, _: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
    }
    #[inline(always)]
    fn select_small(self, u: __m512, bound: __m512, small: __m512, large: __m512) -> __m512 {
        unsafe {
            let is_small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(u), bound);
            _mm512_mask_blend_ps(is_small, large, small)
        }
    }
    #[inline(always)]
    fn mul_unless_zero(self, a: __m512, b: __m512) -> __m512 {
        unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, _mm512_setzero_ps());
            _mm512_maskz_mul_ps(kept, a, b)
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f64 {
        unsafe {
            let halves = (_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            _mm512_reduce_add_pd(_mm512_add_pd(_mm512_cvtps_pd(halves.0), _mm512_cvtps_pd(halves.1)))
        }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
}

// SAFETY, of every block in this implementation: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    one_instruction! {
        __m256, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps,
        _mm256_sub_ps, _mm256_mul_ps, _mm256_max_ps, _mm256_min_ps
    }
    memory!(__m256, _mm256_stream_ps, _mm256_stream_si256, _mm256_loadu_si256);

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        unsafe {
            // Where x is NaN or below -126 the exponent below is nonsense: NaN stays NaN, the rest is cleared at the end.
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
            let f = _mm256_sub_ps(x, n);
            let mut power = _mm256_set1_ps(EXP2[4]);
            for k in [3, 2, 1, 0] {
                power = _mm256_fmadd_ps(power, f, _mm256_set1_ps(EXP2[k]));
            }
            power = _mm256_fmadd_ps(power, f, _mm256_set1_ps(1.0));
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(ROUND))));
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            let scaled = _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_add_epi32(exponent, one)));
            let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(LEAST_EXPONENT));
            _mm256_and_ps(scaled, kept)
        }
    }
    #[inline(always)]
    fn power(self, _: __m256, rounded: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_castps_si256(_mm256_set1_ps(1.0))))
        }
    }
    #[inline(always)]
    fn select_small(self, u: __m256, bound: __m256, small: __m256, large: __m256) -> __m256 {
        unsafe {
            let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), u);
            _mm256_blendv_ps(large, small, _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude, bound))
        }
    }
    #[inline(always)]
    fn mul_unless_zero(self, a: __m256, b: __m256) -> __m256 {
        unsafe {
            let kept = _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, _mm256_setzero_ps());
            _mm256_and_ps(_mm256_mul_ps(a, b), kept)
        }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f64 {
        unsafe {
            let halves = (_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarters = _mm256_add_pd(_mm256_cvtps_pd(halves.0), _mm256_cvtps_pd(halves.1));
            let pairs = _mm_add_pd(_mm256_castpd256_pd128(quarters), _mm256_extractf128_pd::<1>(quarters));
            _mm_cvtsd_f64(_mm_add_sd(pairs, _mm_unpackhi_pd(pairs, pairs)))
        }
    }
}
