//! Arithmetic over scores.

use tether_core::{CoreError, DType, HostTensor, Pool, ScoreOp, TokenEngine};

use super::assert_refused;
use crate::tensors::{poison, random, read};
use crate::{Op, assert_close, tolerance};

const TABLES: [[usize; 2]; 4] = [[1, 1], [3, 37], [4, 301], [2, 5000]];

/// What comes out of rows `x` and `y` of each head, straight from the definitions.
fn literal(op: &ScoreOp, x: &[Vec<f64>], y: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let each = |of: &dyn Fn(&[f64]) -> Vec<f64>| x.iter().map(|row| of(row)).collect::<Vec<_>>();
    let both = |of: &dyn Fn(f64, f64) -> f64| -> Vec<Vec<f64>> {
        let of_row = |(x, y): (&Vec<f64>, &Vec<f64>)| x.iter().zip(y).map(|(&x, &y)| of(x, y)).collect();
        x.iter().zip(y).map(of_row).collect()
    };
    let columns = x[0].len();
    match *op {
        ScoreOp::Linear { by, plus } => {
            each(&|row| row.iter().map(|x| x * f64::from(by) + f64::from(plus)).collect())
        }
        ScoreOp::Sum => both(&|x, y| x + y),
        ScoreOp::Product => both(&|x, y| x * y),
        ScoreOp::Columns { first, count, by, reversed } => each(&|row| {
            let mut row: Vec<f64> = row[first..first + count].iter().map(|x| x * f64::from(by)).collect();
            if reversed {
                row.reverse();
            }
            row
        }),
        ScoreOp::Ends { first, last, score } => {
            let highest = x.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
            let end = score.map_or(highest + 1.0, f64::from);
            each(&|row| [vec![end; first], row.to_vec(), vec![end; last]].concat())
        }
        ScoreOp::Repeat { times, columns } => {
            each(&|row| row.iter().flat_map(|&x| vec![x; times]).take(columns).collect())
        }
        ScoreOp::Smooth(over) => each(&|row| {
            let reach = over.size() as i64 / 2;
            let around =
                |at: i64| (at - reach..=at + reach).filter_map(|i| row.get(usize::try_from(i).ok()?));
            let smooth = |at: usize| match over {
                Pool::None => row[at],
                Pool::Mean(size) => around(at as i64).sum::<f64>() / size as f64,
                Pool::Max(_) => around(at as i64).copied().fold(f64::NEG_INFINITY, f64::max),
            };
            (0..row.len()).map(smooth).collect()
        }),
        ScoreOp::Softmax => each(&|row| {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(|x| x.exp() / total).collect()
        }),
        ScoreOp::PerHighest { first, last } => each(&|row| {
            let free = row[first..row.len() - last].iter().copied();
            let highest = free.fold(f64::from(f32::MIN_POSITIVE), f64::max);
            row.iter().map(|x| x / highest).collect()
        }),
        ScoreOp::Rank { size } => each(&|row| {
            let of_block = |block: &[f64]| -> Vec<f64> {
                let lower = |at: usize| {
                    let before = |i: &usize| block[*i] < block[at] || (block[*i] == block[at] && *i < at);
                    (0..block.len()).filter(before).count() as f64 / block.len() as f64
                };
                (0..block.len()).map(lower).collect()
            };
            row.chunks(size).flat_map(of_block).collect()
        }),
        ScoreOp::HeadMean => {
            let mean = |c: usize| x.iter().map(|row| row[c]).sum::<f64>() / x.len() as f64;
            vec![(0..columns).map(mean).collect(); x.len()]
        }
        ScoreOp::Finite => each(&|row| vec![if row.iter().all(|x| x.is_finite()) { 0.0 } else { f64::NAN }]),
        ScoreOp::Raise { count, first, last } => {
            let of_row = |(row, by): (&Vec<f64>, &Vec<f64>)| {
                let ends = |c: &usize| *c < first || *c >= columns - last;
                let best = |c: &usize| {
                    let better = |o: &usize| by[*o] > by[*c] || (by[*o] == by[*c] && o < c);
                    let before = (first..columns - last).filter(better).count();
                    ends(c) || before < count.saturating_sub(first + last)
                };
                (0..columns).map(|c| if best(&c) { f64::from(f32::MAX) } else { row[c] }).collect()
            };
            x.iter().zip(y).map(of_row).collect()
        }
        ScoreOp::SpanMeans { first, size, end } => {
            let of_span = |start: usize| {
                let span: Vec<f64> =
                    x.iter().flat_map(|row| row[start..end.min(start + size)].to_vec()).collect();
                span.iter().sum::<f64>() / span.len() as f64
            };
            vec![(first..end).step_by(size).map(of_span).collect()]
        }
        ScoreOp::Interleaved => {
            vec![(0..columns).flat_map(|c| x.iter().map(move |row| row[c])).collect()]
        }
        _ => panic!("arithmetic without an oracle: {op:?}"),
    }
}

/// Arithmetic over scores is what each operation says, and tables that do not fit are refused.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn works_with_scores<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    for (i, shape) in TABLES.into_iter().enumerate() {
        let columns = shape[1];
        let third = columns / 3;
        let [x, y] = [0, 1].map(|n| random(81 + 2 * i as u64 + n, &shape, DType::F32, 0.0));
        // Equal numbers are among them.
        let coarse = |t: &HostTensor| t.to_f32_vec().iter().map(|x| (x * 8.0).round() / 8.0).collect();
        let y = HostTensor::from_f32(&shape, coarse(&y))?;
        let table = |t: &HostTensor| -> Vec<Vec<f64>> {
            t.to_f32_vec().chunks_exact(columns).map(|row| row.iter().map(|&x| x.into()).collect()).collect()
        };
        let (on_x, on_y) = (engine.upload(&x)?, engine.upload(&y)?);
        for op in [
            ScoreOp::Linear { by: -0.5, plus: 0.25 },
            ScoreOp::Sum,
            ScoreOp::Product,
            ScoreOp::Columns { first: third, count: columns - third, by: 1.0, reversed: false },
            ScoreOp::Columns { first: 0, count: third.max(1), by: -1.0, reversed: true },
            ScoreOp::Ends { first: 3, last: 0, score: None },
            ScoreOp::Ends { first: 0, last: 5, score: Some(1.0) },
            ScoreOp::Repeat { times: 3, columns: (3 * columns).saturating_sub(2) },
            ScoreOp::Smooth(Pool::None),
            ScoreOp::Smooth(Pool::Mean(5)),
            ScoreOp::Smooth(Pool::Max(7)),
            ScoreOp::Softmax,
            ScoreOp::PerHighest { first: third, last: 0 },
            ScoreOp::Rank { size: 8 },
            ScoreOp::HeadMean,
            ScoreOp::Finite,
            ScoreOp::Raise { count: third, first: 0, last: 0 },
            ScoreOp::Raise { count: (third + 2).min(columns), first: 2.min(third), last: 1.min(third) },
            ScoreOp::SpanMeans { first: third, size: 7, end: columns },
            ScoreOp::Interleaved,
        ] {
            // Ranks and what is raised are told by the table that has equal numbers.
            let (first, second) = match op {
                ScoreOp::Rank { .. } => (&y, &x),
                _ => (&x, &y),
            };
            let (on_first, on_second) = match op {
                ScoreOp::Rank { .. } => (&on_y, &on_x),
                _ => (&on_x, &on_y),
            };
            let of = [on_first, on_second];
            let expected: Vec<f32> =
                literal(&op, &table(first), &table(second)).concat().iter().map(|&x| x as f32).collect();
            poison(engine, expected.len())?;
            let got = read(engine, &engine.score_op(&op, &of[..op.inputs()])?)?;
            let what = format!("{op:?} of {shape:?}");
            let shapes = [&shape[..]; 2];
            assert_eq!(got.shape(), op.shape(&shapes[..op.inputs()])?, "{what}");
            match op {
                ScoreOp::Columns { .. } | ScoreOp::Raise { .. } => {
                    assert_eq!(got.to_f32_vec(), expected, "{what}");
                }
                _ => assert_close(&what, &got.to_f32_vec(), &expected, tolerance(Op::Score, DType::F32)),
            }
        }
    }
    // A row for several rows.
    let (tall, short) = (random(91, &[6, 50], DType::F32, 0.0), random(92, &[2, 50], DType::F32, 0.0));
    let of = [&engine.upload(&tall)?, &engine.upload(&short)?];
    let (tall, short) = (tall.to_f32_vec(), short.to_f32_vec());
    let expected: Vec<f32> = (0..300).map(|i| tall[i] + short[i / 150 * 50 + i % 50]).collect();
    assert_eq!(read(engine, &engine.score_op(&ScoreOp::Sum, &of)?)?.to_f32_vec(), expected);
    let refused = engine.score_op(&ScoreOp::Sum, &[of[1], of[0]]);
    assert_refused!(refused, CoreError::ShapeMismatch { what: "scores", .. });

    let scores = random(77, &[4, 301], DType::F32, 0.0);
    let on_device = engine.upload(&scores)?;
    for (at, bad) in [(301 + 40, f32::NAN), (602, f32::INFINITY), (903, f32::NEG_INFINITY)] {
        // The largest number that there is does not hide another, and is none.
        let mut numbers = scores.to_f32_vec();
        numbers[301..].iter_mut().step_by(2).for_each(|x| *x = f32::MAX);
        numbers[at] = bad;
        let with_bad = engine.upload(&HostTensor::from_f32(&[4, 301], numbers)?)?;
        let checks = engine.score_op(&ScoreOp::Finite, &[&with_bad])?;
        let finite: Vec<bool> = read(engine, &checks)?.to_f32_vec().iter().map(|x| x.is_finite()).collect();
        let expected: Vec<bool> = (0..4).map(|head| head != at / 301).collect();
        assert_eq!(finite, expected, "what is no number shows");
    }
    let outside = ScoreOp::Columns { first: 1, count: 301, by: 1.0, reversed: false };
    let refused = engine.score_op(&outside, &[&on_device]);
    assert_refused!(refused, CoreError::Count { what: "columns of scores", .. });
    assert_refused!(engine.score_op(&ScoreOp::Sum, &[&on_device]), CoreError::Count { what: "scores", .. });
    let other = engine.upload(&random(78, &[4, 300], DType::F32, 0.0))?;
    let refused = engine.score_op(&ScoreOp::Product, &[&on_device, &other]);
    assert_refused!(refused, CoreError::ShapeMismatch { what: "scores", .. });
    let refused = engine.score_op(&ScoreOp::Rank { size: 0 }, &[&on_device]);
    assert_refused!(refused, CoreError::Geometry { field: "size", .. });
    let half = engine.upload(&random(79, &[4, 300], DType::F16, 0.0))?;
    assert_refused!(engine.score_op(&ScoreOp::Softmax, &[&half]), CoreError::DTypeMismatch { .. });
    Ok(())
}
