//! The best vector instructions that the CPU has, chosen at run time.
//!
//! `by_cpu!` compiles a function once for each [`Level`] of its architecture, and the compiler vectorises each form. All
//! forms compute the same, except for the rounding of fused multiplications in kernels that use them. NEON belongs to
//! every aarch64 and SSE2 to every x86-64, so the portable form has them.

/// Instructions that this CPU has and that a form of each kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[doc(hidden)]
#[allow(missing_docs, reason = "for `by_cpu!` alone")]
pub enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What belongs to the architecture: every CPU has it.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// The best that this CPU has: on x86-64 [x86-64-v4, or x86-64-v3 with its AVX2 and FMA](https://gitlab.com/x86-psABIs/x86-64-ABI).
    #[inline]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            // The standard library asks the CPU once and remembers.
            if has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") {
                let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                return Self(if wide { Set::Avx512 } else { Set::Avx2 });
            }
        }
        Self::PORTABLE
    }

    /// All that this CPU has, the best last.
    pub fn available() -> Vec<Self> {
        let all = [
            Set::Portable,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512,
        ];
        let best = Self::best();
        all.map(Self).into_iter().filter(|&level| level <= best).collect()
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }

    #[doc(hidden)]
    #[allow(missing_docs, reason = "for `by_cpu!` alone")]
    pub fn set(self) -> Set {
        self.0
    }
}

/// What a form of a function may count on. A constant in each form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// `f32::mul_add` is one instruction.
    pub fused_multiply_add: bool,
}

impl Cpu {
    /// Every CPU of the architecture.
    pub const PORTABLE: Self = Self {
        fused_multiply_add: cfg!(target_arch = "aarch64"),
    };
    #[cfg(target_arch = "x86_64")]
    /// AVX2 and FMA, or AVX-512.
    pub const AVX2: Self = Self {
        fused_multiply_add: true,
    };
}

/// Defines a function that takes a [`Level`] as its first argument and is compiled for each level. In its body the first
/// name is the form's [`Cpu`].
///
/// A function that the body calls is compiled for the level only if it is inlined: `#[inline(always)]`.
#[macro_export]
macro_rules! by_cpu {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident(
        $cpu:ident, $($argument:ident: $kind:ty),* $(,)?
    ) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visibility fn $name(level: $crate::Level, $($argument: $kind),*) $(-> $result)? {
            use $crate::{Cpu, Set};
            #[inline(always)]
            fn form($cpu: Cpu, $($argument: $kind),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2")]
            fn avx2($($argument: $kind),*) $(-> $result)? {
                form(Cpu::AVX2, $($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $kind),*) $(-> $result)? {
                form(Cpu::AVX2, $($argument),*)
            }
            match level.set() {
                Set::Portable => form(Cpu::PORTABLE, $($argument),*),
                // SAFETY: a level exists only where the CPU has all that its form is compiled for.
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
#[cfg(test)]
mod tests {
    use super::*;

    by_cpu! {
        fn dot(cpu, a: &[f32], b: &[f32]) -> f32 {
            let add = |sum: f32, (a, b): (&f32, &f32)| match cpu.fused_multiply_add {
                true => a.mul_add(*b, sum),
                false => sum + a * b,
            };
            a.iter().zip(b).fold(0.0, add)
        }
    }

    #[test]
    fn every_form_that_the_cpu_has_runs() {
        let (a, b): (Vec<f32>, Vec<f32>) = (0..100_u8).map(|i| (f32::from(i), f32::from(100 - i))).unzip();
        let levels = Level::available();
        assert_eq!(
            (levels[0], *levels.last().unwrap()),
            (Level::PORTABLE, Level::best())
        );
        for level in levels {
            assert_eq!(dot(level, &a, &b), 166_650.0, "{}", level.as_str());
        }
    }
}
