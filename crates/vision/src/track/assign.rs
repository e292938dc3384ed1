//! The best assignment of rows to columns.

/// Finds which row goes with which column so that the sum of gains is largest; buffers are kept from call to call.
///
/// The Hungarian method with potentials, a row at a time (Jonker and Volgenant 1987): at most `rows * columns * rows`
/// steps.
#[derive(Debug, Default)]
pub struct Assignment {
    row_potentials: Vec<f64>,
    column_potentials: Vec<f64>,
    /// The row that has a column, counted from 1; 0 for none.
    row_of: Vec<usize>,
    least: Vec<f64>,
    before: Vec<usize>,
    used: Vec<bool>,
    /// For each row its column.
    column_of: Vec<Option<usize>>,
}

impl Assignment {
    /// For each row the column that it goes with. Pairs whose gain is not above 0 are not made.
    pub fn solve<G: Into<f64>>(
        &mut self,
        rows: usize,
        columns: usize,
        gain: impl Fn(usize, usize) -> G,
    ) -> &[Option<usize>] {
        self.column_of.clear();
        self.column_of.resize(rows, None);
        if rows == 0 || columns == 0 {
            return &self.column_of;
        }
        let turned = rows > columns;
        let (n, m) = if turned { (columns, rows) } else { (rows, columns) };
        let cost = |i: usize, j: usize| {
            let gain = if turned { gain(j, i) } else { gain(i, j) };
            -gain.into().max(0.0)
        };
        refill(&mut self.row_potentials, n + 1, 0.0);
        refill(&mut self.column_potentials, m + 1, 0.0);
        refill(&mut self.row_of, m + 1, 0);
        refill(&mut self.before, m + 1, 0);
        for row in 1..=n {
            self.row_of[0] = row;
            let mut column = 0;
            refill(&mut self.least, m + 1, f64::INFINITY);
            refill(&mut self.used, m + 1, false);
            // The shortest path to a column that is free.
            while self.row_of[column] != 0 {
                self.used[column] = true;
                let (from, mut step, mut next) = (self.row_of[column], f64::INFINITY, 0);
                for other in 1..=m {
                    if self.used[other] {
                        continue;
                    }
                    let reduced =
                        cost(from - 1, other - 1) - self.row_potentials[from] - self.column_potentials[other];
                    if reduced < self.least[other] {
                        self.least[other] = reduced;
                        self.before[other] = column;
                    }
                    if self.least[other] < step {
                        step = self.least[other];
                        next = other;
                    }
                }
                for other in 0..=m {
                    if self.used[other] {
                        self.row_potentials[self.row_of[other]] += step;
                        self.column_potentials[other] -= step;
                    } else {
                        self.least[other] -= step;
                    }
                }
                column = next;
            }
            while column != 0 {
                let from = self.before[column];
                self.row_of[column] = self.row_of[from];
                column = from;
            }
        }
        for column in 1..=m {
            let row = self.row_of[column];
            if row == 0 || cost(row - 1, column - 1) >= 0.0 {
                continue;
            }
            let (row, column) = if turned { (column, row) } else { (row, column) };
            self.column_of[row - 1] = Some(column - 1);
        }
        &self.column_of
    }
}

fn refill<T: Copy>(to: &mut Vec<T>, length: usize, value: T) {
    to.clear();
    to.resize(length, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The largest sum of gains, by trying everything.
    fn best(gains: &[Vec<f32>], row: usize, used: u32) -> f32 {
        let Some(own) = gains.get(row) else {
            return 0.0;
        };
        let without = best(gains, row + 1, used);
        let with = (0..own.len())
            .filter(|column| used >> column & 1 == 0 && own[*column] > 0.0)
            .map(|column| own[column] + best(gains, row + 1, used | 1 << column));
        with.fold(without, f32::max)
    }

    proptest! {
        #[test]
        fn the_sum_is_the_largest_there_is(
            (rows, columns) in (0..6_usize, 0..6_usize),
            list in prop::collection::vec(prop_oneof![Just(0.0_f32), Just(-1.0), Just(0.5), 0.0..1.0_f32], 36),
        ) {
            let gains: Vec<Vec<f32>> = (0..rows).map(|row| list[row * 6..row * 6 + columns].to_vec()).collect();
            let mut assignment = Assignment::default();
            // A larger one before must leave nothing behind.
            assignment.solve(6, 6, |row, column| list[row * 6 + column]);
            let found = assignment.solve(rows, columns, |row, column| gains[row][column]);
            prop_assert_eq!(found.len(), rows);
            let mut sum = 0.0;
            for (row, column) in found.iter().enumerate() {
                if let Some(column) = column {
                    prop_assert!(gains[row][*column] > 0.0);
                    prop_assert_eq!(found.iter().filter(|c| **c == Some(*column)).count(), 1);
                    sum += gains[row][*column];
                }
            }
            prop_assert!((sum - best(&gains, 0, 0)).abs() < 1e-5);
        }
    }
}
