//! Laws of the losses, for every instruction set of the machine.

use proptest::prelude::*;

use super::*;

/// Rows of random logits.
#[derive(Clone, Debug)]
struct Case {
    columns: usize,
    student: Vec<f32>,
    teacher: Vec<f32>,
    labels: Vec<i64>,
    weights: Vec<f32>,
    temperature: f32,
    mse: bool,
}

/// KL, cross-entropy and squared difference of the rows, and the gradient.
struct Outcome {
    losses: RowLosses,
    grad: Vec<f32>,
}

fn outcome(case: &Case, level: Level, threads: usize) -> Outcome {
    let mut grad = vec![f32::NAN; case.student.len()];
    let inputs = Inputs {
        student: case.student.chunks(case.columns).map(FloatRow::F32).collect(),
        teacher: case.teacher.chunks(case.columns).map(FloatRow::F32).collect(),
        labels: Some(&case.labels),
        row_weights: Some(&case.weights),
        grad: Some(grad.chunks_mut(case.columns).map(FloatRowMut::F32).collect()),
    };
    let mse_grad = if case.mse { 0.1 } else { 0.0 };
    let settings = LossSettings { temperature: case.temperature, kl_grad: 1.0, ce_grad: 1.0, mse_grad, threads, level };
    let losses = distillation_loss(inputs, settings).unwrap();
    Outcome { losses, grad }
}

/// Numbers that add up to something like a normal distribution of this width.
fn logit(width: f32) -> impl Strategy<Value = f32> {
    prop::array::uniform3(-1f32..1.0).prop_map(move |parts| width * parts.iter().sum::<f32>())
}

fn case() -> impl Strategy<Value = Case> {
    let columns = prop_oneof![1usize..40, Just(129), 1000usize..2200];
    let shape = (1usize..4, columns, prop_oneof![Just(0.01f32), Just(1.0), Just(8.0)]);
    shape.prop_flat_map(|(rows, columns, noise)| {
        (
            prop::collection::vec((logit(2.5), logit(noise)), rows * columns),
            prop::collection::vec(prop_oneof![Just(IGNORED), 0..columns as i64], rows),
            prop::collection::vec(prop_oneof![Just(1f32), Just(0.37), Just(0.0)], rows),
            prop_oneof![Just(1f32), Just(2.0), 0.5f32..20.0],
            any::<bool>(),
        )
            .prop_map(move |(logits, labels, weights, temperature, mse)| Case {
                columns,
                student: logits.iter().map(|(t, noise)| t + noise).collect(),
                teacher: logits.into_iter().map(|(t, _)| t).collect(),
                labels,
                weights,
                temperature,
                mse,
            })
    })
}

/// Whether all numbers are as near as `relative` of themselves plus `absolute`.
fn near(one: &[f32], other: &[f32], relative: f32, absolute: f32) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() <= absolute + relative * b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn instruction_sets_agree(case in case()) {
        let expected = outcome(&case, Level::Scalar, 1);
        for level in Level::available() {
            let found = outcome(&case, level, 2);
            prop_assert!(near(&found.losses.kl, &expected.losses.kl, 4e-6, 1e-12), "{level:?}");
            prop_assert!(near(&found.losses.ce, &expected.losses.ce, 2e-6, 1e-6), "{level:?}");
            prop_assert!(near(&found.losses.mse, &expected.losses.mse, 2e-6, 1e-12), "{level:?}");
            prop_assert!(near(&found.grad, &expected.grad, 8e-6, 1e-6), "{level:?}");
        }
    }

    #[test]
    fn gradient_rows_sum_to_zero_and_kl_is_not_negative(case in case()) {
        let case = Case { mse: false, ..case };
        for level in Level::available() {
            let found = outcome(&case, level, 1);
            prop_assert!(found.losses.kl.iter().all(|&kl| kl >= 0.0), "{level:?}");
            for row in found.grad.chunks(case.columns) {
                prop_assert!(row.iter().map(|&g| f64::from(g)).sum::<f64>().abs() < 4e-6, "{level:?}");
            }
        }
    }

    #[test]
    fn equal_logits_have_no_kl_and_no_gradient(case in case()) {
        let labels = vec![IGNORED; case.labels.len()];
        let case = Case { teacher: case.student.clone(), labels, ..case };
        for level in Level::available() {
            let found = outcome(&case, level, 1);
            prop_assert!(found.losses.kl.iter().chain(&found.grad).all(|&x| x == 0.0), "{level:?}");
        }
    }

    #[test]
    fn shifts_mean_nothing(case in case(), student_shift in -30f32..30.0, teacher_shift in -30f32..30.0) {
        let case = Case { mse: false, ..case };
        let shifted = Case {
            student: case.student.iter().map(|x| x + student_shift).collect(),
            teacher: case.teacher.iter().map(|x| x + teacher_shift).collect(),
            ..case.clone()
        };
        for level in Level::available() {
            let (one, other) = (outcome(&case, level, 1), outcome(&shifted, level, 1));
            // The shifted logits are rounded to 2e-6 of 1.
            prop_assert!(near(&other.losses.kl, &one.losses.kl, 1e-5, 1e-5), "{level:?}");
            prop_assert!(near(&other.losses.ce, &one.losses.ce, 1e-5, 1e-5), "{level:?}");
            prop_assert!(near(&other.grad, &one.grad, 1e-4, 1e-5), "{level:?}");
        }
    }

    #[test]
    fn the_order_of_the_vocabulary_means_nothing(case in case()) {
        let reverse = |x: &[f32]| x.chunks(case.columns).flat_map(|row| row.iter().rev().copied()).collect::<Vec<_>>();
        let mirror = |&label: &i64| if label == IGNORED { IGNORED } else { case.columns as i64 - 1 - label };
        let reversed = Case {
            student: reverse(&case.student),
            teacher: reverse(&case.teacher),
            labels: case.labels.iter().map(mirror).collect(),
            ..case.clone()
        };
        for level in Level::available() {
            let (one, other) = (outcome(&case, level, 1), outcome(&reversed, level, 1));
            prop_assert!(near(&other.losses.kl, &one.losses.kl, 4e-6, 1e-12), "{level:?}");
            prop_assert!(near(&other.losses.ce, &one.losses.ce, 2e-6, 1e-6), "{level:?}");
            prop_assert!(near(&reverse(&other.grad), &one.grad, 8e-6, 1e-6), "{level:?}");
        }
    }

    #[test]
    fn what_does_not_count_is_not_read(case in case()) {
        let rows = case.labels.len();
        let poisoned = |x: &[f32]| [x, &vec![f32::NAN; case.columns][..]].concat();
        let longer = Case {
            student: poisoned(&case.student),
            teacher: poisoned(&case.teacher),
            labels: [&case.labels[..], &[IGNORED]].concat(),
            weights: [&case.weights[..], &[0.0]].concat(),
            ..case.clone()
        };
        for level in Level::available() {
            let (one, other) = (outcome(&case, level, 1), outcome(&longer, level, 3));
            prop_assert_eq!(&other.losses.kl[..rows], &one.losses.kl[..]);
            prop_assert_eq!(&other.grad[..rows * case.columns], &one.grad[..]);
            prop_assert_eq!((other.losses.kl[rows], other.losses.ce[rows], other.losses.mse[rows]), (0.0, 0.0, 0.0));
            prop_assert!(other.grad[rows * case.columns..].iter().all(|&g| g == 0.0));
        }
    }

    #[test]
    fn columns_that_both_exclude_add_nothing(case in case(), extra in 1usize..40, far in any::<bool>()) {
        // -1e4 as models with a padded vocabulary have it, or -inf.
        let lowest = if far { -1e4 } else { f32::NEG_INFINITY };
        let padded = |x: &[f32]| -> Vec<f32> {
            x.chunks(case.columns).flat_map(|row| [row, &vec![lowest; extra][..]].concat()).collect()
        };
        let wider = Case {
            columns: case.columns + extra,
            student: padded(&case.student),
            teacher: padded(&case.teacher),
            mse: false,
            ..case.clone()
        };
        let case = Case { mse: false, ..case };
        for level in Level::available() {
            let (one, other) = (outcome(&case, level, 1), outcome(&wider, level, 1));
            prop_assert!(near(&other.losses.kl, &one.losses.kl, 4e-6, 1e-12), "{level:?}");
            prop_assert!(near(&other.losses.ce, &one.losses.ce, 2e-6, 1e-6), "{level:?}");
            for (wide, row) in other.grad.chunks(wider.columns).zip(one.grad.chunks(case.columns)) {
                prop_assert!(near(&wide[..case.columns], row, 8e-6, 1e-6), "{level:?}");
                prop_assert!(wide[case.columns..].iter().all(|&g| g == 0.0), "{level:?}");
            }
        }
    }

    #[test]
    fn logits_of_ten_thousand_stay_finite(case in case()) {
        let far = |x: &[f32]| x.iter().map(|x| 4e3 * x).collect::<Vec<_>>();
        let case = Case { student: far(&case.student), teacher: far(&case.teacher), mse: false, ..case };
        for level in Level::available() {
            let found = outcome(&case, level, 1);
            prop_assert!(found.losses.kl.iter().all(|&kl| kl.is_finite() && kl >= 0.0), "{level:?}");
            prop_assert!(found.losses.ce.iter().chain(&found.grad).all(|x| x.is_finite()), "{level:?}");
        }
    }
}
