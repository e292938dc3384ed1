//! Class weights from how often classes occur.

use serde::{Deserialize, Serialize};

/// How much a pixel of each class counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Each pixel counts the same.
    #[default]
    None,
    /// `pixels / (classes * pixels of the class)`: each class counts the same.
    InverseFrequency,
    /// `median frequency / frequency`, where a class's frequency is its share of the pixels of those pictures that show it
    /// (Eigen and Fergus 2015, as SegNet uses it).
    MedianFrequency,
    /// `1 / ln(1.02 + share of the pixels)`: from 1.4 to 50, milder than the inverse (Paszke et al. 2016, ENet).
    Log,
}

/// How often each class occurs in a set of label pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStatistics {
    /// Pixels of each class.
    pub pixels: Vec<u64>,
    /// Labelled pixels of the pictures in which each class occurs.
    pub pixels_where_present: Vec<u64>,
}

impl ClassStatistics {
    /// No pixels of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            pixels: vec![0; classes],
            pixels_where_present: vec![0; classes],
        }
    }

    /// Counts a picture's labels `times` times; those that are no class are left out.
    pub fn add(&mut self, labels: &[u8], times: u64) {
        let mut counts = [0u64; 256];
        for &label in labels {
            counts[usize::from(label)] += 1;
        }
        let counts = &counts[..self.pixels.len()];
        let labelled: u64 = counts.iter().sum();
        for (class, &count) in counts.iter().enumerate() {
            if count > 0 {
                self.pixels[class] += count * times;
                self.pixels_where_present[class] += labelled * times;
            }
        }
    }

    /// The weight of each class; that of a class which never occurs is 1.
    #[must_use]
    pub fn weights(&self, balance: Balance) -> Vec<f32> {
        let classes = self.pixels.len();
        let total: u64 = self.pixels.iter().sum();
        let share = |class: usize| self.pixels[class] as f64 / total as f64;
        let frequency = |class: usize| self.pixels[class] as f64 / self.pixels_where_present[class] as f64;
        let present: Vec<usize> = (0..classes).filter(|&class| self.pixels[class] > 0).collect();
        let mut frequencies: Vec<f64> = present.iter().map(|&class| frequency(class)).collect();
        frequencies.sort_by(f64::total_cmp);
        let middle = frequencies.len() / 2;
        let median = match frequencies.len() {
            0 => 1.0,
            n if n % 2 == 1 => frequencies[middle],
            _ => f64::midpoint(frequencies[middle - 1], frequencies[middle]),
        };
        let mut weights = vec![1.0; classes];
        for class in present.iter().copied() {
            weights[class] = match balance {
                Balance::None => 1.0,
                Balance::InverseFrequency => 1.0 / (present.len() as f64 * share(class)),
                Balance::MedianFrequency => median / frequency(class),
                Balance::Log => 1.0 / (1.02 + share(class)).ln(),
            } as f32;
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vision::dataset::IGNORE;

    /// Two pictures: 6 pixels of class 0 and 2 of class 1; then 1 of class 1, 3 of class 2, 4 ignored. Class 3 never.
    fn statistics() -> ClassStatistics {
        let mut statistics = ClassStatistics::new(4);
        statistics.add(&[0, 0, 0, 0, 0, 0, 1, 1], 1);
        statistics.add(&[1, 2, 2, 2, IGNORE, IGNORE, IGNORE, IGNORE], 1);
        statistics
    }

    fn close(found: &[f32], expected: [f64; 4]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn weights_worked_by_hand() {
        let statistics = statistics();
        assert_eq!(statistics.pixels, [6, 3, 3, 0]);
        assert_eq!(statistics.pixels_where_present, [8, 12, 4, 0]);
        close(&statistics.weights(Balance::None), [1.0; 4]);
        // Shares 1/2, 1/4, 1/4 of three classes.
        close(
            &statistics.weights(Balance::InverseFrequency),
            [2.0 / 3.0, 4.0 / 3.0, 4.0 / 3.0, 1.0],
        );
        // Frequencies 3/4, 1/4, 3/4: the median is 3/4.
        close(
            &statistics.weights(Balance::MedianFrequency),
            [1.0, 3.0, 1.0, 1.0],
        );
        let log = |share: f64| 1.0 / (1.02 + share).ln();
        close(
            &statistics.weights(Balance::Log),
            [log(0.5), log(0.25), log(0.25), 1.0],
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two() {
        let mut statistics = ClassStatistics::new(2);
        statistics.add(&[0, 0, 0, 1], 5);
        // Frequencies 3/4 and 1/4: the median is 1/2.
        let weights = statistics.weights(Balance::MedianFrequency);
        assert!((weights[0] - 2.0 / 3.0).abs() < 1e-6 && (weights[1] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn without_pixels_every_class_weighs_one() {
        for balance in [Balance::InverseFrequency, Balance::MedianFrequency, Balance::Log] {
            assert_eq!(ClassStatistics::new(3).weights(balance), [1.0; 3]);
        }
    }
}
