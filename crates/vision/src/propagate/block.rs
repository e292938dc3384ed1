//! How much two blocks of 8x8 pixels differ.

use super::field::BLOCK;

/// The sum of absolute differences of the 8x8 blocks that start at `a_at` and `b_at`, both in rows of `stride`.
///
/// # Panics
/// If a block reaches beyond its slice.
#[inline]
pub fn block_difference(a: &[u8], a_at: usize, b: &[u8], b_at: usize, stride: usize) -> u32 {
    const { assert!(BLOCK == 8) };
    let a = &a[a_at..a_at + 7 * stride + BLOCK];
    let b = &b[b_at..b_at + 7 * stride + BLOCK];
    sum_of_differences(a, b, stride)
}

/// The eight bytes at `at` as one number.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// SSE2 belongs to every x86-64.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sum_of_differences(a: &[u8], b: &[u8], stride: usize) -> u32 {
    use std::arch::x86_64::{
        _mm_add_epi64, _mm_cvtsi128_si64, _mm_sad_epu8, _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64,
    };
    // SAFETY: SSE2 is part of the x86-64 baseline, and these operations touch no memory.
    unsafe {
        let mut sum = _mm_setzero_si128();
        for pair in 0..4 {
            let (upper, lower) = (2 * pair * stride, (2 * pair + 1) * stride);
            let rows_a = _mm_set_epi64x(eight(a, lower) as i64, eight(a, upper) as i64);
            let rows_b = _mm_set_epi64x(eight(b, lower) as i64, eight(b, upper) as i64);
            sum = _mm_add_epi64(sum, _mm_sad_epu8(rows_a, rows_b));
        }
        (_mm_cvtsi128_si64(sum) + _mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum))) as u32
    }
}

/// NEON belongs to every aarch64.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn sum_of_differences(a: &[u8], b: &[u8], stride: usize) -> u32 {
    use std::arch::aarch64::{vabal_u8, vaddlvq_u16, vcreate_u8, vdupq_n_u16};
    // SAFETY: NEON is part of the aarch64 baseline, and these operations touch no memory.
    unsafe {
        let mut sum = vdupq_n_u16(0);
        for row in 0..8 {
            let (row_a, row_b) = (eight(a, row * stride), eight(b, row * stride));
            sum = vabal_u8(sum, vcreate_u8(row_a), vcreate_u8(row_b));
        }
        vaddlvq_u16(sum)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn sum_of_differences(a: &[u8], b: &[u8], stride: usize) -> u32 {
    block_difference_reference(a, 0, b, 0, stride)
}

/// [`block_difference`] in its plainest form.
///
/// # Panics
/// As [`block_difference`].
pub fn block_difference_reference(a: &[u8], a_at: usize, b: &[u8], b_at: usize, stride: usize) -> u32 {
    let mut sum = 0;
    for row in 0..BLOCK {
        for column in 0..BLOCK {
            let offset = row * stride + column;
            sum += u32::from(a[a_at + offset].abs_diff(b[b_at + offset]));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_fast_form_is_the_reference(
            stride in 8_usize..40, a_at in 0_usize..20, b_at in 0_usize..20, bytes in prop::collection::vec(any::<u8>(), 700)
        ) {
            let (a, b) = bytes.split_at(350);
            prop_assert_eq!(
                block_difference(a, a_at, b, b_at, stride),
                block_difference_reference(a, a_at, b, b_at, stride)
            );
        }
    }

    #[test]
    fn the_largest_difference_fits() {
        assert_eq!(block_difference(&[0; 64], 0, &[255; 64], 0, 8), 64 * 255);
    }
}
