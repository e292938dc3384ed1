//! Masks as COCO has them: lengths of runs, column by column, in letters
//! (<https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.h>).

use vision::frame::Mask;

/// The mask of each of `count` segments in a map of their numbers, as COCO's `counts`: what pycocotools takes beside the
/// size `[height, width]`.
pub fn of_labels(map: &Mask, count: usize) -> Vec<String> {
    let (width, height) = (map.width, map.height);
    let mut runs = vec![Runs::default(); count];
    let mut before: Option<u8> = None;
    for x in 0..width {
        for y in 0..height {
            let label = map.labels[y * width + x];
            if before == Some(label) {
                continue;
            }
            let at = x * height + y;
            for changed in [before, Some(label)].into_iter().flatten() {
                if let Some(runs) = runs.get_mut(usize::from(changed)) {
                    runs.turn(at);
                }
            }
            before = Some(label);
        }
    }
    runs.into_iter().map(|runs| runs.end(width * height)).collect()
}

/// The runs of one segment: pixels that are not its own, then ones that are, and so on.
#[derive(Debug, Clone, Default)]
struct Runs {
    text: String,
    /// Where the last run began.
    began: usize,
    /// The two runs before: a length is written as what it is more than the one before the last.
    before: [i64; 2],
    count: usize,
}

impl Runs {
    /// A run ends at this pixel.
    fn turn(&mut self, at: usize) {
        let length = i64::try_from(at - self.began).unwrap_or(i64::MAX);
        // COCO's own code writes the first three as they are.
        let more = if self.count > 2 {
            length - self.before[0]
        } else {
            length
        };
        write(&mut self.text, more);
        self.before = [self.before[1], length];
        self.began = at;
        self.count += 1;
    }

    fn end(mut self, pixels: usize) -> String {
        self.turn(pixels);
        self.text
    }
}

/// Five bits a letter, the lowest first; the sixth says that more follow, and the fifth of the last letter is the sign.
fn write(text: &mut String, mut value: i64) {
    loop {
        let bits = u8::try_from(value & 0x1f).unwrap_or(0);
        value >>= 5;
        let more = match bits & 0x10 {
            0 => value != 0,
            _ => value != -1,
        };
        text.push(char::from(bits + if more { 0x20 } else { 0 } + 48));
        if !more {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pixels of a mask, row by row, as COCO's own reader finds them.
    fn read(text: &str, width: usize, height: usize) -> Vec<bool> {
        let mut counts: Vec<i64> = Vec::new();
        let mut letters = text.bytes();
        while let Some(mut letter) = letters.next() {
            let (mut value, mut at) = (0_i64, 0);
            loop {
                let bits = i64::from(letter) - 48;
                value |= (bits & 0x1f) << (5 * at);
                at += 1;
                if bits & 0x20 == 0 {
                    if bits & 0x10 != 0 {
                        value |= -1 << (5 * at);
                    }
                    break;
                }
                letter = letters.next().unwrap();
            }
            if counts.len() > 2 {
                value += counts[counts.len() - 2];
            }
            counts.push(value);
        }
        let mut columns = Vec::new();
        for (number, count) in counts.iter().enumerate() {
            columns.extend(std::iter::repeat_n(
                number % 2 == 1,
                usize::try_from(*count).unwrap(),
            ));
        }
        assert_eq!(columns.len(), width * height);
        (0..height)
            .flat_map(|y| (0..width).map(move |x| x * height + y))
            .map(|at| columns[at])
            .collect()
    }

    proptest! {
        #[test]
        fn each_mask_is_read_back(
            (width, labels) in (1..40_usize).prop_flat_map(|width| {
                let rows = (1..40_usize).prop_flat_map(move |height| prop::collection::vec(0..4_u8, width * height));
                (Just(width), rows)
            }),
            smooth in 1..9_usize,
        ) {
            let height = labels.len() / width;
            // Runs as masks have them, beside noise.
            let labels: Vec<u8> = (0..labels.len()).map(|at| labels[at / smooth]).collect();
            let map = Mask { width, height, labels };
            let masks = of_labels(&map, 3);
            prop_assert_eq!(masks.len(), 3);
            for (number, text) in masks.iter().enumerate() {
                let expected: Vec<bool> = map.labels.iter().map(|label| usize::from(*label) == number).collect();
                prop_assert_eq!(read(text, width, height), expected);
            }
        }
    }

    #[test]
    fn a_mask_is_as_cocos_own_code_writes_it() {
        // Of a 100x100 picture, rows 30 to 69 and columns 20 to 59; made with pycocotools 2.0.
        let mut map = Mask::zeros(100, 100);
        for y in 30..70 {
            map.labels[y * 100 + 20..y * 100 + 60].fill(1);
        }
        assert_eq!(of_labels(&map, 2)[1], EXPECTED);
    }

    const EXPECTED: &str =
        "^o1X1l100000000000000000000000000000000000000000000000000000000000000000000000000000Rl3";
}
