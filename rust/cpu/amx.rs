//! The instructions behind [`crate::cpu::matmul`]: tiles of 16 rows of 64 bytes, multiplied in pairs of bfloat16 numbers.
//!
//! A packed step is 32 numbers of the sum for a block of 32 rows (or columns), as two tiles: 16 rows x 16 pairs of the
//! left factor, 16 pairs x 16 columns of the right one.

use std::arch::asm;
use std::arch::x86_64::{
    __m256bh, __m256i, __m512i, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16, _mm512_add_ps, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_loadu_ps, _mm512_maskz_loadu_epi16, _mm512_or_si512,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows or columns of a tile.
const SIDE: usize = 16;
/// Rows or columns of a block: two tiles.
pub const TILE_BLOCK: usize = 2 * SIDE;
/// Numbers of each sum in a tile.
pub const STEP: usize = 32;
/// Numbers of a block in one step.
pub const PACKED_STEP: usize = TILE_BLOCK * STEP;

/// Whether the processor has the instructions, and Linux grants this process the registers.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && is_granted())
}

fn has_instructions() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let wide = is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16");
    if !wide {
        return false;
    }
    // AVX-512 came with leaf 7.
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    features & AMX_BF16 != 0 && features & AMX_TILE != 0
}

/// Asks Linux for the tile registers, which a process has only then.
fn is_granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call has no pointers; where it is unknown or refused it changes nothing.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// The tile registers of this thread, set up as eight of 16 rows x 64 bytes, given back when this goes.
pub struct Tiles(());

#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Tiles {
    /// Sets them up; [`is_available`] has said that this can be done.
    pub fn configure() -> Self {
        assert!(is_available());
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1;
        for tile in 0..8 {
            configuration.0[16 + 2 * tile] = 64;
            configuration.0[48 + tile] = SIDE as u8;
        }
        // SAFETY: the instructions are there, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instructions are there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// `sums` [BLOCK x BLOCK] = (`fresh`) or += the product of two packed blocks of as many steps. [`Tiles`] must be set up.
pub fn add_product(left: &[u16], right: &[u16], sums: &mut [f32], fresh: bool) {
    let steps = left.len() / PACKED_STEP;
    assert!(left.len() == right.len() && left.len() == steps * PACKED_STEP && sums.len() == TILE_BLOCK * TILE_BLOCK);
    if steps == 0 {
        if fresh {
            sums.fill(0.0);
        }
        return;
    }
    // SAFETY: each step reads 2,048 bytes of both factors, which are `steps` times as long; sums are 4,096 bytes.
    unsafe {
        if fresh {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        } else {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "tileloadd tmm2, [{sums} + {stride} + 2048]",
                "tileloadd tmm3, [{sums} + {stride} + 2112]",
                sums = in(reg) sums.as_ptr(), stride = in(reg) 128_usize, options(nostack, readonly)
            );
        }
        // The loads of a step among the products of the one before.
        asm!(
            "tileloadd tmm4, [{left} + {stride}]",
            "tileloadd tmm6, [{right} + {stride}]",
            "tileloadd tmm7, [{right} + {stride} + 1024]",
            "tileloadd tmm5, [{left} + {stride} + 1024]",
            "dec {steps}",
            "jz 3f",
            "2:",
            "add {left}, 2048",
            "add {right}, 2048",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{left} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm6, [{right} + {stride}]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm5, [{left} + {stride} + 1024]",
            "tileloadd tmm7, [{right} + {stride} + 1024]",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tilestored [{sums} + {rows}], tmm0",
            "tilestored [{sums} + {rows} + 64], tmm1",
            "tilestored [{sums} + {rows} + 2048], tmm2",
            "tilestored [{sums} + {rows} + 2112], tmm3",
            left = inout(reg) left.as_ptr() => _, right = inout(reg) right.as_ptr() => _,
            steps = inout(reg) steps => _, stride = in(reg) 64_usize,
            sums = in(reg) sums.as_mut_ptr(), rows = in(reg) 128_usize, options(nostack)
        );
    }
}

/// Writes the first `rows` rows and `columns` columns of `sums` [BLOCK x BLOCK], with `bias` [columns] added to each row,
/// as bfloat16: rounded to nearest, even on a tie. Rows of `product` are `stride` numbers apart.
///
/// # Safety
///
/// Those places of `product` must be there, and no other thread's.
pub unsafe fn write(
    sums: &[f32],
    (rows, columns): (usize, usize),
    bias: Option<&[u16]>,
    product: *mut u16,
    stride: usize,
) {
    assert!(is_available() && sums.len() == TILE_BLOCK * TILE_BLOCK && rows <= TILE_BLOCK && columns <= TILE_BLOCK);
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    let mask = first_of(columns);
    // SAFETY: the instructions are there; the rest is what the caller promised.
    unsafe { write_rows(sums, rows, [mask as u16, (mask >> SIDE) as u16], bias, product, stride) }
}

/// Those columns that `masks` have.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn write_rows(
    sums: &[f32],
    rows: usize,
    masks: [u16; 2],
    bias: Option<&[u16]>,
    product: *mut u16,
    stride: usize,
) {
    for (half, mask) in masks.into_iter().enumerate() {
        let added = bias.map_or(_mm512_setzero_ps(), |bias| {
            // SAFETY: what the mask leaves out is not read.
            let bits = unsafe { _mm256_maskz_loadu_epi16(mask, bias.as_ptr().wrapping_add(half * SIDE).cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        });
        for (row, sums) in sums.chunks_exact(TILE_BLOCK).take(rows).enumerate() {
            // SAFETY: half a row of sums is 16 numbers; what the mask leaves out is not written.
            unsafe {
                let numbers = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr().add(half * SIDE)), added);
                let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(numbers));
                let place = product.wrapping_add(row * stride + half * SIDE);
                _mm256_mask_storeu_epi16(place.cast(), mask, rounded);
            }
        }
    }
}

/// A mask of the first `count` of 32.
fn first_of(count: usize) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// One side of a product: `length` rows of the left factor or columns of the right one, `numbers` of each sum.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    data: &'a [u16],
    length: usize,
    numbers: usize,
    stride: usize,
    number_stride: usize,
    is_left: bool,
}

impl<'a> Factor<'a> {
    /// Number k of row or column x at `x * stride + k * number_stride`, all inside `data`; one of the strides is 1.
    pub fn new(
        data: &'a [u16],
        length: usize,
        numbers: usize,
        stride: usize,
        number_stride: usize,
        is_left: bool,
    ) -> Self {
        let last = length.saturating_sub(1) * stride + numbers.saturating_sub(1) * number_stride;
        assert!((stride == 1 || number_stride == 1) && (length * numbers == 0 || last < data.len()));
        Self { data, length, numbers, stride, number_stride, is_left }
    }

    /// Rows or columns.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Blocks of rows or columns.
    pub fn blocks(&self) -> usize {
        self.length.div_ceil(TILE_BLOCK)
    }

    /// Steps of the sum.
    pub fn steps(&self) -> usize {
        self.numbers.div_ceil(STEP)
    }

    /// Packs `steps` of the blocks from row or column `start` on, as many as `packed` has room for: one block after the
    /// other, [`PACKED_STEP`] numbers for each step.
    pub fn pack(&self, start: usize, steps: Range<usize>, packed: &mut [u16]) {
        let count = steps.len();
        let blocks = packed.len() / (count * PACKED_STEP).max(1);
        assert!(is_available() && packed.len() == blocks * count * PACKED_STEP);
        let mut pack_step = |block: usize, number: usize| {
            let tiles = &mut packed[(block * count + number) * PACKED_STEP..][..PACKED_STEP];
            for (half, tile) in tiles.chunks_exact_mut(SIDE * STEP).enumerate() {
                let start = start + block * TILE_BLOCK + half * SIDE;
                // SAFETY: the instructions are there.
                unsafe { self.pack_tile(start, (steps.start + number) * STEP, tile) };
            }
        };
        // In the order in which the numbers lie in memory.
        if self.number_stride == 1 {
            (0..blocks).for_each(|block| (0..count).for_each(|number| pack_step(block, number)));
        } else {
            (0..count).for_each(|number| (0..blocks).for_each(|block| pack_step(block, number)));
        }
    }

    /// 16 rows or columns from `start` on, 32 numbers of the sum from `number` on; zeros beyond the matrix.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn pack_tile(&self, start: usize, number: usize, tile: &mut [u16]) {
        let side = self.length.saturating_sub(start).min(SIDE);
        let numbers = self.numbers.saturating_sub(number).min(STEP);
        let mut lines = [_mm512_setzero_si512(); SIDE];
        let by_pairs = self.number_stride != 1;
        if by_pairs {
            // A line is a pair of numbers of 16 rows or columns, which lie side by side.
            let mask = first_of(side) as u16;
            for (pair, line) in lines.iter_mut().enumerate().take(numbers.div_ceil(2)) {
                let place = start + (number + 2 * pair) * self.number_stride;
                // SAFETY: the first is inside the matrix, the second only if the sum has that number; the mask leaves
                // out rows or columns that are not there.
                *line = unsafe {
                    let even = _mm256_maskz_loadu_epi16(mask, self.data.as_ptr().wrapping_add(place).cast());
                    let there = if 2 * pair + 1 < numbers { mask } else { 0 };
                    let place = place + self.number_stride;
                    let odd = _mm256_maskz_loadu_epi16(there, self.data.as_ptr().wrapping_add(place).cast());
                    let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
                    _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd)
                };
            }
        } else {
            // A line is one row or column, whose 32 numbers lie side by side.
            let mask = first_of(numbers);
            for (x, line) in lines.iter_mut().enumerate().take(side) {
                let place = (start + x) * self.stride + number;
                // SAFETY: the row or column is there, and the mask leaves out numbers that are not.
                *line = unsafe { _mm512_maskz_loadu_epi16(mask, self.data.as_ptr().wrapping_add(place).cast()) };
            }
        }
        if by_pairs == self.is_left {
            transpose(&mut lines);
        }
        for (line, place) in lines.into_iter().zip(tile.chunks_exact_mut(STEP)) {
            // SAFETY: a line is 64 bytes, and so is the place.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), line) };
        }
    }
}

/// Turns 16 lines of 16 pairs round.
#[target_feature(enable = "avx512f")]
fn transpose(lines: &mut [__m512i; SIDE]) {
    let mut twos = [_mm512_setzero_si512(); SIDE];
    for row in (0..SIDE).step_by(2) {
        twos[row] = _mm512_unpacklo_epi32(lines[row], lines[row + 1]);
        twos[row + 1] = _mm512_unpackhi_epi32(lines[row], lines[row + 1]);
    }
    // In a quarter of a line (128 bits): column 4 q + c of rows 4 g to 4 g + 3, in fours[4 g + c].
    let mut fours = [_mm512_setzero_si512(); SIDE];
    for group in (0..SIDE).step_by(4) {
        fours[group] = _mm512_unpacklo_epi64(twos[group], twos[group + 2]);
        fours[group + 1] = _mm512_unpackhi_epi64(twos[group], twos[group + 2]);
        fours[group + 2] = _mm512_unpacklo_epi64(twos[group + 1], twos[group + 3]);
        fours[group + 3] = _mm512_unpackhi_epi64(twos[group + 1], twos[group + 3]);
    }
    for column in 0..4 {
        let [a, b, c, d] = [fours[column], fours[column + 4], fours[column + 8], fours[column + 12]];
        let (even_low, odd_low) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_high, odd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        lines[column] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        lines[column + 4] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        lines[column + 8] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        lines[column + 12] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
}
