//! Laws of plans, masks and batches, for any rows.

use proptest::prelude::*;

use crate::batches::check::check;
use crate::batches::mask::{Masker, Masking, Vocabulary};
use crate::batches::plan::packed::Packed;
use crate::batches::plan::padded::Padded;
use crate::batches::plan::widths::choose_widths;
use crate::batches::plan::{Plan, length_histogram};
use crate::batches::rows::Rows;
use crate::batches::rows::samples::rows_of;
use crate::batches::{Batches, Scratch};
use crate::simd::Simd;

const VOCABULARY: usize = 50;

fn plan_of(rows: &Rows, packed: bool, batch_tokens: usize) -> Plan {
    let histogram = length_histogram(rows, 64).unwrap();
    if packed {
        return Plan::Packed(Packed::new(rows, &histogram, batch_tokens).unwrap());
    }
    let widths = choose_widths(&histogram, 1, 64, 8, batch_tokens);
    Plan::Padded(Padded::new(rows, &histogram, &widths, batch_tokens).unwrap())
}

fn batches_of(rows: &[Vec<u16>], chunk: usize, packed: bool, masking: &Masking, simd: Simd, threads: usize) -> Batches {
    let rows = rows_of(rows, chunk);
    let plan = plan_of(&rows, packed, 128);
    let special: Vec<bool> = (0..VOCABULARY).map(|id| id < 5).collect();
    let checked = check(&rows, &special, masking.prob, threads).unwrap();
    let vocabulary = Vocabulary {
        special,
        word_starts: (0..VOCABULARY).map(|id| id % 3 > 0).collect(),
        mask_id: 4,
        occurrences: checked.occurrences.clone(),
        token_counts: checked.occurrences,
    };
    let masker = Masker::new(masking.clone(), &vocabulary, simd).unwrap();
    let longest = (0..rows.len()).map(|row| rows.length(row)).max().unwrap();
    Batches { rows, plan, longest, masker, poor: checked.poor, pad_id: 0, seed: 3, batches_per_step: 2 }
}

fn written(batches: &Batches, number: u64, scratch: &mut Scratch) -> Vec<Vec<i64>> {
    let epoch = batches.epoch(number);
    let write = |index| {
        let mut buffer = vec![0; batches.layout(batches.shape(&epoch, index)).end];
        batches.fill(&epoch, index, &mut buffer, scratch);
        buffer
    };
    (0..batches.len()).map(write).collect()
}

prop_compose! {
    fn any_masking()(
        prob in 0.01_f64..1.0, smoothing in prop_oneof![Just(0.0), Just(0.7)], whole_word: bool, exact: bool,
        random_specials: bool,
    ) -> Masking {
        let smoothing = if exact { smoothing } else { 0.0 };
        Masking { prob, mask: 0.8, random: 0.1, smoothing, whole_word, exact, random_specials }
    }
}

fn any_rows() -> impl Strategy<Value = Vec<Vec<u16>>> {
    prop::collection::vec(prop::collection::vec(0_u16..VOCABULARY as u16, 1..64), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_in_one_batch(rows in any_rows(), packed: bool, batch_tokens in 64_usize..400, seed: u64, number in 0_u64..9) {
        let stored = rows_of(&rows, 7);
        let plan = plan_of(&stored, packed, batch_tokens);
        let epoch = plan.epoch(seed, number, Simd::available()[0]);
        let (mut members, mut seen, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..plan.len() {
            let shape = plan.members(&epoch, index, &stored, &mut members);
            prop_assert!(shape.rows * shape.width <= batch_tokens);
            prop_assert_eq!(shape, plan.shape(&epoch, index));
            let mut end = 0;
            for member in &members {
                prop_assert_eq!(member.length as usize, rows[member.row as usize].len());
                prop_assert!(member.start >= end);
                end = member.start + member.length;
            }
            prop_assert!(end as usize <= shape.rows * shape.width);
            let tokens: usize = members.iter().map(|member| member.length as usize).sum();
            seen.extend(members.iter().map(|member| member.row));
            shapes.push((shape.rows, shape.width));
            prop_assert_eq!(plan.tokens(&epoch, index, &stored, &mut members), tokens);
        }
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..rows.len() as u32));
        for (shape, count) in plan.shapes() {
            prop_assert_eq!(shapes.iter().filter(|&&found| found == (shape.rows, shape.width)).count(), count);
        }
    }

    #[test]
    fn instruction_sets_chunks_and_threads_give_the_same_bits(
        rows in any_rows(), packed: bool, masking in any_masking(), chunk in 1_usize..20, threads in 1_usize..5,
    ) {
        let plain = batches_of(&rows, 80, packed, &masking, Simd::Baseline, 1);
        let expected = written(&plain, 1, &mut Scratch::default());
        for simd in Simd::available() {
            let batches = batches_of(&rows, chunk, packed, &masking, simd, threads);
            prop_assert_eq!(&written(&batches, 1, &mut Scratch::default()), &expected);
        }
    }

    #[test]
    fn memory_used_before_changes_nothing(rows in any_rows(), packed: bool, masking in any_masking()) {
        let batches = batches_of(&rows, 9, packed, &masking, Simd::available()[0], 1);
        let mut scratch = Scratch::default();
        written(&batches, 0, &mut scratch);
        prop_assert_eq!(written(&batches, 1, &mut scratch), written(&batches, 1, &mut Scratch::default()));
    }

    #[test]
    fn steps_count_what_their_batches_hold(rows in any_rows(), packed: bool, masking in any_masking()) {
        let batches = batches_of(&rows, 9, packed, &masking, Simd::available()[0], 1);
        let epoch = batches.epoch(0);
        let mut held = Vec::new();
        for (index, buffer) in written(&batches, 0, &mut Scratch::default()).iter().enumerate() {
            let layout = batches.layout(batches.shape(&epoch, index));
            let labels = &buffer[layout.labels..layout.labels + layout.capacity];
            held.push([buffer[layout.counts], labels.iter().filter(|&&label| label >= 0).count() as i64]);
        }
        for (index, buffer) in written(&batches, 0, &mut Scratch::default()).iter().enumerate() {
            let counts = batches.layout(batches.shape(&epoch, index)).counts;
            let step = held.chunks(2).nth(index / 2).unwrap();
            for kind in 0..2 {
                prop_assert_eq!(buffer[counts + 1 + kind], step.iter().map(|batch| batch[kind]).sum::<i64>());
            }
        }
    }
}

#[test]
fn the_hash_tells_rows_and_their_order_apart() {
    let hash = |rows: &[Vec<u16>]| check(&rows_of(rows, 2), &[false; 9], 0.1, 1).unwrap().hash;
    let base = hash(&[vec![1, 2, 3], vec![4, 5]]);
    assert_eq!(base, check(&rows_of(&[vec![1, 2, 3], vec![4, 5]], 1), &[false; 9], 0.1, 3).unwrap().hash);
    for other in [[vec![4, 5], vec![1, 2, 3]], [vec![1, 2], vec![3, 4, 5]], [vec![2, 1, 3], vec![4, 5]]] {
        assert_ne!(base, hash(&other));
    }
}
