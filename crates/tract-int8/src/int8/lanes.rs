//! The vector instructions that 8-bit convolutions are made of, as one trait with a form for each kind of CPU.
//!
//! All forms compute the same, bit for bit: sums of products of bytes are exact in 32 bits, and each is scaled and
//! rounded by itself.

/// Four channels of one pixel.
pub type Quad = [u8; 4];

/// Pixels that every form's vectors divide: rows of sums end on a multiple of it.
pub const ALIGN: usize = 16;

/// Instructions that 8-bit convolutions are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Plain Rust.
    Portable,
    /// AVX2: products of 16 bits, two at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// [AVX-VNNI](https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html#text=_mm256_dpbusd_avx_epi32):
    /// four products of bytes at a time, 256 bits wide.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX512-VNNI: the same, 512 bits wide.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// [SDOT](https://developer.arm.com/documentation/ddi0602/latest/SIMD-FP-Instructions/SDOT--vector---Dot-product-signed-arithmetic--vector--):
    /// the same, 128 bits wide. Cortex-A55, A75, A76 and later; not A53 and A72.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
}

impl Level {
    /// All that this CPU has, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "there is one level on other processors")]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma");
            if avx2 {
                levels.push(Self::Avx2);
            }
            if avx2 && has!("avxvnni") {
                levels.push(Self::AvxVnni);
            }
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                levels.push(Self::Avx512Vnni);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            levels.push(Self::Dotprod);
        }
        levels
    }

    /// The best that this CPU has.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// Whether networks of 8 bits run faster than the same in 32-bit float.
    pub fn is_fast(self) -> bool {
        self != Self::Portable
    }

    /// `portable`, `avx2`, `avx-vnni`, `avx512-vnni` or `dotprod`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => "dotprod",
        }
    }
}

/// Whether products of bytes and two neighbours of `weights` always fit 16 bits together: weights of 7 bits do.
pub(super) fn are_small(weights: [i8; 4]) -> bool {
    let [a, b, c, d] = weights.map(|w| u16::from(w.unsigned_abs()));
    a + b <= 128 && c + d <= 128
}

/// Vectors of `PIXELS` pixels of four channels, and of `PIXELS` sums.
///
/// # Safety
/// The methods may use instructions that the CPU must have: they may be called only in a function that was compiled for
/// the form's [`Level`], on a CPU that has it. Slices are checked.
pub(super) unsafe trait Lanes: Copy {
    /// Pixels of a vector; divides [`ALIGN`].
    const PIXELS: usize;
    /// What [`load`](Self::load) subtracts from each byte, because the CPU multiplies signed bytes.
    const OFFSET: i32 = 0;
    /// Four channels of each pixel.
    type Bytes: Copy;
    /// A 32-bit sum for each pixel.
    type Sums: Copy;

    /// The first [`PIXELS`](Self::PIXELS) of `from`.
    unsafe fn load(from: &[Quad]) -> Self::Bytes;
    /// Into the first [`PIXELS`](Self::PIXELS) of `to`.
    unsafe fn store(to: &mut [Quad], bytes: Self::Bytes);
    /// The same sum for each pixel.
    unsafe fn splat(sum: i32) -> Self::Sums;
    /// Adds to each pixel's sum the products of its four bytes, less the offset, and four weights.
    unsafe fn dot(sums: Self::Sums, bytes: Self::Bytes, weights: [i8; 4]) -> Self::Sums;
    /// `clamp(round(sum * scale) + zero, 0, 255)` for the sums of four channels; halves are rounded to the even number. The
    /// rounded products fit 32 bits ([`Filter::new`](super::filter::Filter::new) sees to that).
    unsafe fn requantize(sums: [Self::Sums; 4], scales: [f32; 4], zero: u8) -> Self::Bytes;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

// SAFETY: no instruction is used that a CPU may lack.
unsafe impl Lanes for Portable {
    const PIXELS: usize = 8;
    type Bytes = [Quad; 8];
    type Sums = [i32; 8];

    #[inline(always)]
    unsafe fn load(from: &[Quad]) -> Self::Bytes {
        let mut bytes = [[0; 4]; 8];
        bytes.copy_from_slice(&from[..8]);
        bytes
    }

    #[inline(always)]
    unsafe fn store(to: &mut [Quad], bytes: Self::Bytes) {
        to[..8].copy_from_slice(&bytes);
    }

    #[inline(always)]
    unsafe fn splat(sum: i32) -> Self::Sums {
        [sum; 8]
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, bytes: Self::Bytes, weights: [i8; 4]) -> Self::Sums {
        let product = |quad: Quad, at: usize| i32::from(quad[at]) * i32::from(weights[at]);
        std::array::from_fn(|i| {
            let quad = bytes[i];
            sums[i] + product(quad, 0) + product(quad, 1) + product(quad, 2) + product(quad, 3)
        })
    }

    #[inline(always)]
    unsafe fn requantize(sums: [Self::Sums; 4], scales: [f32; 4], zero: u8) -> Self::Bytes {
        std::array::from_fn(|pixel| {
            std::array::from_fn(|channel| requantize(sums[channel][pixel], scales[channel], zero))
        })
    }
}

/// `clamp(round(sum * scale) + zero, 0, 255)`; halves are rounded to the even number.
#[inline(always)]
fn requantize(sum: i32, scale: f32, zero: u8) -> u8 {
    let zero = f32::from(zero);
    let scaled = (sum as f32 * scale).clamp(-zero, 255.0 - zero);
    // Within 0 to 255 by the limits.
    (scaled.round_ties_even() + zero) as u8
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::Dotprod;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx2Small, Avx512, Vnni};

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::{Lanes, Quad};

    /// 128 bits, `sdot`.
    #[derive(Clone, Copy)]
    pub struct Dotprod;

    // SAFETY: the instructions need what the trait asks its callers for.
    unsafe impl Lanes for Dotprod {
        const PIXELS: usize = 4;
        const OFFSET: i32 = 128;
        type Bytes = int8x16_t;
        type Sums = int32x4_t;

        #[inline(always)]
        unsafe fn load(from: &[Quad]) -> int8x16_t {
            let from: &[Quad] = &from[..4];
            // SAFETY: 16 bytes, as was checked; unaligned.
            unsafe { vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.as_ptr().cast()), vdupq_n_u8(0x80))) }
        }

        #[inline(always)]
        unsafe fn store(to: &mut [Quad], bytes: int8x16_t) {
            let to: &mut [Quad] = &mut to[..4];
            // SAFETY: 16 bytes, as was checked; unaligned.
            unsafe { vst1q_u8(to.as_mut_ptr().cast(), vreinterpretq_u8_s8(bytes)) }
        }

        #[inline(always)]
        unsafe fn splat(sum: i32) -> int32x4_t {
            // SAFETY: NEON, by the trait's contract.
            unsafe { vdupq_n_s32(sum) }
        }

        #[inline(always)]
        unsafe fn dot(sums: int32x4_t, bytes: int8x16_t, weights: [i8; 4]) -> int32x4_t {
            let mut sums = sums;
            // The intrinsic, `vdotq_s32`, is not stable yet.
            // SAFETY: `sdot` by the trait's contract; registers only.
            unsafe {
                let weights = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(weights.map(|w| w as u8))));
                asm!(
                    "sdot {sums:v}.4s, {bytes:v}.16b, {weights:v}.16b",
                    sums = inout(vreg) sums,
                    bytes = in(vreg) bytes,
                    weights = in(vreg) weights,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }

        #[inline(always)]
        unsafe fn requantize(sums: [int32x4_t; 4], scales: [f32; 4], zero: u8) -> int8x16_t {
            let zero_f32 = f32::from(zero);
            // SAFETY: NEON, by the trait's contract.
            unsafe {
                let least = vdupq_n_f32(-zero_f32);
                let largest = vdupq_n_f32(255.0 - zero_f32);
                let zero = vdupq_n_s32(i32::from(zero));
                let channel = |at: usize| {
                    let scaled = vmulq_n_f32(vcvtq_f32_s32(sums[at]), scales[at]);
                    let limited = vminq_f32(vmaxq_f32(scaled, least), largest);
                    vaddq_s32(vcvtnq_s32_f32(limited), zero)
                };
                let low = vorrq_s32(channel(0), vshlq_n_s32::<8>(channel(1)));
                let high = vorrq_s32(channel(2), vshlq_n_s32::<8>(channel(3)));
                vreinterpretq_s8_s32(vorrq_s32(low, vshlq_n_s32::<16>(high)))
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Quad};

    /// 256 bits, `pmaddwd`.
    #[derive(Clone, Copy)]
    pub struct Avx2;
    /// 256 bits, `pmaddubsw`: for weights of which no two neighbours' magnitudes exceed 128 together
    /// ([`are_small`](super::are_small)).
    #[derive(Clone, Copy)]
    pub struct Avx2Small;
    /// 256 bits, `vpdpbusd`.
    #[derive(Clone, Copy)]
    pub struct Vnni;
    /// 512 bits, `vpdpbusd`.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    /// Four bytes of each of four channels to four channels of each of four pixels.
    const BY_PIXEL: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

    macro_rules! lanes_256 {
        ($lanes:ty, |$sums:ident, $bytes:ident, $weights:ident| $dot:block) => {
            // SAFETY: the intrinsics need what the trait asks its callers for.
            unsafe impl Lanes for $lanes {
                const PIXELS: usize = 8;
                type Bytes = __m256i;
                type Sums = __m256i;

                #[inline(always)]
                unsafe fn load(from: &[Quad]) -> __m256i {
                    let from: &[Quad] = &from[..8];
                    // SAFETY: 32 bytes, as was checked; unaligned.
                    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
                }

                #[inline(always)]
                unsafe fn store(to: &mut [Quad], bytes: __m256i) {
                    let to: &mut [Quad] = &mut to[..8];
                    // SAFETY: 32 bytes, as was checked; unaligned.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) }
                }

                #[inline(always)]
                unsafe fn splat(sum: i32) -> __m256i {
                    // SAFETY: AVX2, by the trait's contract.
                    unsafe { _mm256_set1_epi32(sum) }
                }

                #[inline(always)]
                unsafe fn dot($sums: __m256i, $bytes: __m256i, $weights: [i8; 4]) -> __m256i {
                    // SAFETY: the form's instructions, by the trait's contract.
                    unsafe { $dot }
                }

                #[inline(always)]
                unsafe fn requantize(sums: [__m256i; 4], scales: [f32; 4], zero: u8) -> __m256i {
                    // SAFETY: AVX2, by the trait's contract.
                    unsafe {
                        let channel = |at: usize| {
                            let scale = _mm256_set1_ps(scales[at]);
                            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[at]), scale))
                        };
                        // Saturation limits; it goes by 128 bits, in which each channel's four bytes then lie together.
                        let zero = _mm256_set1_epi16(i16::from(zero));
                        let low = _mm256_adds_epi16(_mm256_packs_epi32(channel(0), channel(1)), zero);
                        let high = _mm256_adds_epi16(_mm256_packs_epi32(channel(2), channel(3)), zero);
                        let order = _mm256_broadcastsi128_si256(_mm_loadu_si128(BY_PIXEL.as_ptr().cast()));
                        _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order)
                    }
                }
            }
        };
    }

    lanes_256!(Avx2, |sums, bytes, weights| {
        // `pmaddubsw` is shorter, and saturates; bytes 0 and 2 as 16 bits, then 1 and 3.
        let [w0, w1, w2, w3] = weights.map(|w| u32::from(i16::from(w) as u16));
        let even = _mm256_set1_epi32((w0 | w2 << 16) as i32);
        let odd = _mm256_set1_epi32((w1 | w3 << 16) as i32);
        let low = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
        let high = _mm256_srli_epi16::<8>(bytes);
        let two = _mm256_add_epi32(_mm256_madd_epi16(low, even), _mm256_madd_epi16(high, odd));
        _mm256_add_epi32(sums, two)
    });

    lanes_256!(Avx2Small, |sums, bytes, weights| {
        let weights = _mm256_set1_epi32(i32::from_le_bytes(weights.map(|w| w as u8)));
        // 255 * 128 fits 16 bits.
        let pairs = _mm256_maddubs_epi16(bytes, weights);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    });

    lanes_256!(Vnni, |sums, bytes, weights| {
        _mm256_dpbusd_avx_epi32(
            sums,
            bytes,
            _mm256_set1_epi32(i32::from_le_bytes(weights.map(|w| w as u8))),
        )
    });

    // SAFETY: the intrinsics need what the trait asks its callers for.
    unsafe impl Lanes for Avx512 {
        const PIXELS: usize = 16;
        type Bytes = __m512i;
        type Sums = __m512i;

        #[inline(always)]
        unsafe fn load(from: &[Quad]) -> __m512i {
            let from: &[Quad] = &from[..16];
            // SAFETY: 64 bytes, as was checked; unaligned.
            unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
        }

        #[inline(always)]
        unsafe fn store(to: &mut [Quad], bytes: __m512i) {
            let to: &mut [Quad] = &mut to[..16];
            // SAFETY: 64 bytes, as was checked; unaligned.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), bytes) }
        }

        #[inline(always)]
        unsafe fn splat(sum: i32) -> __m512i {
            // SAFETY: AVX-512, by the trait's contract.
            unsafe { _mm512_set1_epi32(sum) }
        }

        #[inline(always)]
        unsafe fn dot(sums: __m512i, bytes: __m512i, weights: [i8; 4]) -> __m512i {
            let weights = i32::from_le_bytes(weights.map(|w| w as u8));
            // SAFETY: AVX512-VNNI, by the trait's contract.
            unsafe { _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(weights)) }
        }

        #[inline(always)]
        unsafe fn requantize(sums: [__m512i; 4], scales: [f32; 4], zero: u8) -> __m512i {
            // SAFETY: AVX-512, by the trait's contract.
            unsafe {
                let channel = |at: usize| {
                    let scale = _mm512_set1_ps(scales[at]);
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[at]), scale))
                };
                // As with 256 bits.
                let zero = _mm512_set1_epi16(i16::from(zero));
                let low = _mm512_adds_epi16(_mm512_packs_epi32(channel(0), channel(1)), zero);
                let high = _mm512_adds_epi16(_mm512_packs_epi32(channel(2), channel(3)), zero);
                let order = _mm512_broadcast_i32x4(_mm_loadu_si128(BY_PIXEL.as_ptr().cast()));
                _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order)
            }
        }
    }
}
