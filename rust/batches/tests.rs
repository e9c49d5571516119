//! Laws of plans, masks and batches, for any rows.

use proptest::prelude::*;

use crate::batches::check::check;
use crate::batches::mask::{Masker, Masking, Vocabulary};
use crate::batches::plan::Plan;
use crate::batches::rows::samples::rows_of;
use crate::batches::{BatchScratch, Batches};
use crate::simd::Level;

const VOCABULARY: usize = 50;

fn batches_of(
    rows: &[Vec<u16>],
    chunk: usize,
    packed: bool,
    masking: &Masking,
    level: Level,
    threads: usize,
) -> Batches {
    let rows = rows_of(rows, chunk);
    let plan = Plan::new(&rows, packed, 128, 64).unwrap().0;
    let special: Vec<bool> = (0..VOCABULARY).map(|id| id < 5).collect();
    let checked = check(&rows, &special, masking.prob, threads).unwrap();
    let vocabulary = Vocabulary {
        special,
        word_starts: (0..VOCABULARY).map(|id| id % 3 > 0).collect(),
        mask_id: 4,
        occurrences: checked.occurrences.clone(),
        token_counts: checked.occurrences,
    };
    let masker = Masker::new(masking.clone(), &vocabulary, level).unwrap();
    let longest = (0..rows.len()).map(|row| rows.length(row)).max().unwrap();
    Batches {
        rows,
        plan,
        longest,
        masker,
        poor: checked.poor,
        pad_id: 0,
        seed: 3,
        batches_per_step: 2,
        sample_share: 0.3,
    }
}

fn written(batches: &Batches, number: u64, scratch: &mut BatchScratch) -> Vec<Vec<i64>> {
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
        let plan = Plan::new(&stored, packed, batch_tokens, 64).unwrap().0;
        let epoch = plan.epoch(seed, number, Level::best());
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
        let plain = batches_of(&rows, 80, packed, &masking, Level::Scalar, 1);
        let expected = written(&plain, 1, &mut BatchScratch::default());
        for level in Level::available() {
            let batches = batches_of(&rows, chunk, packed, &masking, level, threads);
            prop_assert_eq!(&written(&batches, 1, &mut BatchScratch::default()), &expected);
        }
    }

    #[test]
    fn memory_used_before_changes_nothing(rows in any_rows(), packed: bool, masking in any_masking()) {
        let batches = batches_of(&rows, 9, packed, &masking, Level::best(), 1);
        let mut scratch = BatchScratch::default();
        written(&batches, 0, &mut scratch);
        prop_assert_eq!(written(&batches, 1, &mut scratch), written(&batches, 1, &mut BatchScratch::default()));
    }

    #[test]
    fn steps_count_what_their_batches_hold(rows in any_rows(), packed: bool, masking in any_masking()) {
        let batches = batches_of(&rows, 9, packed, &masking, Level::best(), 1);
        let epoch = batches.epoch(0);
        let mut held = Vec::new();
        for (index, buffer) in written(&batches, 0, &mut BatchScratch::default()).iter().enumerate() {
            let layout = batches.layout(batches.shape(&epoch, index));
            let labels = &buffer[layout.labels..layout.labels + layout.capacity];
            held.push([buffer[layout.counts], labels.iter().filter(|&&label| label >= 0).count() as i64]);
        }
        for (index, buffer) in written(&batches, 0, &mut BatchScratch::default()).iter().enumerate() {
            let counts = batches.layout(batches.shape(&epoch, index)).counts;
            let step = held.chunks(2).nth(index / 2).unwrap();
            for kind in 0..2 {
                prop_assert_eq!(buffer[counts + 1 + kind], step.iter().map(|batch| batch[kind]).sum::<i64>());
            }
        }
    }

    #[test]
    fn samples_are_other_tokens_and_weigh_as_much_as_all(rows in any_rows(), packed: bool, masking in any_masking()) {
        let batches = batches_of(&rows, 9, packed, &masking, Level::best(), 1);
        let epoch = batches.epoch(0);
        let mut members = Vec::new();
        for (index, buffer) in written(&batches, 0, &mut BatchScratch::default()).iter().enumerate() {
            let layout = batches.layout(batches.shape(&epoch, index));
            let labels = &buffer[layout.labels..layout.labels + layout.capacity];
            let masked = buffer[layout.positions..layout.positions + layout.capacity].iter().zip(labels);
            let masked: Vec<i64> = masked.filter(|(_, label)| **label >= 0).map(|(&position, _)| position).collect();
            batches.plan.members(&epoch, index, &batches.rows, &mut members);
            let tokens = members.iter().flat_map(|member| member.start..member.start + member.length).map(i64::from);
            let others: Vec<i64> = tokens.filter(|position| !masked.contains(position)).collect();
            let sampled = &buffer[layout.sampled..layout.sampled + layout.samples];
            let weights = buffer[layout.weights..].iter().flat_map(|pair| [*pair as u32, (*pair >> 32) as u32]);
            let weights: Vec<f32> = weights.take(layout.samples).map(f32::from_bits).collect();
            let used = layout.samples.min(others.len());
            prop_assert!(sampled[..used].is_sorted_by(|one, next| one < next));
            prop_assert!(sampled[..used].iter().all(|position| others.contains(position)));
            let weight = if used > 0 { others.len() as f32 / used as f32 } else { 0.0 };
            prop_assert!(sampled[used..].iter().all(|&position| position == 0));
            let expected = [vec![weight; used], vec![0.0; layout.samples - used]].concat();
            prop_assert_eq!(weights, expected);
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
