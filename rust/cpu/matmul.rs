//! Products of bfloat16 matrices on processors with matrix instructions (AMX, under Linux): weights, states and gradients of linear
//! layers as they lie, in whichever order.
//!
//! The smaller factor is packed whole, once, by all threads; then each thread takes blocks of the larger one, packs
//! those for itself and multiplies them by everything. Sums are kept in float32 and rounded once, to nearest. No result
//! depends on the number of threads.

use std::cell::RefCell;

use crate::cpu::amx::{self as amx, Factor, PACKED_STEP, TILE_BLOCK};
use crate::cpu::threads;
use crate::error::{Error, Result};

/// Rows (or columns) of the larger factor that a thread takes at a time, at most.
const TAKEN: usize = 8 * TILE_BLOCK;

/// Steps of the sum that are packed together, at most: the blocks that a thread takes then fit in a core's second cache.
const STEPS_TOGETHER: usize = 32;

/// Packed numbers that are kept between calls, at most: 64 MB.
const MOST_KEPT: usize = 32 << 20;

/// A matrix of bfloat16 numbers, as their bits, one of whose strides is 1.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [u16],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` x `columns` numbers, the one in row r and column c at `r * row_stride + c * column_stride`.
    pub fn new(
        data: &'a [u16],
        (rows, columns): (usize, usize),
        (row_stride, column_stride): (usize, usize),
    ) -> Result<Self> {
        let last = rows.saturating_sub(1) * row_stride + columns.saturating_sub(1) * column_stride;
        if rows * columns > 0 && last >= data.len() {
            return Err(Error::invalid(format!("a matrix of {rows} x {columns} numbers goes beyond its memory")));
        }
        // Of a single row or column the other stride is the one that counts.
        let column_stride = if columns <= 1 && row_stride != 1 { 1 } else { column_stride };
        let row_stride = if rows <= 1 && column_stride != 1 { 1 } else { row_stride };
        if row_stride != 1 && column_stride != 1 {
            return Err(Error::invalid(format!(
                "a matrix with strides {row_stride} and {column_stride} cannot be multiplied; one must be 1"
            )));
        }
        Ok(Self { data, rows, columns, row_stride, column_stride })
    }

    /// As the left factor: its rows are multiplied.
    fn left(&self) -> Factor<'a> {
        Factor::new(self.data, self.rows, self.columns, self.row_stride, self.column_stride, true)
    }

    /// As the right factor: its columns are multiplied.
    fn right(&self) -> Factor<'a> {
        Factor::new(self.data, self.columns, self.rows, self.column_stride, self.row_stride, false)
    }
}

/// Whether [`multiply`] can be called: the processor has the instructions, and the system lets this process use them.
pub fn is_available() -> bool {
    amx::is_available()
}

/// `product` = `left` x `right`, with `bias` added to every row: row-major, as many columns as `right`.
pub fn multiply(
    left: Matrix<'_>,
    right: Matrix<'_>,
    bias: Option<&[u16]>,
    product: &mut [u16],
    threads: usize,
) -> Result<()> {
    let (rows, columns, numbers) = (left.rows, right.columns, left.columns);
    if right.rows != numbers || product.len() != rows * columns || bias.is_some_and(|bias| bias.len() != columns) {
        return Err(Error::invalid(format!(
            "a product of {rows} x {numbers} and {} x {columns} numbers does not fit {} numbers with {} of bias",
            right.rows,
            product.len(),
            bias.map_or(0, <[u16]>::len),
        )));
    }
    if !is_available() {
        return Err(Error::invalid("this processor has no matrix instructions, or the system keeps them".to_owned()));
    }
    if product.is_empty() {
        return Ok(());
    }
    let left_is_taken = rows >= columns;
    let (taken, shared) = if left_is_taken { (left.left(), right.right()) } else { (right.right(), left.left()) };
    let output = Output { start: product.as_mut_ptr(), rows, columns, bias, left_is_taken };
    SHARED.with_borrow_mut(|space| {
        let packed = space.fitting(shared.blocks() * shared.steps() * PACKED_STEP);
        pack_shared(&shared, packed, threads)?;
        let packed = &*packed;
        let mut width = TAKEN;
        while width > TILE_BLOCK && taken.length().div_ceil(width) < 3 * threads {
            width /= 2;
        }
        let mut items: Vec<usize> = (0..taken.length()).step_by(width).collect();
        threads::for_each(&mut items, threads, |&mut start| {
            multiply_taken(&taken, start, width, &shared, packed, &output);
        })?;
        if space.0.len() > MOST_KEPT {
            space.0 = Vec::new();
        }
        Ok(())
    })
}

thread_local! {
    /// The packed smaller factor.
    static SHARED: RefCell<Space<u16>> = const { RefCell::new(Space(Vec::new())) };
    /// The packed block of the larger one, and sums.
    static TAKEN_BLOCK: RefCell<(Space<u16>, Space<f32>)> =
        const { RefCell::new((Space(Vec::new()), Space(Vec::new()))) };
}

/// Memory that begins with a line of the processor's cache: a row of a tile that lies across two takes twice as long.
struct Space<T>(Vec<T>);

impl<T: Copy + Default> Space<T> {
    /// Numbers of a line, at most.
    const LINE: usize = 64 / size_of::<T>();

    /// The first `length` numbers, with what is left over in them; the space grows to that.
    fn fitting(&mut self, length: usize) -> &mut [T] {
        if self.0.len() < length + Self::LINE {
            self.0 = Vec::new();
            self.0 = Vec::with_capacity(length + Self::LINE);
            crate::cpu::memory::advise(self.0.as_ptr(), length * size_of::<T>());
            self.0.resize(length + Self::LINE, T::default());
        }
        let skipped = self.0.as_ptr().align_offset(64);
        &mut self.0[skipped..skipped + length]
    }
}

/// All blocks of a factor, each over all steps of the sum.
fn pack_shared(factor: &Factor<'_>, packed: &mut [u16], threads: usize) -> Result<()> {
    let each = TAKEN / TILE_BLOCK * factor.steps() * PACKED_STEP;
    if each == 0 {
        return Ok(());
    }
    let mut parts: Vec<_> = packed.chunks_mut(each).enumerate().collect();
    threads::for_each(&mut parts, threads, |(number, part)| factor.pack(*number * TAKEN, 0..factor.steps(), part))
}

/// `width` rows or columns from `start` on of the factor that is taken in parts, times all of the shared one.
fn multiply_taken(
    taken: &Factor<'_>,
    start: usize,
    width: usize,
    shared: &Factor<'_>,
    packed: &[u16],
    output: &Output<'_>,
) {
    let steps = taken.steps();
    let parts = steps.div_ceil(STEPS_TOGETHER).max(1);
    let together = steps.div_ceil(parts);
    let blocks = (taken.length() - start).min(width).div_ceil(TILE_BLOCK);
    TAKEN_BLOCK.with_borrow_mut(|(space, sums)| {
        let own = space.fitting(blocks * together * PACKED_STEP);
        let kept = if parts == 1 { 1 } else { blocks * shared.blocks() };
        let sums = sums.fitting(kept * TILE_BLOCK * TILE_BLOCK);
        let _tiles = amx::Tiles::configure();
        for part in 0..parts {
            let range = part * together..((part + 1) * together).min(steps);
            let each = range.len() * PACKED_STEP;
            taken.pack(start, range.clone(), &mut own[..blocks * each]);
            for other in 0..shared.blocks() {
                let from = (other * steps + range.start) * PACKED_STEP;
                let other_packed = &packed[from..from + each];
                for block in 0..blocks {
                    let own = &own[block * each..][..each];
                    let slot = if parts == 1 { 0 } else { other * blocks + block };
                    let sums = &mut sums[slot * TILE_BLOCK * TILE_BLOCK..][..TILE_BLOCK * TILE_BLOCK];
                    let (left, right) = if output.left_is_taken { (own, other_packed) } else { (other_packed, own) };
                    amx::add_product(left, right, sums, part == 0);
                    if part + 1 == parts {
                        output.write(start + block * TILE_BLOCK, other * TILE_BLOCK, sums);
                    }
                }
            }
        }
    });
}

/// Where the product goes.
struct Output<'a> {
    start: *mut u16,
    rows: usize,
    columns: usize,
    bias: Option<&'a [u16]>,
    left_is_taken: bool,
}

// SAFETY: threads write to blocks of the product that do not overlap.
unsafe impl Sync for Output<'_> {}

impl Output<'_> {
    /// Writes a block of sums, at the places `taken` and `shared` of the two factors, as far as the product reaches.
    fn write(&self, taken: usize, shared: usize, sums: &[f32]) {
        let (row, column) = if self.left_is_taken { (taken, shared) } else { (shared, taken) };
        let rows = (self.rows - row).min(TILE_BLOCK);
        let columns = (self.columns - column).min(TILE_BLOCK);
        let bias = self.bias.map(|bias| &bias[column..column + columns]);
        // SAFETY: the block is inside the product, and no other thread has it.
        unsafe {
            let place = self.start.add(row * self.columns + column);
            amx::write(sums, (rows, columns), bias, place, self.columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: u64) -> Vec<u16> {
        let draw = |place: u64| {
            let bits = (place ^ seed.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            bf16::from_f32((bits >> 40) as f32 / (1 << 23) as f32 - 1.0).to_bits()
        };
        (0..count as u64).map(draw).collect()
    }

    fn strides(turned: bool, rows: usize, columns: usize) -> (usize, usize) {
        if turned { (1, rows) } else { (columns, 1) }
    }

    fn number(bits: u16) -> f64 {
        bf16::from_bits(bits).to_f64()
    }

    /// Compares with sums in float64; what is around the product must stay.
    fn check(sizes: (usize, usize, usize), turned: (bool, bool), has_bias: bool, seed: u64) {
        let (rows, count, columns) = sizes;
        let (a, b, bias) =
            (numbers(rows * count, seed), numbers(count * columns, seed + 1), numbers(columns, seed + 2));
        let (at, bt) = (strides(turned.0, rows, count), strides(turned.1, count, columns));
        let run = |threads| {
            let mut product = vec![7_u16; rows * columns];
            let left = Matrix::new(&a, (rows, count), at).unwrap();
            let right = Matrix::new(&b, (count, columns), bt).unwrap();
            multiply(left, right, has_bias.then_some(&bias[..]), &mut product, threads).unwrap();
            product
        };
        let product = run(1);
        assert_eq!(product, run(3));
        for (place, &found) in product.iter().enumerate() {
            let (row, column) = (place / columns, place % columns);
            let terms = (0..count).map(|k| number(a[row * at.0 + k * at.1]) * number(b[k * bt.0 + column * bt.1]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let expected = sum + if has_bias { number(bias[column]) } else { 0.0 };
            // Half of the last of eight digits, and float32's rounding of each sum on the way.
            let allowed = expected.abs() * 2.0_f64.powi(-8) + size * 1e-5;
            assert!((number(found) - expected).abs() <= allowed, "{sizes:?} {turned:?} {row} {column}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn products_are_sums_of_products(
            rows in 1_usize..100,
            count in 0_usize..150,
            columns in 1_usize..100,
            turned: (bool, bool),
            has_bias: bool,
            seed in 0..u64::MAX - 2,
        ) {
            if is_available() {
                check((rows, count, columns), turned, has_bias, seed);
            }
        }
    }

    #[test]
    fn long_sums_and_long_sides() {
        if is_available() {
            for turned in [(false, false), (false, true), (true, false)] {
                check((5, 2500, 40), turned, true, 3);
                check((700, 40, 33), turned, false, 4);
                check((33, 1100, 300), turned, true, 5);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = [0_u16; 12];
        assert!(Matrix::new(&data, (3, 5), (5, 1)).is_err());
        assert!(Matrix::new(&data, (2, 3), (6, 2)).is_err());
        let matrix = Matrix::new(&data, (3, 4), (4, 1)).unwrap();
        assert!(multiply(matrix, matrix, None, &mut [0; 12], 1).is_err());
        let turned = Matrix::new(&data, (4, 3), (1, 4)).unwrap();
        assert!(multiply(matrix, turned, None, &mut [0; 8], 1).is_err());
        assert!(multiply(matrix, turned, Some(&[0; 2]), &mut [0; 9], 1).is_err());
    }
}
