//! Which vector instructions are used: the processor is asked here alone, and `DISTILFAST_SIMD` rules text, batches and
//! losses alike.

use crate::error::{Error, Result};

/// A set of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F, BW, DQ, VL, and all of [`Self::Avx2`].
    Avx512,
    /// AVX2, FMA and the instructions on bits that came with them.
    Avx2,
    /// NEON, which every 64-bit Arm has (in tests, every processor: [`crate::neon`]).
    Neon,
    /// Plain Rust, anywhere.
    Scalar,
}

impl Level {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Scalar];

    /// Whether this processor has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(any(target_arch = "aarch64", test))]
            Self::Neon => true,
            Self::Scalar => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Those of this processor, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| level.is_available())
    }

    /// The fastest of this processor.
    #[must_use]
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::Scalar)
    }

    /// The fastest of this processor, or what `DISTILFAST_SIMD` names, to measure and test that.
    pub fn chosen() -> Result<Self> {
        match std::env::var("DISTILFAST_SIMD") {
            Ok(name) => Self::named("DISTILFAST_SIMD", &name),
            Err(_) => Ok(Self::best()),
        }
    }

    /// The one that `what` calls `name`; refuses one that this processor does not have.
    pub fn named(what: &str, name: &str) -> Result<Self> {
        Self::available().find(|level| level.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::available().map(Self::name).collect();
            let names = names.join(", ");
            Error::invalid(format!("{what}={name:?} is nothing that this machine can run; choose among {names}"))
        })
    }

    /// Its name to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        }
    }
}

/// Defines `$name(level, arguments)`, which runs the `#[inline(always)]` function `$body` compiled for `level`. The body
/// holds integers and no reordered sums, so that every level gives the same bits.
#[macro_export]
macro_rules! for_each_level {
    ($visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:path) => {
        #[allow(clippy::too_many_arguments, reason = "those of the body and one more")]
        $visible fn $name(level: $crate::simd::Level, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                $body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                $body($($argument),*)
            }
            match level {
                // SAFETY: `Level::available` offers a level only where the machine has its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                _ => $body($($argument),*),
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_processor_has_is_found_by_its_name() {
        for level in Level::ALL {
            match Level::named("level", level.name()) {
                Ok(found) => assert!(found == level && level.is_available()),
                Err(error) => {
                    assert!(!level.is_available());
                    assert!(error.to_string().contains(&format!("level={:?}", level.name())));
                }
            }
        }
        assert!(Level::named("level", "none").is_err());
        assert_eq!(Level::available().next(), Some(Level::best()));
    }
}
