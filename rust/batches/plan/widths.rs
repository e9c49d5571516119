//! The widths of the padded layout: as few as keep padding under a share of the batch, placed so that rows fill their
//! batches.

/// The share of padding that is worth no further width.
const ENOUGH_PADDING: f64 = 0.0125;

/// How many prices of a width are tried.
const PRICES: usize = 12;

/// Widths in ascending order for batches of up to `batch_tokens` elements, at most `most` of them; the last is
/// that of the longest row. `histogram[length]` counts the rows.
///
/// More widths pad less and make more shapes. So each width has a price, in elements: the fewest widths with padding
/// under [`ENOUGH_PADDING`] are searched for by bisecting the price, or else the least padding with `most` widths.
#[must_use]
pub fn choose_widths(histogram: &[u64], most: usize, batch_tokens: usize) -> Vec<usize> {
    let grid = Grid::new(histogram, batch_tokens);
    let tokens: u64 = histogram.iter().zip(0..).map(|(count, length)| count * length).sum();
    let enough = (tokens as f64 / (1.0 - ENOUGH_PADDING)) as u64;
    let (mut low, mut high) = (0.0, (tokens as f64).ln());
    // One width, should every price tried give more than `most`.
    let mut best = grid.choose(u64::MAX >> 16);
    for _ in 0..PRICES {
        let price: f64 = f64::midpoint(low, high);
        let choice = grid.choose(price.exp() as u64);
        let many = choice.widths.len() > most;
        let better = match (choice.elements <= enough, best.elements <= enough) {
            (true, true) => choice.widths.len() < best.widths.len(),
            _ => choice.elements < best.elements,
        };
        if many || choice.elements <= enough {
            low = price;
        } else {
            high = price;
        }
        if !many && better {
            best = choice;
        }
    }
    best.widths
}

/// Widths, and the elements of all batches that they give.
struct Choice {
    widths: Vec<usize>,
    elements: u64,
}

/// Where widths may lie, and what they cost.
struct Grid {
    /// Widths in ascending order; the last is that of the longest row.
    candidates: Vec<usize>,
    /// How many rows are no longer than each.
    rows_up_to: Vec<u64>,
    batch_tokens: usize,
}

impl Grid {
    fn new(histogram: &[u64], batch_tokens: usize) -> Self {
        // A width that no row needs is no better than the one before it.
        let candidates: Vec<usize> = (0..histogram.len()).filter(|&length| histogram[length] > 0).collect();
        let rows_up_to = candidates.iter().scan(0, |rows, &width| {
            *rows += histogram[width];
            Some(*rows)
        });
        let rows_up_to = rows_up_to.collect();
        Self { candidates, rows_up_to, batch_tokens }
    }

    /// The widths with the fewest elements at a price for each, found width by width: rows that do not fill the last
    /// batch of a width go up to the next, and what a width costs depends on the one before it alone, by its elements and
    /// by the rows that it has put into batches.
    ///
    /// Of several ways to a width the cheapest alone is followed; one that leaves fewer rows over might be cheaper in the
    /// end.
    fn choose(&self, price: u64) -> Choice {
        // For each width that can be the last so far: its full batches' elements and prices, the rows in them, its
        // candidate and the width before it.
        let (mut costs, mut batched, mut chosen) = (vec![0], vec![0], vec![(0, 0, 0)]);
        let last = self.candidates.len() - 1;
        for (number, (&width, &rows)) in self.candidates.iter().zip(&self.rows_up_to).enumerate() {
            let wide = width as u64;
            let ways = costs.iter().zip(&batched).map(|(cost, batched)| cost + (rows - batched) * wide);
            let (before, cost) =
                ways.enumerate().fold((0, u64::MAX), |least, way| if way.1 < least.1 { way } else { least });
            let waiting = rows - batched[before];
            let over = waiting % ((self.batch_tokens / width) as u64).max(1);
            // A width without a full batch only adds padding, but the last takes what is left.
            if over < waiting || number == last {
                costs.push(cost - over * wide + price);
                batched.push(rows - over);
                chosen.push((width, before, over * wide));
            }
        }
        let (mut widths, mut at) = (Vec::new(), chosen.len() - 1);
        let short = chosen[at].2;
        while at > 0 {
            widths.push(chosen[at].0);
            at = chosen[at].1;
        }
        widths.reverse();
        Choice { elements: costs[costs.len() - 1] + short - price * widths.len() as u64, widths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(lengths: &[usize]) -> Vec<u64> {
        let mut histogram = vec![0; lengths.iter().max().unwrap() + 1];
        for &length in lengths {
            histogram[length] += 1;
        }
        histogram
    }

    /// The elements of all batches, from the definition: rows in order of their length, what is over goes up.
    fn elements(histogram: &[u64], widths: &[usize], batch_tokens: usize) -> u64 {
        let (mut waiting, mut elements) = (0, 0);
        for (number, &width) in widths.iter().enumerate() {
            let low = if number == 0 { 0 } else { widths[number - 1] + 1 };
            waiting += histogram[low..=width.min(histogram.len() - 1)].iter().sum::<u64>();
            let rows = (batch_tokens / width).max(1) as u64;
            elements += waiting / rows * rows * width as u64;
            waiting %= rows;
        }
        elements + waiting * widths[widths.len() - 1] as u64
    }

    /// The least elements and prices over all choices of widths.
    fn least(histogram: &[u64], price: u64, batch_tokens: usize) -> u64 {
        let longest = histogram.len() - 1;
        let choices = (0_u32..1 << (longest - 1)).map(|subset| {
            let mut widths: Vec<usize> = (1..longest).filter(|width| subset >> (width - 1) & 1 == 1).collect();
            widths.push(longest);
            elements(histogram, &widths, batch_tokens) + price * widths.len() as u64
        });
        choices.min().unwrap()
    }

    proptest! {
        /// With one row a batch no row is ever over, so the cheapest way to each width is the best.
        #[test]
        fn widths_are_the_best_at_their_price(lengths in prop::collection::vec(1_usize..10, 1..60), price in 0_u64..40) {
            let histogram = counted(&lengths);
            let choice = Grid::new(&histogram, 1).choose(price);
            prop_assert_eq!(choice.elements, elements(&histogram, &choice.widths, 1));
            prop_assert_eq!(choice.elements + price * choice.widths.len() as u64, least(&histogram, price, 1));
        }

        /// With rows left over it says what it costs, and one width alone costs no less.
        #[test]
        fn the_choice_costs_what_it_says(
            lengths in prop::collection::vec(1_usize..10, 1..60), price in 0_u64..40, batch_tokens in 10_usize..40,
        ) {
            let histogram = counted(&lengths);
            let choice = Grid::new(&histogram, batch_tokens).choose(price);
            prop_assert_eq!(choice.elements, elements(&histogram, &choice.widths, batch_tokens));
            let paid = choice.elements + price * choice.widths.len() as u64;
            prop_assert!(paid <= elements(&histogram, &[histogram.len() - 1], batch_tokens) + price);
        }

        #[test]
        fn widths_keep_to_their_number(
            lengths in prop::collection::vec(1_usize..100, 1..300), most in 1_usize..9, batch_tokens in 100_usize..2000,
        ) {
            let histogram = counted(&lengths);
            let widths = choose_widths(&histogram, most, batch_tokens);
            prop_assert_eq!(*widths.last().unwrap(), histogram.len() - 1);
            prop_assert!(widths.is_sorted_by(|one, next| one < next) && widths.len() <= most);
        }
    }
}
