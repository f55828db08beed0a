//! Profiles measured on runs whose answers are known.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_reuse::profile::{ErtaCalibration, ErtaChoice, MagCalibration};
use tether_reuse::{Grid, ProfileData, ProfileError, RunPlan};

fn plan(steps: usize) -> RunPlan {
    let sigmas: Vec<f32> = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32).collect();
    RunPlan { grid: Grid { frames: 1, tokens: 2 }, ..RunPlan::new("m", "euler", "small", &sigmas) }
}

/// Residuals `r` that are the same for every element, at inputs that differ.
fn run(r: &[f32]) -> Vec<(Vec<f32>, Vec<f32>)> {
    r.iter()
        .enumerate()
        .map(|(step, r)| {
            let x: Vec<f32> = (0..4).map(|i| 0.25 * i as f32 - 0.1 * step as f32).collect();
            let v = x.iter().map(|x| x + r).collect();
            (x, v)
        })
        .collect()
}

#[test]
fn ertacache_finds_steps_lines_and_lengths() {
    let mut calibration = ErtaCalibration::new(plan(6));
    assert!(matches!(calibration.profile(&ErtaChoice::default(), ""), Err(ProfileError::Calibration(_))));
    let residuals = [10.0, 9.8, 9.5, 9.0, 8.9, 8.85];
    calibration.push(&run(&residuals)).unwrap();
    assert!(calibration.push(&run(&residuals[..5])).is_err());
    assert!(calibration.push(&run(&[10.0, f32::NAN, 9.5, 9.0, 8.9, 8.85])).is_err());
    for groups in [1, 2, 4] {
        let choice = ErtaChoice { groups, ..ErtaChoice::default() };
        let ProfileData::Erta(d) = calibration.profile(&choice, "").unwrap().data else { unreachable!() };
        // As the example by hand, less the last step.
        assert_eq!(d.reuse, [false, true, true, false, true, false]);
        // Every element errs by the same, so the line is flat wherever it has two points, and lies at the error.
        for g in 0..groups {
            let (a, b) = (d.a[groups + g], d.b[groups + g]);
            assert!(a.abs() < 1e-4 && (b - 0.2).abs() < 1e-4, "{a} {b}");
        }
        // The velocity changes by -0.3 to step 1 and errs by 0.2: a third is kept.
        assert!((d.phi[1] - 1.0 / 3.0).abs() < 1e-3, "{:?}", d.phi);
        assert_eq!((d.phi[0], d.phi[3], d.phi[5]), (1.0, 1.0, 1.0));
        assert_eq!((d.sigmas[0], d.sigmas[6]), (1.0, 0.0));
        assert!(d.sigmas.windows(2).all(|w| w[1] < w[0]));
    }
    let capped = ErtaChoice { max_consecutive: 1, warmup: 2, ..ErtaChoice::default() };
    assert_eq!(calibration.reuse(&capped), [false, false, true, false, true, false]);
    assert!(calibration.profile(&ErtaChoice { groups: 3, ..ErtaChoice::default() }, "").is_err());
}

#[test]
fn magcache_averages_ratios_over_tokens_and_runs() {
    let mut calibration = MagCalibration::new(plan(3));
    assert!(matches!(calibration.profile(""), Err(ProfileError::Calibration(_))));
    // Two tokens of two channels; ratios 1/2 and 1, then 2 and 2.
    let residuals = [vec![0.0, 2.0, 3.0, 4.0], vec![1.0, 0.0, 0.0, 5.0], vec![0.0, 2.0, 6.0, 8.0]];
    calibration.push(&residuals).unwrap();
    calibration.push(&[vec![1.0; 4], vec![1.0; 4], vec![1.0; 4]]).unwrap();
    let ProfileData::Mag { ratios } = calibration.profile("").unwrap().data else { unreachable!() };
    assert_eq!(ratios, [1.0, 0.875, 1.5]);
    assert!(calibration.push(&residuals[..2]).is_err());
    assert!(calibration.push(&[vec![1.0; 3], vec![1.0; 3], vec![1.0; 3]]).is_err());
}
