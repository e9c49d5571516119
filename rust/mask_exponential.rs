//! Exponential variates with the same bits on every machine.

/// `-ln(1 - v)` for `v = (draw + 1/2) / 2^52`, which grows with `draw`; `draw` has 52 bits. Only additions, products and
/// one division, so that it has the same bits everywhere.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
pub(crate) fn exponential(draw: u64) -> f64 {
    let rest = ((1_u64 << 53) - 1 - 2 * draw) as f64 / (1_u64 << 53) as f64;
    let bits = rest.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln(m) = 2 atanh((m - 1) / (m + 1)), |argument| <= 0.172.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut series = 0.0;
    for odd in (3..=19).rev().step_by(2) {
        series = series * square + f64::from(odd).recip();
    }
    let logarithm = 2.0 * ratio + 2.0 * ratio * (square * series);
    -(logarithm + f64::from(exponent) * std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_logarithm(draw in 0_u64..1 << 52) {
            let exact = -(-((draw as f64 + 0.5) / (1_u64 << 52) as f64)).ln_1p();
            prop_assert!((exponential(draw) - exact).abs() <= 1e-15 + 2e-14 * exact, "{} {exact}", exponential(draw));
        }
    }

    #[test]
    fn the_ends_are_finite_and_positive() {
        assert!(exponential(0) > 0.0 && exponential(0) < 1e-15);
        assert!((36.0..37.0).contains(&exponential((1 << 52) - 1)));
    }
}
